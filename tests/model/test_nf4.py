"""NF4: the published levels, the size, the error, and a product that keeps no dequantised matrix."""

import pytest
import torch
from torch import nn

from wyrmling.model import nf4


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def linear(rows: int, columns: int, *, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(columns, rows, bias=bias)
    layer.weight.data = normal(rows, columns)
    return layer.requires_grad_(False)


def test_codes_are_those_of_bitsandbytes() -> None:
    # bitsandbytes 0.50.2, quantize_4bit(torch.linspace(-1, 1, 64).mul(0.3).view(1, 64), blocksize=64, quant_type="nf4")
    expected = [
        0, 0, 1, 17, 17, 17, 18, 34, 34, 51, 52, 68, 69, 85, 102, 103, 120, 136, 153, 170, 171, 187, 204, 204, 221, 221,
        238, 238, 238, 239, 255, 255,
    ]  # fmt: skip
    codes, *_ = nf4.quantise(torch.linspace(-1, 1, 64).mul(0.3).view(1, 64))
    assert codes.tolist() == expected


def test_a_weight_takes_0_516_bytes() -> None:
    layer = nf4.NF4Linear(linear(512, 512))
    stored = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
    assert stored / 512**2 == pytest.approx(0.516, abs=1e-3)
    assert sum(p.numel() for p in layer.parameters()) == 0


@pytest.mark.parametrize("shape", [(64, 64), (3, 7), (130, 65), (256, 192)])
def test_the_error_is_that_of_the_best_level_in_each_block(shape: tuple[int, int]) -> None:
    weight = normal(*shape)
    back = nf4.NF4Linear(linear(*shape)).matrix(torch.float32)
    assert back.shape == weight.shape
    # 9.2 % of the standard deviation is what NF4 with blocks of 64 loses on normal weights (measured with bitsandbytes)
    assert float((back - weight).std() / weight.std()) < 0.11
    # half of the widest gap between two levels, of the largest weight; 1 % for the 8-bit scales
    assert float((back - weight).abs().max()) <= float(weight.abs().max()) * (0.152 + 0.01)


def test_zeros_stay_zeros_and_outliers_only_spoil_their_block() -> None:
    weight = normal(4, 64)
    weight[1] = 0
    clean = nf4.NF4Linear(linear(4, 64)).matrix(torch.float32)[3]
    weight[0, 5] = 40.0
    layer = nn.Linear(64, 4, bias=False)
    layer.weight.data = weight
    back = nf4.NF4Linear(layer).matrix(torch.float32)
    assert torch.equal(back[1], torch.zeros(64))
    assert float(back[0, 5]) == pytest.approx(40, rel=0.01)
    # the scales share a unit, so the other blocks move by that unit: 1/127 of the largest scale
    assert float((back[3] - clean).abs().max()) < 40 / 127


@pytest.mark.parametrize("bias", [False, True])
def test_the_product_and_its_gradient_are_those_of_the_dequantised_matrix(bias: bool) -> None:
    layer = nf4.NF4Linear(linear(48, 32, bias=bias))
    x, same_x = (normal(10, 32, seed=2).requires_grad_() for _ in range(2))
    out, expected = layer(x), nn.functional.linear(same_x, layer.matrix(torch.float32), layer.bias)
    weights = normal(10, 48, seed=3)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(out, expected)
    assert x.grad is not None and same_x.grad is not None and torch.allclose(x.grad, same_x.grad, atol=1e-7)


def test_nothing_of_the_matrix_is_kept_for_backward() -> None:
    layer, x = nf4.NF4Linear(linear(48, 32)), normal(10, 32).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x).sum().backward()
    assert not kept


def test_under_autocast_the_product_is_in_bfloat16() -> None:
    layer, x = nf4.NF4Linear(linear(48, 32)), normal(10, 32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    assert torch.allclose(out.float(), layer(x), atol=0.02)


def test_only_linear_layers_can_be_put_into_4_bits() -> None:
    with pytest.raises(TypeError, match="1 is a ReLU"):
        nf4.to_nf4(nn.Sequential(linear(8, 8), nn.ReLU()), ["0", "1"])
