"""A model whose weights fit in shape but are wrong reads text worse than a guess, and is refused."""

from __future__ import annotations

import math

import pytest
import torch

from wyrmling.core.errors import BadInput, GateRefused
from wyrmling.model import sanity
from wyrmling.model.generate import generate, score
from wyrmling.model.heads import Model
from wyrmling.model.sampling import Sampling


@pytest.fixture
def texts(tiny):
    """What the model itself writes: the text it was made for."""
    model = tiny.model("llama", head_dim=8, kv_heads=4)
    with torch.no_grad():
        # Sure of its words, as a trained model is.
        model.body.final_norm.weight.mul_(3)
    answers = generate(model, tiny.documents([1] * 20), Sampling(max_tokens=40, temperature=1.0, seed=0))
    return model, [[token.id for token in answer] for answer in answers]


def test_the_loss_is_that_of_scoring_each_text(texts):
    model, documents = texts
    found = sanity.check(model, documents)
    logprobs = [token.logprob for document in documents for token in score(model, document)]
    assert found.tokens == len(logprobs)
    assert found.loss == pytest.approx(-sum(logprobs) / len(logprobs), abs=1e-5)
    assert found.guessing == pytest.approx(math.log(104))
    assert found.loss < found.guessing


def test_only_the_first_texts_are_read_and_none_beyond_the_context(texts, monkeypatch):
    model, documents = texts
    monkeypatch.setattr(sanity, "SANITY_TOKENS", 100)
    assert sanity.check(model, documents).tokens == 100 - 3
    assert sanity.check(model, [documents[0] * 10]).tokens == 63


def test_transposed_matrices_are_refused_with_the_reason(texts):
    model, documents = texts
    with torch.no_grad():
        for block in model.body.blocks:
            block.attention.out.weight.copy_(block.attention.out.weight.T.clone())
            for matrix in (block.ffn.gate_up.weight, block.ffn.down.weight):
                matrix.copy_(matrix.T.reshape(matrix.shape))
    with pytest.raises(GateRefused, match=r"worse than guessing: \d.*its 104 tokens costs 4\.64.*stored transposed"):
        sanity.check(model, documents, where="somewhere")


def test_an_untrained_model_is_no_wrong_one(tiny):
    found = sanity.check(Model(tiny.config("llama"), "next"), tiny.documents([40, 40]))
    assert found.loss == pytest.approx(found.guessing, abs=0.1)


def test_a_loss_that_is_not_a_number_is_refused(texts):
    model, documents = texts
    with torch.no_grad():
        model.body.final_norm.weight.fill_(float("nan"))
    with pytest.raises(GateRefused, match="nan nats"):
        sanity.check(model, documents)


def test_a_check_needs_text(texts):
    with pytest.raises(BadInput, match="less than two tokens"):
        sanity.check(texts[0], [[1], []])
