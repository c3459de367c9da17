"""Whether to compile is decided from the forecast and said; a compiled model learns what the plain one does."""

import os
import re
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from train.small import Small
from wyrmling.core.errors import BadSetting
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig
from wyrmling.train import compiling
from wyrmling.train.compiling import WORTH_MINUTES, choose
from wyrmling.train.effort import EVERYTHING

USUAL = {"minutes": 60.0, "found": "g++", "recompute": False, "foreign": False}


@pytest.mark.parametrize(
    ("changes", "on", "why"),
    [
        ({}, True, "60 minutes are worth"),
        ({"minutes": WORTH_MINUTES}, True, "worth"),
        ({"minutes": WORTH_MINUTES / 2}, False, "too short"),
        ({"found": None}, False, "no C\\+\\+ compiler"),
        ({"recompute": True}, False, "computes part of the forward pass again"),
        ({"foreign": True}, False, "transformers"),
    ],
)
def test_long_runs_are_compiled_where_they_can_be(changes: dict[str, object], on: bool, why: str) -> None:
    settings = {**USUAL, **changes}
    choice = choose(None, **settings)  # type: ignore[arg-type]
    assert choice.on is on and re.search(why, choice.why)
    assert not choose(False, **settings).on  # type: ignore[arg-type]
    if on or "minutes" in changes:
        assert choose(True, **settings).on  # type: ignore[arg-type]
    else:
        with pytest.raises(BadSetting, match=why):
            choose(True, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budget", "on"),
    [({}, True), ({"hours": 0.5}, True), ({"hours": 0.1}, False), ({"usd": 0.5}, False), ({"kwh": 0.01}, False)],
)
def test_a_run_that_its_budget_cuts_short_is_not_compiled(
    budget: dict[str, float], on: bool, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "g++")
    project = small.with_settings(*(f"objective.budget.{name}={value}" for name, value in budget.items()))
    forecast = {"minutes": {"value": 60.0}, "usd": {"value": 10.0}, "kwh": {"value": 1.0}}
    work = SimpleNamespace(effort=EVERYTHING)
    model = Model(ModelConfig("qwen3", 96, 32, 1, 2, 2, 16, 48, 64), "next")
    assert compiling.choice_for(project, model, work, forecast).on is on  # type: ignore[arg-type]


def test_the_compiler_is_the_named_one_or_the_first_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiling.compiler() is None
    (tmp_path / "clang++").write_text("#!/bin/sh\n")
    os.chmod(tmp_path / "clang++", stat.S_IRWXU)
    assert compiling.compiler() == "clang++"
    monkeypatch.setenv("CXX", "my-c++")
    assert compiling.compiler() == "my-c++"


def gradients(*, compiled: bool, work: object) -> list[torch.Tensor]:
    config = ModelConfig("qwen3", 96, 32, 3, 2, 2, 16, 48, 64)
    model = Model(config, "next", seed=1).train()
    if compiled:
        # Everything but the C++ code: graphs, their joint backward pass, guards on lengths and layers.
        compiling.switch_on(model, work, backend="aot_eager")  # type: ignore[arg-type]
        assert all(parameter.grad is None for parameter in model.parameters())
    found = []
    for lengths in ([9, 30, 9, 17], [40, 3], [7]):
        logits = model.logits(torch.arange(sum(lengths)) % 96, Segments(lengths))
        logits.square().mean().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            found.append(model.logits(torch.arange(7), Segments([7])))
    return [*found, *(p.grad for p in model.parameters() if p.grad is not None)]


def test_a_compiled_model_learns_the_same_and_is_compiled_once_for_all_lengths_and_layers() -> None:
    plain = gradients(compiled=False, work=None)
    torch._dynamo.reset()
    again = gradients(compiled=True, work=SimpleNamespace(micro_batch_tokens=128))
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    # One graph before attention and one after it.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
