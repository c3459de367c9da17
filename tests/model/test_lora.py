"""Low-rank corrections: the formula, its gradients, and the parts of a stacked layer."""

import copy

import pytest
import torch
from torch import Tensor, nn

from wyrmling.model.lora import Branch, LoraLinear, Part, scale_of
from wyrmling.model.nf4 import NF4Linear

PARTS = [Part(slice(0, 5), 0.5), Part(slice(9, 12), 2.0)]


def layer_of(*, bias: bool = False, nf4: bool = False) -> nn.Linear | NF4Linear:
    torch.manual_seed(0)
    layer = nn.Linear(8, 12, bias=bias).requires_grad_(False)
    return NF4Linear(layer) if nf4 else layer


def branch_of(base: nn.Linear | NF4Linear, *, dora: bool = False, dropout: float = 0.0) -> Branch:
    branch = Branch(base, PARTS, 3, dropout=dropout, dora=dora)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return branch


def weight_of(base: nn.Linear | NF4Linear) -> Tensor:
    return base.matrix(torch.float32) if isinstance(base, NF4Linear) else base.weight


def written_out(x: Tensor, base: nn.Linear | NF4Linear, branch: Branch) -> Tensor:
    """The same function in plain operations, part by part."""
    rows = []
    weight, bias = weight_of(base).to(x.dtype), base.bias
    pairs = {part.rows.start: (part, i) for i, part in enumerate(branch.parts)}
    for start, stop in ((0, 5), (5, 9), (9, 12)):
        row = weight[start:stop]
        if start in pairs:
            part, i = pairs[start]
            row = row + part.scale * branch.ups(branch.up)[i] @ branch.downs(branch.down)[i]
            if branch.magnitude is not None:
                row = branch.ups(branch.magnitude)[i][:, None] * row / row.detach().norm(dim=1, keepdim=True)
        rows.append(row)
    return nn.functional.linear(x, torch.cat(rows), bias)


@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_outputs_and_gradients_are_those_of_the_formula(dora: bool, bias: bool, nf4: bool) -> None:
    base = layer_of(bias=bias, nf4=nf4)
    branch, x = branch_of(base, dora=dora), torch.randn(7, 8, requires_grad=True)
    plain, plain_x = copy.deepcopy(branch), x.detach().clone().requires_grad_()
    weights = torch.randn(7, 12)
    out, expected = branch(x, base), written_out(plain_x, base, plain)
    assert torch.allclose(out, expected, atol=1e-5)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip([x, *branch.parameters()], [plain_x, *plain.parameters()], strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-4), one.shape


def test_gradients_agree_with_finite_differences() -> None:
    base = layer_of(bias=True).double()
    branch = branch_of(base).double()
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return torch.func.functional_call(branch, {"down": down, "up": up}, (x, base))

    assert torch.autograd.gradcheck(function, (x, branch.down, branch.up))


def test_dropout_is_only_in_the_correction_and_only_while_training() -> None:
    base = layer_of()
    branch, x = branch_of(base, dropout=0.5), torch.randn(200, 8, requires_grad=True)
    quiet = branch.eval()(x, base)
    torch.manual_seed(3)
    noisy = branch.train()(x, base)
    untouched = slice(5, 9)
    assert torch.equal(noisy[:, untouched], quiet[:, untouched])
    assert not torch.allclose(noisy[:, :5], quiet[:, :5])
    torch.manual_seed(3)
    dropped = nn.functional.dropout(x, 0.5)
    delta = written_out(dropped, base, branch) - nn.functional.linear(dropped, weight_of(base))
    assert torch.allclose(noisy, nn.functional.linear(x, weight_of(base)) + delta, atol=1e-5)
    (gradient,) = torch.autograd.grad(noisy.sum(), x)
    (expected,) = torch.autograd.grad((nn.functional.linear(x, weight_of(base)) + delta).sum(), x)
    assert torch.allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_a_new_correction_changes_nothing_until_it_is_trained(dora: bool) -> None:
    base = layer_of(bias=True)
    branch = Branch(base, PARTS, 3, dropout=0.0, dora=dora)
    branch.start(torch.Generator().manual_seed(0))
    x = torch.randn(7, 8)
    assert torch.allclose(branch(x, base), base(x), atol=1e-6)
    assert branch.down.abs().max() > 0


@pytest.mark.parametrize("dora", [False, True])
def test_a_merged_layer_answers_as_the_corrected_one(dora: bool) -> None:
    layer = LoraLinear(layer_of(bias=True))
    layer.branches["a"] = branch_of(layer.base, dora=dora)
    layer.active = "a"
    x = torch.randn(7, 8)
    expected = layer(x)
    merged = layer.merged()
    assert type(merged) is nn.Linear
    assert torch.allclose(merged(x), expected, atol=1e-5)


def test_x_is_kept_once_and_the_product_not_at_all() -> None:
    base = layer_of()
    branch, x = branch_of(base), torch.randn(50, 8, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        branch(x, base).sum().backward()
    assert sorted(tuple(tensor.shape) for tensor in kept) == sorted([(50, 8), (50, 6), (6, 8), (8, 3)])
    assert any(tensor.data_ptr() == x.data_ptr() for tensor in kept)


def test_under_autocast_a_bfloat16_layer_is_not_cast_again() -> None:
    base = layer_of().to(torch.bfloat16)
    branch, x = branch_of(base), torch.randn(50, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = branch(x, base)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    assert branch.down.grad is not None and branch.down.grad.dtype == torch.float32
    assert torch.allclose(out.float(), written_out(x, layer_of(), branch), atol=0.1)


def test_the_scale_of_a_rank() -> None:
    assert scale_of(16, 16.0, rslora=False) == 1.0
    assert scale_of(16, 16.0, rslora=True) == 4.0
