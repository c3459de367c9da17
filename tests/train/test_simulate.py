"""Simulated memory: what torch's own allocator says of the same step, to a percent, for every kind of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from train.small import Small
from wyrmling.config import TrainStep
from wyrmling.core import hardware
from wyrmling.flow import plan
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.train import calibrate, forecast, simulate, trainable
from wyrmling.train.assemble import Numerics, config_of, optimizer_for
from wyrmling.train.objectives import OBJECTIVES
from wyrmling.train.sizing import Derived, Facts, Shape, SourceFacts, derive_step
from wyrmling.train.workload import Work, work_of

SHAPE = Shape("qwen3", 512, 64, 2, 2, 2, 32, 176, 64, False)
ENCODER = Shape("modernbert", 512, 64, 2, 2, 2, 32, 176, 64, True, causal=False)
KINDS: dict[str, tuple[Shape, hardware.Dtype, dict[str, Any]]] = {
    "causal, in two parts": (SHAPE, "bfloat16", {"objective": "causal", "micro_batch_tokens": 512}),
    "causal, computed again": (SHAPE, "float32", {"objective": "causal", "checkpoint_activations": True}),
    "sft with lora": (SHAPE, "bfloat16", {"objective": "sft", "method": "lora"}),
    "sft with qlora": (SHAPE, "float32", {"objective": "sft", "method": "qlora"}),
    "classify with adamw": (ENCODER, "float32", {"objective": "classify", "optimizer": "adamw"}),
    "masked": (ENCODER, "bfloat16", {"objective": "masked"}),
}
ROWS = {"causal": "document", "masked": "document", "sft": "conversation", "classify": "labelled"}


def taken(small: Small, kind: str) -> tuple[TrainStep, Work, Derived]:
    shape, dtype, settings = KINDS[kind]
    step = TrainStep.model_validate({"name": "s", "batch_tokens": 1024, **settings})
    facts = Facts((SourceFacts("r", ROWS[step.objective], 500, 16_000, 32, 32),), vocab_size=512, labels=5)
    derived = derive_step(small.project.settings, step, shape, facts, scratch=True, first=True)
    return step, work_of(step, shape, derived, facts, dtype=dtype), derived


def allocated(step: TrainStep, work: Work, derived: Derived) -> float:
    """The most bytes that torch's allocator had given out at once in a second step, beside those at its start."""
    numerics, segments = Numerics(1, work.dtype), Segments([32] * (work.micro_batch_tokens // 32))
    model = Model(config_of(work.shape, dropout=derived.dropout), OBJECTIVES[step.objective].head, work.outputs)
    adapters = trainable.prepare(model, step, seed=0, dtype=work.dtype)
    model.body.recompute = work.effort.recompute
    optimizer = optimizer_for(model.train(), derived, adapters)

    def learn() -> None:
        for _ in range(-(-work.batch_tokens // work.micro_batch_tokens)):
            with numerics.autocast("cpu"):
                loss = simulate.loss_of(model, segments, work)
            loss.backward()
            del loss
        optimizer.step(1.0)
        optimizer.zero_grad()

    learn()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        learn()
    assert watched.profiler is not None
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Each further thread of a kernel may take room of its own, which tensors of sizes alone do not show."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", KINDS)
def test_the_count_is_that_of_torchs_own_allocator(small: Small, kind: str) -> None:
    step, work, derived = taken(small, kind)
    found = simulate.simulate(step, work, derived)
    assert found is not None
    assert found.passing == pytest.approx(allocated(step, work, derived), rel=0.01)


def test_of_deep_models_a_few_layers_tell_what_all_would(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    step, work, derived = taken(small, "sft with lora")
    deep = replace(work, shape=replace(SHAPE, layers=5))
    few = simulate.simulate(step, deep, derived)
    monkeypatch.setattr(simulate, "FEW", (5, 5))
    assert few == pytest.approx(simulate.simulate(step, deep, derived), rel=0.01)


def test_what_would_never_fit_is_simulated_and_not_calibrated(small: Small) -> None:
    train = 'train=[{name="s", objective="causal", sources=["stories"]}]'
    settings = (train, "model.layers=64", "model.width=4096", "model.context=64")
    large = small.with_settings(*settings)
    one = plan.plan(large, simulate=True)
    found = one.stages["train s"]
    # Weights and gradients, and Muon's momentum, in float32.
    assert found.memory_gb.value > 12 * one.shape.body_parameters / 1e9 > 100
    assert "simulated" in found.basis and "simulated" in one.text()
    works = forecast.works(large, one.known.facts)
    assert list(calibrate.calibrate(large, small.data, small.tokens, works)) == []
