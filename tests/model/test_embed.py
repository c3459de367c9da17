"""Text embeddings are those of transformers: hidden states pooled, then brought to length 1."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
import transformers

from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.model import embed as module
from wyrmling.model import folder
from wyrmling.model.embed import embed
from wyrmling.model.heads import with_head

LENGTHS = [5, 24, 9, 17, 1, 24]


@pytest.fixture
def encoder(tiny, tmp_path):
    """A BERT body with its pooler, as transformers writes it; the judge and the folder."""
    config = transformers.BertConfig(
        vocab_size=104, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    judge = transformers.BertModel(config).eval()
    tiny.randomise(judge)
    judge.save_pretrained(tmp_path / "encoder")
    return judge, tmp_path / "encoder"


def say_pooling(path, **modes):
    (path / module.POOLING).parent.mkdir(exist_ok=True)
    (path / module.POOLING).write_text(json.dumps({"word_embedding_dimension": 32} | modes))


@pytest.mark.parametrize("mode", [None, "pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_lasttoken"])
def test_embeddings_are_those_of_transformers_pooled_as_the_folder_says(tiny, encoder, mode, monkeypatch):
    judge, path = encoder
    if mode is not None:
        say_pooling(path, **{mode: True, "pooling_mode_max_tokens": False})
    pool = {"pooling_mode_cls_token": lambda h: h[0], "pooling_mode_lasttoken": lambda h: h[-1]}.get(
        mode, lambda h: h.mean(0)
    )
    # Several batches, whose documents are not in the order that was asked for.
    monkeypatch.setattr(module, "BATCH_TOKENS", 30)
    documents = tiny.documents(LENGTHS)
    with torch.no_grad():
        theirs = torch.stack([pool(judge(torch.tensor([d])).last_hidden_state[0]) for d in documents])
    model = folder.load(path)
    assert (embed(model, documents, normalise=False) - theirs).abs().max() < 2e-5
    ours = embed(model, documents)
    assert (ours - F.normalize(theirs, dim=-1)).abs().max() < 2e-5
    assert torch.allclose(ours.norm(dim=-1), torch.ones(len(LENGTHS)))


def test_an_encoder_without_a_head_comes_back_as_it_was(tiny, encoder, tmp_path):
    judge, path = encoder
    say_pooling(path, pooling_mode_cls_token=True)
    model = folder.load(path)
    assert (model.head_name, model.config.pooling, model.n_out) == ("embed", "first", 32)
    folder.save(model, tmp_path / "ours", None, folder.About("embed", "embed", 64, "none"))
    again = tiny.judge(tmp_path / "ours")
    tokens = torch.tensor(tiny.documents([9]))
    with torch.no_grad():
        assert (again(tokens).pooler_output - judge(tokens).pooler_output).abs().max() < 2e-5
    assert torch.equal(embed(folder.load(tmp_path / "ours"), [[5, 6]]), embed(model, [[5, 6]]))


def test_a_classifier_starts_from_the_encoders_pooler(encoder):
    model = folder.load(encoder[1])
    assert torch.equal(with_head(model, "classes", 3).head.dense.weight, model.head.dense.weight)


def test_hidden_states_of_a_decoder_can_be_pooled_too(tiny):
    model = tiny.model("llama")
    documents = tiny.documents(LENGTHS)
    with torch.no_grad():
        last = torch.stack([model.body(torch.tensor(d), module.Segments([len(d)]))[-1] for d in documents])
    assert (embed(model, documents, pooling="last", normalise=False) - last).abs().max() < 2e-5


def test_what_cannot_be_embedded_is_refused_with_the_reason(tiny, encoder):
    model = folder.load(encoder[1])
    with pytest.raises(BadInput, match="without tokens"):
        embed(model, [[1], []])
    with pytest.raises(BadInput, match="65 tokens is longer"):
        embed(model, [[1] * 65])
    with pytest.raises(BadSetting, match="gives text embeddings, not predictions"):
        model.output  # noqa: B018
    say_pooling(encoder[1], pooling_mode_max_tokens=True)
    with pytest.raises(BadInput, match="pooling_mode_max_tokens"):
        folder.load(encoder[1])
