"""The chunked loss against F.cross_entropy."""

import pytest
import torch
import torch.nn.functional as F

from wyrmling.train import cross_entropy
from wyrmling.train.cross_entropy import cross_entropy_sum


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("cap", "smoothing"), [(None, 0.0), (1.5, 0.0), (None, 0.2), (1.5, 0.2)])
@pytest.mark.parametrize("rows", [1, 7, 64, 65])
def test_loss_and_gradients_are_those_of_torch(
    rows: int, cap: float | None, smoothing: float, with_bias: bool, ignored: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ROWS", 16)
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 5, dtype=torch.float64, generator=generator)
    weight = torch.randn(11, 5, dtype=torch.float64, generator=generator)
    bias = torch.randn(11, dtype=torch.float64, generator=generator) if with_bias else None
    targets = torch.randint(11, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < ignored] = -100
    inputs = [hidden, weight] + ([bias] if bias is not None else [])
    ours = [tensor.clone().requires_grad_() for tensor in inputs]
    theirs = [tensor.clone().requires_grad_() for tensor in inputs]
    loss, count = cross_entropy_sum(
        ours[0], ours[1], targets, ours[2] if with_bias else None, cap=cap, smoothing=smoothing
    )
    logits = F.linear(*theirs)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    judge = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    assert count == int((targets != -100).sum())
    torch.testing.assert_close(loss, judge, rtol=1e-12, atol=1e-12)
    # a scaled loss, so that the incoming gradient is not 1
    (loss * 0.37).backward()
    (judge * 0.37).backward()
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-11, atol=1e-12)


def test_a_frozen_output_matrix_gets_no_gradient() -> None:
    hidden = torch.randn(6, 4, requires_grad=True)
    weight = torch.randn(9, 4)
    loss, _ = cross_entropy_sum(hidden, weight, torch.arange(6))
    loss.backward()
    assert hidden.grad is not None and weight.grad is None


def test_bfloat16_inputs_give_a_float32_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 32, generator=generator)
    weight = torch.randn(300, 32, generator=generator)
    targets = torch.randint(300, (700,), generator=generator)
    loss, _ = cross_entropy_sum(hidden.bfloat16(), weight.bfloat16(), targets)
    judge = F.cross_entropy(hidden.bfloat16().float() @ weight.bfloat16().float().T, targets, reduction="sum")
    assert loss.dtype == torch.float32
    # only the products are rounded to 8 bits; the sums are not
    torch.testing.assert_close(loss, judge, rtol=2e-3, atol=0)


def test_under_autocast_the_gradients_keep_the_parameters_type() -> None:
    hidden, weight = torch.randn(40, 8, requires_grad=True), torch.randn(12, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = cross_entropy_sum(hidden, weight, torch.randint(12, (40,)))
    loss.backward()
    assert loss.dtype == torch.float32
    assert hidden.grad is not None and hidden.grad.dtype == torch.float32
    assert weight.grad is not None and weight.grad.dtype == torch.float32
