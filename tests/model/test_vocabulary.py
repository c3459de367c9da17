"""New rows are means of old ones, and old tokens are answered as before."""

import pytest
import torch

from model.conftest import Tiny
from wyrmling.core.errors import BadInput
from wyrmling.model.attention import Segments
from wyrmling.model.heads import HeadName
from wyrmling.model.vocabulary import extend

NEW = {104: [3, 9], 105: [7], 106: [1, 2, 3]}


@pytest.mark.parametrize(
    ("family", "head", "tied"),
    [("qwen3", "next", False), ("llama", "next", True), ("modernbert", "masked", True), ("qwen3", "classes", False)],
)
def test_old_tokens_are_answered_as_before_and_new_ones_are_means(
    family: str, head: HeadName, tied: bool, tiny: Tiny
) -> None:
    model = tiny.model(family, head, tied=tied)  # type: ignore[arg-type]
    grown = extend(model, NEW, tokens=107)
    tokens, segments = tiny.flat(tiny.documents([9, 5])), Segments([9, 5])
    before, after = model.logits(tokens, segments), grown.logits(tokens, segments)
    assert grown.config.vocab_size == 112 and grown.config.tokens == 107
    if head == "classes":
        assert torch.equal(after, before)
        return
    assert torch.allclose(after[:, :104], before, atol=1e-6)
    # the logits are linear in the row of the output matrix
    for token, pieces in NEW.items():
        assert torch.allclose(after[:, token], before[:, pieces].mean(dim=1), atol=1e-5)
        mean = model.body.embedding.weight[pieces].mean(dim=0)
        assert torch.equal(grown.body.embedding.weight[token], mean)
    assert all(p.requires_grad for p in grown.parameters())


def test_pieces_that_the_model_does_not_have_are_named(tiny: Tiny) -> None:
    with pytest.raises(BadInput, match=r"new token 104 stands for \[3, 200\], but the model has 104"):
        extend(tiny.model("qwen3"), {104: [3, 200]}, tokens=105)
