"""How far a training step has come: the counters that are saved with each checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from wyrmling.train.loop import Step
from wyrmling.train.spikes import Recent

# The training loss in the figures is the mean of the last so many steps.
RECENT_STEPS = 20


@dataclass
class Progress:
    """Counters that are saved with each checkpoint."""

    threads: int
    dtype: str
    compiled: bool = False
    processes: int = 1
    tokens: int = 0
    targets: int = 0
    left_out: int = 0
    bad_in_a_row: int = 0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    """Loss and gradient norm of the last steps that moved the weights: what a spike is told by."""
    best: dict[str, float] | None = None
    best_step: int = 0
    looks_without_gain: int = 0
    stopped: str | None = None
    """Why training ended before its last step: "patience" or "budget"."""
    skipped: int = 0
    """Steps of material that rollbacks gave up: step n learns what was meant for step n + skipped."""
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    """One per rollback: from and to which step, the material given up, the learning rate's factor, the reason."""
    micro_batch_tokens: int | None = None
    """Where the memory was too small for the derived number: the one used since."""
    best_weights: dict[str, Tensor] | None = None
    """Weights of the best look when the newest weights are others; saved as tensors."""

    @property
    def rate(self) -> float:
        """Factor of the learning rate: half for each rollback."""
        return 0.5 ** len(self.rollbacks)

    @property
    def loss(self) -> float | None:
        """Mean training loss of the last steps; None when there was none."""
        recent = self.losses[-RECENT_STEPS:]
        return sum(recent) / len(recent) if recent else None

    @property
    def recent(self) -> Recent:
        return Recent(self.losses, self.norms)

    def count(self, done: Step, recent: Recent) -> None:
        """Take note of a finished step. recent: what its judge remembers."""
        self.tokens += done.tokens
        self.losses, self.norms = recent.losses, recent.norms
        if done.left_out:
            self.left_out += 1
            self.bad_in_a_row += 1
        else:
            self.targets += done.targets
            self.bad_in_a_row = 0

    def keep(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the weights as the best so far, into the memory of those before them."""
        if self.best_weights is None:
            self.best_weights = {name: value.clone() for name, value in weights.items()}
        else:
            for name, value in weights.items():
                self.best_weights[name].copy_(value)

    def saved(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "best_weights"}


def finite(value: float) -> float | None:
    """The number, or None for what JSON has no word for."""
    return value if math.isfinite(value) else None
