"""Products in bfloat16 on a CPU have few sizes, whatever the batch: oneDNN keeps kernels for each of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wyrmling.model.attention import Segments
from wyrmling.model.heads import HeadName, Model
from wyrmling.model.transformer import ModelConfig
from wyrmling.train.cross_entropy import cross_entropy_sum

PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm}


class Sizes(TorchDispatchMode):
    """The sizes of the factors of all products of bfloat16 matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[torch.Size, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in PRODUCTS:
            factors = [x for x in args if isinstance(x, Tensor)][-2:]
            if factors[0].dtype == torch.bfloat16:
                self.seen.add(tuple(x.shape for x in factors))
        return func(*args, **(kwargs or {}))


def model(head: HeadName) -> Model:
    family = "qwen3" if head == "next" else "modernbert"
    sizes: dict[str, Any] = {"vocab_size": 128, "width": 32, "heads": 2, "kv_heads": 2, "head_dim": 16, "ffn": 64}
    return Model(ModelConfig(family=family, layers=1, context=16, **sizes), head, 5).train()


def learn(model: Model, head: HeadName, documents: int, learned: int) -> None:
    segments = Segments([8] * documents)
    rows_R = torch.arange(documents if head == "classes" else learned)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens_N = torch.zeros(8 * documents, dtype=torch.int64)
        if head in ("classes", "tags"):
            loss = model.logits(tokens_N, segments, rows_R).float().logsumexp(-1).sum()
        else:
            features_RD = model.features(tokens_N, segments, rows_R)
            loss, _ = cross_entropy_sum(features_RD, model.output.weight_VD, torch.zeros_like(rows_R))
    loss.backward()


@pytest.mark.parametrize("head", ["next", "masked", "classes", "tags"])
def test_other_numbers_of_documents_and_learned_tokens_make_no_other_sizes(head: HeadName) -> None:
    one, few = model(head), Sizes()
    with few:
        learn(one, head, 63, 120)
    assert few.seen
    with Sizes() as many:
        # Up to the next of eight sizes per power of two: 64 documents, 512 tokens, 120 learned ones.
        for documents, learned in ((61, 113), (62, 117), (64, 119)):
            learn(one, head, documents, learned)
    assert many.seen == few.seen


def test_a_pass_over_all_rows_without_gradients_makes_no_other_sizes_either() -> None:
    one, seen = model("next"), []
    for documents in (61, 63):
        with Sizes() as sizes, torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            one.features(torch.zeros(8 * documents, dtype=torch.int64), Segments([8] * documents))
        seen.append(sizes.seen)
    assert seen[0] and seen[0] == seen[1]


@pytest.mark.parametrize("head", ["masked", "classes"])
def test_the_rows_of_filler_change_neither_answers_nor_gradients(head: HeadName) -> None:
    one = model(head)
    segments, tokens_N = Segments([8] * 9), torch.arange(72) % 100

    def gradients(dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
            logits = one.logits(tokens_N, segments)
        one.zero_grad()
        logits.float().square().sum().backward()
        return logits.detach().float(), [p.grad.clone() for p in one.head.parameters() if p.grad is not None]

    (exact, exact_gradients), (near, near_gradients) = gradients(torch.float32), gradients(torch.bfloat16)
    assert near.shape == exact.shape
    assert torch.allclose(near, exact, atol=0.03 * float(exact.abs().max()))
    for one_gradient, other in zip(exact_gradients, near_gradients, strict=True):
        assert torch.allclose(other, one_gradient, atol=0.03 * float(one_gradient.abs().max()))
