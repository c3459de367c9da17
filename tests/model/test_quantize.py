"""Quantised layers compute what their rounded weights say, row by row, on every width; models stay themselves."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wyrmling.core.errors import BadSetting, GateRefused
from wyrmling.model import folder, probes, quantize
from wyrmling.model.attention import Segments
from wyrmling.model.generate import generate
from wyrmling.model.sampling import Sampling

# Relative error of a product of normal numbers; 4 bits have 15 steps for the range of 32 weights.
ERROR = {"int8": 0.01, "int8-dynamic": 0.016, "4bit": 0.11}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(method: str, weight_OI: torch.Tensor, bias: torch.Tensor | None = None) -> quantize.Quantised:
    return quantize.MAKERS[method](weight_OI, bias)


@pytest.mark.parametrize("method", quantize.METHODS)
def test_a_product_is_as_near_as_its_bits_allow(method: str) -> None:
    weight_OI, bias, x_NI = normal(96, 512), normal(96), normal(40, 512, seed=1)
    expected = F.linear(x_NI, weight_OI, bias)
    error = (layer(method, weight_OI, bias)(x_NI) - expected).norm() / expected.norm()
    assert error < ERROR[method]


@pytest.mark.parametrize("method", quantize.METHODS)
def test_a_batch_of_matrices_is_its_rows(method: str) -> None:
    linear, x_BTI = layer(method, normal(48, 96), normal(48)), normal(2, 3, 96, seed=1)
    assert torch.equal(linear(x_BTI).flatten(0, 1), linear(x_BTI.flatten(0, 1)))


@pytest.mark.parametrize("method", quantize.METHODS)
def test_a_row_alone_is_the_row_among_others_bit_for_bit(method: str) -> None:
    linear, x_NI = layer(method, normal(48, 96)), normal(9, 96, seed=1)
    x_NI[3] *= 1000
    together = linear(x_NI)
    for i in range(len(x_NI)):
        assert torch.equal(linear(x_NI[i : i + 1])[0], together[i])


@pytest.mark.parametrize("width", [8, 33, 105, 172])
@pytest.mark.parametrize("method", ["int8", "int8-dynamic"])
def test_every_width_and_height_works(method: str, width: int) -> None:
    """torch's kernel for int8 weights reads past the end of a row whose width is not a multiple of eight."""
    for outputs in (1, 5, 24):
        weight_OI, x_NI = normal(outputs, width), normal(7, width, seed=1)
        error = layer(method, weight_OI)(x_NI) - F.linear(x_NI, weight_OI)
        assert error.norm() < 0.05 * F.linear(x_NI, weight_OI).norm() + 0.05


def test_the_fast_kernel_gives_the_exact_sums_of_whole_numbers() -> None:
    """Also where neighbouring weights are large and alike, which overflows sums of 16 bits with the usual scales."""
    weight_OI = normal(64, 256).abs()
    x_NI = normal(12, 256, seed=1).abs() + 1
    fast, exact = layer("int8-dynamic", weight_OI), layer("int8-dynamic", weight_OI)
    steps_OI = (weight_OI / exact.scale_O[:, None]).round()
    assert steps_OI.view(64, -1, 2).sum(-1).max() <= 128
    exact.packed, exact.weight_OI = None, steps_OI.to(torch.int8)
    # A value that lies between two steps may be rounded either way: half a step of one input of 256.
    torch.testing.assert_close(fast(x_NI), exact(x_NI), rtol=2e-4, atol=0)


def test_a_row_of_zeros_and_a_matrix_of_zeros_give_zeros() -> None:
    for method in quantize.METHODS:
        assert not layer(method, normal(16, 32))(torch.zeros(2, 32)).any()
        assert not layer(method, torch.zeros(16, 32))(normal(2, 32)).any()


def test_four_bits_are_the_same_with_and_without_torchs_kernel() -> None:
    """GPUs and odd heights take the plain way."""
    weight_OI, x_NI = normal(32, 64), normal(5, 64, seed=1)
    fast, plain = layer("4bit", weight_OI), layer("4bit", torch.cat((weight_OI, normal(1, 64))))
    assert (fast.fast, plain.fast) == (True, False)
    torch.testing.assert_close(plain(x_NI)[:, :32], fast(x_NI), rtol=0.02, atol=0.1)


@pytest.mark.parametrize("method", quantize.METHODS)
@pytest.mark.parametrize("head", ["next", "masked", "classes"])
def test_a_model_is_smaller_and_still_itself(tiny, method: str, head: str) -> None:
    model = tiny.model("qwen3" if head == "next" else "modernbert", head, ffn=64)
    whole = copy.deepcopy(model)
    shrunk = quantize.quantize(model, method)
    assert shrunk.bytes_after < shrunk.bytes_before and not shrunk.kept
    assert not any(isinstance(module, nn.Linear) for module in model.body.modules())
    tokens = tiny.flat(tiny.documents([9, 5]))
    ours, expected = (m.logits(tokens, Segments([9, 5])) for m in (model, whole))
    assert (ours - expected).norm() < {"int8": 0.05, "int8-dynamic": 0.1, "4bit": 0.5}[method] * expected.norm()


def test_matrices_whose_width_does_not_fit_stay(tiny) -> None:
    shrunk = quantize.quantize(tiny.model(ffn=48), "4bit")
    assert shrunk.kept == [f"body.blocks.{i}.ffn.down" for i in range(3)]


@pytest.mark.parametrize("method", quantize.METHODS)
def test_answers_do_not_depend_on_what_else_is_answered(tiny, method: str) -> None:
    model = tiny.model()
    quantize.quantize(model, method)
    prompts = tiny.documents([5, 3, 12, 8])
    sampling = Sampling(max_tokens=12, temperature=0.8, seed=1)
    alone = [[t.id for t in generate(model, [prompt], sampling)[0]] for prompt in prompts]
    assert [[t.id for t in answer] for answer in generate(model, prompts, sampling)] == alone


def test_an_unknown_method_is_refused(tiny) -> None:
    with pytest.raises(BadSetting, match="no quantisation 'int3'"):
        quantize.quantize(tiny.model(), "int3")


class Letters:
    """A tokenizer of letters."""

    def prompt(self, text: str) -> list[int]:
        return [ord(letter) % 100 for letter in text]

    document = prompt


def test_the_cost_is_said_and_too_large_a_cost_is_refused(tiny, tmp_path: Path, capsys) -> None:
    model = tiny.model("llama")
    folder.save(model, tmp_path, None, folder.About("complete", "next", 64, "causal"))
    probes.record(model, Letters(), ["once upon a time"], tmp_path)
    quantize.quantize_checked(tmp_path, model, "int8")
    assert "distributions by" in capsys.readouterr().err
    rough = folder.load(tmp_path)
    with torch.no_grad():
        rough.body.blocks[0].attention.qkv.weight[0, 0] = 300.0
    with pytest.raises(GateRefused, match=r"change the answers too much: .* \(allowed 0\.01 nats\)") as caught:
        quantize.quantize_checked(tmp_path, rough, "int8")
    assert caught.value.exit_code == 3
