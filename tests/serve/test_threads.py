"""How many threads a pass gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from wyrmling.model.transformer import ModelConfig, Transformer
from wyrmling.serve import threads

SMALL = ModelConfig("modernbert", 4096, 256, 2, 4, 4, 64, 684, 512)


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    before = torch.get_num_threads()
    threads.limit(3)
    yield
    threads.limit(before)


@pytest.mark.parametrize(("tokens", "count"), [(1, 1), (20, 1), (10_000, 3)])
def test_a_pass_over_little_has_one_thread(tokens: int, count: int) -> None:
    threads.choose(SMALL, tokens)
    assert torch.get_num_threads() == count


def test_anything_else_has_all() -> None:
    threads.choose(SMALL, 1)
    threads.choose()
    assert torch.get_num_threads() == 3


def test_the_work_of_a_token_is_the_weights_of_the_blocks() -> None:
    body = Transformer(SMALL)
    matrices = sum(p.numel() for p in body.parameters() if p.dim() > 1) - body.embedding.weight.numel()
    assert SMALL.body_parameters == pytest.approx(matrices, rel=0.01)
