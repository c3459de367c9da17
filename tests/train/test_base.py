"""Training starts from other people's models: any family, and only one that reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from train.small import Small
from wyrmling.core.errors import GateRefused
from wyrmling.model import folder
from wyrmling.model.design import FamilyName
from wyrmling.model.heads import HeadName, Model
from wyrmling.model.transformer import ModelConfig, padded_vocab
from wyrmling.train import run

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def foreign(small: Small, path: Path, family: FamilyName, head: HeadName, *, spread: float, **more: Any) -> Path:
    """A model folder with the project's tokenizer that does not say who made it."""
    tokens = small.tokenizer.vocab_size
    config = ModelConfig(
        family=family, vocab_size=padded_vocab(tokens), width=32, layers=2, heads=2, kv_heads=2, head_dim=16, ffn=128,
        context=64, **more,
    )  # fmt: skip
    model = Model(config, head)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * spread)
    folder.save(model, path, small.tokens.path, folder.About("any", head, 64, "none"))
    (path / folder.ABOUT).unlink()
    return path


def trained(small: Small, base: Path, root: Path, objective: str, source: str) -> Any:
    step = f'[{{name="s", objective="{objective}", sources=["{source}"], steps=3, batch_tokens=300}}]'
    project = small.with_settings(f"model.base={base}", f"train={step}", root=root)
    return run.run_all(project, small.data, small.tokens)[-1]


@pytest.mark.parametrize(
    ("family", "head", "objective", "source", "more"),
    [
        ("gpt2", "next", "causal", "stories", {"tied": True}),
        ("gemma2", "next", "classify", "tickets", {"tied": True, "logit_cap": 30.0, "attention_cap": 50.0}),
        ("bert", "embed", "classify", "tickets", {"tied": True, "token_types": 2}),
        ("bert", "embed", "tag", "names", {"tied": True, "token_types": 2}),
        ("roberta", "masked", "masked", "stories", {"tied": True, "token_types": 1, "position_offset": 2}),
    ],
)
def test_a_model_of_any_family_is_trained_on_and_keeps_its_form(
    small: Small, tmp_path: Path, family: FamilyName, head: HeadName, objective: str, source: str, more: dict[str, Any]
) -> None:
    base = foreign(small, tmp_path / "base", family, head, spread=0.01, **more)
    made = trained(small, base, tmp_path, objective, source)
    model = folder.load(made.path)
    assert model.config.family == family
    assert model.head_name == {"causal": "next", "classify": "classes", "tag": "tags", "masked": "masked"}[objective]
    before, after = folder.load(base).body.state_dict(), model.body.state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_base_whose_weights_do_not_read_is_refused_before_training(small: Small, tmp_path: Path) -> None:
    base = foreign(small, tmp_path / "base", "llama", "next", spread=1.0)
    with pytest.raises(GateRefused, match="reads text worse than guessing") as error:
        trained(small, base, tmp_path, "causal", "stories")
    assert str(base) in str(error.value)
    assert not list(tmp_path.glob("runs/train/s-*"))
