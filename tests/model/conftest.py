"""Tiny models with random weights, here and as transformers, the judge, reads them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from wyrmling.model.design import FAMILIES, FamilyName
from wyrmling.model.heads import HeadName, Model
from wyrmling.model.transformer import ModelConfig

VOCAB, CLASSES = 104, 5


class Tiny:
    """Makes small things for the tests of this folder."""

    vocab, classes = VOCAB, CLASSES

    def config(self, family: FamilyName = "qwen3", **changes: Any) -> ModelConfig:
        encoder = not FAMILIES[family].causal
        plain = encoder or family in ("gpt2", "gpt_neox", "bloom", "falcon")
        sizes: dict[str, Any] = {
            "family": family,
            "vocab_size": VOCAB,
            "width": 32,
            "layers": 3,
            "heads": 4,
            "kv_heads": 4 if plain else 2,
            # Heads times head width differs from the width where the family allows it, to find mixed-up sizes.
            "head_dim": 8 if plain else 16,
            "ffn": 128 if family == "bloom" else 48,
            "context": 64,
            "tied": encoder,
            "experts": 4 if family in ("mixtral", "qwen3_moe") else 0,
            "experts_per_token": 2 if family in ("mixtral", "qwen3_moe") else 0,
            "position_offset": 2 if family == "roberta" else 0,
            "token_types": 2 if family in ("bert", "roberta") else 0,
        }
        return ModelConfig(**(sizes | changes))

    def model(self, family: FamilyName = "qwen3", head: HeadName | None = None, seed: int = 0, **changes: Any) -> Model:
        head = head or ("next" if FAMILIES[family].causal else "masked")
        model = Model(self.config(family, **changes), head, CLASSES, seed=seed)
        self.randomise(model, seed)
        return model.eval()

    def randomise(self, module: nn.Module, seed: int = 0) -> None:
        """Add N(0, 0.2²) to every parameter: with starting weights, swapped norms and lost biases go unseen."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)

    def documents(self, lengths: list[int], seed: int = 0) -> list[list[int]]:
        draw = random.Random(seed)
        return [[draw.randrange(VOCAB) for _ in range(length)] for length in lengths]

    def flat(self, documents: list[list[int]]) -> torch.Tensor:
        return torch.tensor([token for document in documents for token in document])

    def judge(self, folder: Path, kernel: str = "eager") -> Any:
        """The folder as transformers reads it; it may miss nothing and leave nothing over."""
        name = transformers.AutoConfig.from_pretrained(folder).architectures[0]
        model, info = getattr(transformers, name).from_pretrained(
            folder, output_loading_info=True, attn_implementation=kernel
        )
        assert not any(info.values()), info
        return model.eval()


@pytest.fixture
def tiny() -> Tiny:
    return Tiny()
