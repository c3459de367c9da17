"""Which steps must not move the weights: no finite loss or gradient, or one far above those of the steps before.

The memory of recent steps travels in the checkpoint, so that a resumed run judges as the undisturbed one.
Source   OLMo 2 (arXiv 2501.00656), which leaves such steps out; its 6 standard deviations of the last 128 steps
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

# With fewer steps behind it there is no saying what is usual.
LEAST = 64
# A loss that hardly moves any more has next to no deviation: below this share of the mean nothing is a spike.
LEAST_DEVIATION = 0.01


@dataclass
class Recent:
    """Loss and gradient norm of the last steps that moved the weights, oldest first."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


@dataclass
class Judge:
    """Says of each step whether it may move the weights.

    deviations   standard deviations above the mean that are too many; 0: only what is not finite is refused
    window       steps that mean and deviation are taken over
    """

    recent: Recent
    deviations: float = 6.0
    window: int = 128

    def __call__(self, loss: float, norm: float) -> str:
        """Why the step must be left out; empty when it may move the weights."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"no finite loss or gradient (loss {loss:g}, gradient norm {norm:g})"
        for what, value, seen in (("loss", loss, self.recent.losses), ("gradient norm", norm, self.recent.norms)):
            if (limit := self._limit(seen)) is not None and value > limit:
                return f"a spike: {what} {value:.4g}, above {limit:.4g}"
        self.recent.losses = [*self.recent.losses, loss][-self.window :]
        self.recent.norms = [*self.recent.norms, norm][-self.window :]
        return ""

    def _limit(self, seen: list[float]) -> float | None:
        if self.deviations == 0 or len(seen) < min(LEAST, self.window):
            return None
        mean = float(np.mean(seen))
        return mean + self.deviations * max(float(np.std(seen)), LEAST_DEVIATION * abs(mean))
