"""The learning rate swept over real batches, from far too small to too large: where does the loss fall fastest?

Source: Smith 2017 (arXiv 1506.01186). The model is in memory only; nothing that was trained before is changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from wyrmling.core import hardware
from wyrmling.core.errors import BadSetting
from wyrmling.core.progress import bar
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore
from wyrmling.train import trainable
from wyrmling.train.assemble import Job, batches_for, exact, loss_for, numerics_for, optimizer_for, start
from wyrmling.train.facts import facts_of
from wyrmling.train.loop import accumulate, average, step_seed

# From the derived rate by this factor down and up; updates in between; the weight of the loss so far in its mean.
SPAN, UPDATES, MEMORY = 1000.0, 100, 0.9
# The sweep ends when the averaged loss is this much above the lowest one, in multiples of that.
DIVERGED = 2.0


@dataclass(frozen=True)
class Sweep:
    """What a sweep saw.

    rates      learning rate of the matrices at each update
    losses     mean loss of the update's targets, before it
    averaged   the same, exponentially averaged
    suggested  the rate where the averaged loss falls fastest
    lowest     the rate where it is lowest: too large to train with
    diverged   True when the sweep ended because the loss rose or was no number
    """

    rates: list[float]
    losses: list[float]
    averaged: list[float]
    suggested: float
    lowest: float
    diverged: bool


def sweep(job: Job, *, updates: int = UPDATES) -> Sweep:
    """Train a throw-away model for some updates, each at a larger rate than the one before.

    Raises   NothingToLearn or BadSetting as training would; BadSetting when the loss falls nowhere
    """
    settings, step, device = job.project.settings, job.step, hardware.device(job.project.settings.machine.device)
    train, val = (TokenStore.open(job.tokens.path, split) for split in ("train", "val"))
    facts = facts_of(job.project, train)
    numerics = numerics_for(job.project, facts, None)
    with exact(numerics, device):
        model, _, derived = start(job, facts, train)
        model.to(device)
        adapters = trainable.prepare(model, step, seed=settings.seed, dtype=numerics.dtype)
        optimizer = optimizer_for(model, derived, adapters)
        batches, _ = batches_for(job, train, val, Tokenizer.load(job.tokens.path), derived, model)
        loss = loss_for(step, train, np.unique(batches.pieces.row), label_smoothing=derived.label_smoothing)
        curve = _Curve()
        model.train()
        with bar(f"learning rate of {step.name}", total=updates) as shown:
            for number in range(1, updates + 1):
                factor = SPAN ** (2 * (number - 1) / max(1, updates - 1) - 1)
                torch.manual_seed(step_seed(settings.seed, number))
                parts = [batch.to(device) for batch in batches.step(number)]
                total, targets = accumulate(model, loss, parts, partial(numerics.autocast, device))
                if not curve.goes_on(derived.lr * factor, total / targets if targets else None):
                    break
                if targets:
                    _, scale = average(optimizer, targets, step.clip)
                    optimizer.step(factor, scale)
                optimizer.zero_grad()
                shown.at(number, f"lr {derived.lr * factor:.2g}  loss {curve.losses[-1] if curve.losses else 0:.3f}")
    return curve.sweep(step.name)


class _Curve:
    """Losses over rates, and when to stop."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.averaged: list[float] = []
        self.diverged = False
        self._mean = 0.0

    def goes_on(self, rate: float, loss: float | None) -> bool:
        """Take note of a loss; False when the sweep has seen enough. None: the step had nothing to learn."""
        if loss is None:
            return True
        if not math.isfinite(loss):
            self.diverged = True
            return False
        self._mean = MEMORY * self._mean + (1 - MEMORY) * loss
        self.rates.append(rate)
        self.losses.append(loss)
        # As Adam does with its moments: without it the first values would lean towards 0.
        self.averaged.append(self._mean / (1 - MEMORY ** len(self.losses)))
        self.diverged = self.averaged[-1] > DIVERGED * min(self.averaged)
        return not self.diverged

    def sweep(self, name: str) -> Sweep:
        """Raises BadSetting when the loss falls nowhere."""
        falls = [
            (after - before) / math.log(faster / slower)
            for (before, after), (slower, faster) in zip(pairwise(self.averaged), pairwise(self.rates), strict=True)
        ]
        if not falls or min(falls) >= 0:
            raise BadSetting(
                f"the loss of train.{name} falls at no learning rate",
                where=f"train.{name}",
                fix="look at what it learns: wyrmling tokenizer --show 3",
            )
        steepest = falls.index(min(falls))
        lowest = self.rates[self.averaged.index(min(self.averaged))]
        return Sweep(self.rates, self.losses, self.averaged, self.rates[steepest], lowest, self.diverged)
