"""Training on a base that transformers computes: it learns, is saved in its own form, and says what it can't do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForSequenceClassification, OPTConfig, OPTForCausalLM

from train.small import Small
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadSetting
from wyrmling.model import folder, probes
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.train import run


@pytest.fixture
def base(small: Small, tmp_path: Path) -> Path:
    """A folder with the small project's tokenizer; the test puts a network into it."""
    for name in folder.TOKENIZER_FILES:
        if (small.tokens.path / name).is_file():
            (tmp_path / "base").mkdir(exist_ok=True)
            shutil.copyfile(small.tokens.path / name, tmp_path / "base" / name)
    torch.manual_seed(0)
    return tmp_path / "base"


def trained(small: Small, base: Path, root: Path, step: str) -> Artifact:
    project = small.with_settings(f"model.base={base}", f"train=[{{{step}}}]", root=root)
    return run.run_all(project, small.data, small.tokens)[-1]


def test_a_decoder_learns_and_stays_what_it_was(small: Small, base: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48, "num_hidden_layers": 2}
    vocab = Tokenizer.load(base).vocab_size
    OPTForCausalLM(
        OPTConfig(**sizes, vocab_size=vocab, num_attention_heads=4, max_position_embeddings=64)
    ).save_pretrained(base)
    step = 'name="s", objective="sft", sources=["chats"], steps=15, batch_tokens=300, lr=0.01, dropout=0.1'
    made = trained(small, base, tmp_path / "a", step)
    before = folder.load(base)
    assert made.figures["loss"] < 0.9 * torch.log(torch.tensor(float(vocab)))
    theirs = OPTForCausalLM.from_pretrained(made.path / "model")
    moved = [not torch.equal(a, b) for a, b in zip(theirs.parameters(), before.parameters(), strict=False)]
    assert any(moved)
    assert probes.replay(made.path / "model").max_abs < 1e-4
    again = trained(small, base, tmp_path / "b", step)
    for name in ("model.safetensors", "config.json"):
        assert (again.path / "model" / name).read_bytes() == (made.path / "model" / name).read_bytes()
    with pytest.raises(BadSetting, match="the method 'lora' is not there for opt models"):
        trained(small, base, tmp_path / "c", 'name="s", objective="sft", method="lora", sources=["chats"], steps=2')


@pytest.mark.parametrize("method", ["full", "probe"])
def test_an_encoder_gets_a_head_for_labels(small: Small, base: Path, tmp_path: Path, method: str) -> None:
    sizes = {"hidden_size": 32, "embedding_size": 16, "intermediate_size": 48, "num_hidden_layers": 2}
    vocab = Tokenizer.load(base).vocab_size
    ElectraForMaskedLM(
        ElectraConfig(**sizes, vocab_size=vocab, num_attention_heads=4, max_position_embeddings=64)
    ).save_pretrained(base)
    step = f'name="s", objective="classify", method="{method}", sources=["tickets"], steps=3, batch_tokens=200'
    made = trained(small, base, tmp_path / method, step)
    theirs = ElectraForSequenceClassification.from_pretrained(made.path / "model")
    assert list(theirs.config.id2label.values()) == sorted({"payments", "delivery", "money", "access"})
    kept = torch.equal(theirs.get_input_embeddings().weight, folder.load(base).body.embedding.weight)
    assert kept == (method == "probe")
