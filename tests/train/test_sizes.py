"""A name such as 135M becomes a model of that many weights, in every preset and with every usual vocabulary."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from train.test_sizing import BILLION, STORIES, settings, step
from wyrmling.core.errors import BadSetting
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig, padded_vocab
from wyrmling.train.sizes import PRESETS, parse, sized
from wyrmling.train.sizing import Facts, Shape, derive_model

SIZES = ["5M", "20M", "135M", "1B", "8B"]


def shape_of(facts: Facts, objective: str = "causal", **model: object) -> Shape:
    return derive_model(settings("complete", **model), (step(objective),), facts)


def built(shape: Shape) -> Model:
    """The model of these sizes, without memory for its weights."""
    with torch.device("meta"):
        config = ModelConfig(
            family=cast(Any, shape.family), vocab_size=padded_vocab(shape.vocab_size), width=shape.width,
            layers=shape.layers, heads=shape.heads, kv_heads=shape.kv_heads, head_dim=shape.head_dim, ffn=shape.ffn,
            context=shape.context, tied=shape.tied,
        )  # fmt: skip
        return Model(config, "next" if shape.causal else "masked", seed=None)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", SIZES)
def test_a_model_has_as_many_weights_as_its_name_says(size: str, preset: str) -> None:
    facts = STORIES if parse(size) < 1e8 else BILLION
    shape = shape_of(facts, "masked" if preset == "encoder" else "causal", size=size, preset=preset)
    weights = sum(p.numel() for p in built(shape).parameters())
    assert weights == pytest.approx(parse(size), rel=0.10)
    # Norms, biases and the rounding of the vocabulary are all that the shape leaves out.
    assert weights == pytest.approx(shape.parameters, rel=0.03)
    assert str(size) in shape.reasons["layers"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_size_and_vocabulary_gives_a_usual_shape_or_a_reason(preset: Any) -> None:
    for vocab in (512, 4096, 32_768, 151_936):
        for size in ("1M", "3M", "7.5M", "40M", "360M", "1.7B", "3B", "30B", "70B"):
            try:
                found = sized(size, PRESETS[preset], vocab)
            except BadSetting as error:
                assert parse(size) < 300 * vocab
                assert "leaves no room" in str(error)
                continue
            assert found.parameters == pytest.approx(parse(size), rel=0.10)
            assert 16 <= found.width / found.layers <= 256
            assert found.width % found.heads == 0
            assert found.heads % found.kv_heads == 0
            if found.width >= 4096 and PRESETS[preset].keys != "one":
                assert found.heads % 8 == found.kv_heads % 8 == found.ffn % 8 == 0


def test_presets_are_the_families_they_name() -> None:
    families = {preset: built(shape_of(STORIES, size="5M", preset=preset)).config for preset in ("llama", "palm")}
    assert families["llama"].family == "llama"
    palm = families["palm"]
    assert (palm.family, palm.kv_heads, palm.switches.block, palm.tied) == ("falcon", 1, "parallel", True)
    assert shape_of(STORIES, preset="palm", layers=2).ffn == 4 * 128
    assert shape_of(STORIES, "classify", preset="llama").family == "llama"


def test_a_preset_that_cannot_learn_a_step_is_refused_with_the_step() -> None:
    with pytest.raises(BadSetting, match=r"model\.preset = \"encoder\".*train\.s"):
        shape_of(STORIES, "causal", preset="encoder")
    with pytest.raises(BadSetting, match=r"model\.preset = \"llama\".*train\.s"):
        shape_of(STORIES, "masked", preset="llama")


def test_a_size_beside_layers_or_under_a_large_vocabulary_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"decides model\.layers too") as error:
        shape_of(STORIES, size="5M", layers=3, heads=2)
    assert "model.layers and model.heads" in str(error.value)
    with pytest.raises(BadSetting, match="vocabulary of 32,768"):
        shape_of(BILLION, size="5M")
    with pytest.raises(BadSetting, match=r"model\.size"):
        settings("complete", size="5 million")
