"""The hand-written gradient is the one autograd would find."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from wyrmling.model.kernels import rms_norm


@pytest.mark.parametrize("shape", [(7, 6), (5, 3, 4), (1, 2)])
def test_rms_norm_and_its_gradient_are_torchs(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape[-1], generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(rms_norm(x, weight, 1e-5), F.rms_norm(x, shape[-1:], weight, 1e-5), rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x, weight: rms_norm(x, weight, 1e-5), (x, weight))


def test_rms_norm_with_a_weight_for_each_head_is_torchs_for_each_head():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([F.rms_norm(x[:, h], (4,), weight[h], 1e-5) for h in range(3)], dim=1)
    assert torch.allclose(rms_norm(x, weight, 1e-5), expected, rtol=1e-12)
    with torch.no_grad():
        assert torch.allclose(rms_norm(x.float(), weight.float(), 1e-5), expected.float(), rtol=1e-5, atol=1e-6)
    assert torch.autograd.gradcheck(lambda x, weight: rms_norm(x, weight, 1e-5), (x, weight))


def test_rms_norm_of_bfloat16_is_close_to_float32_in_value_and_gradient():
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    weight = torch.linspace(0.5, 2, 32)
    pulls = {}
    for dtype in (torch.float32, torch.bfloat16):
        inputs = x.to(dtype, copy=True).requires_grad_(), weight.clone().requires_grad_()
        out = rms_norm(*inputs, 1e-5)
        assert out.dtype == dtype
        out.float().square().sum().backward()
        pulls[dtype] = [out.detach().float(), *(i.grad.float() for i in inputs)]
    for exact, rough in zip(pulls[torch.float32], pulls[torch.bfloat16], strict=True):
        # bfloat16 keeps 8 bits: single values are off by up to 1 %.
        assert (exact - rough).abs().max() < 0.02 * exact.abs().max()


def test_rms_norm_of_zeros_is_zero_with_a_finite_gradient():
    x = torch.zeros(3, 4, requires_grad=True)
    out = rms_norm(x, torch.ones(4, requires_grad=True), 1e-5)
    out.sum().backward()
    assert torch.equal(out.detach(), torch.zeros(3, 4))
    assert bool(x.grad.isfinite().all())
