"""How fast a run goes: seconds of a step and of a look, the share of the machine's peak, and what is still to come."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from statistics import fmean

from wyrmling.config import Limits
from wyrmling.core import hardware, ranks
from wyrmling.train.workload import Work, flops_per_token

# The time of a step is the mean of so many; the first of a run, which also warms the machine up, is left out.
RECENT, WARM_UP = 20, 1
# From so many steps after the first on, the pace is worth saying.
KNOWN_AFTER = 3
# Seconds that the end of a small run takes (measured: 0.3 to 0.6): model folder, probes, hashes. A large one takes as
# long again as its checkpoint.
CLOSING_SECONDS = 1.0


class Pace:
    """Told about every step, look and checkpoint of a run.

    work    the training step; its FLOPs are those of docs/plan.md
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.seen = 0
        self.look_seconds = self.save_seconds = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._flops = work.passes * flops_per_token(work)
        self._peak = hardware.rates(work.device, use_threads=work.threads).of(work.dtype) * ranks.world()

    @property
    def is_known_now(self) -> bool:
        """True after the step that made the pace known, and only then."""
        return self.seen == WARM_UP + KNOWN_AFTER

    @property
    def step_seconds(self) -> float:
        """Mean seconds of the last steps; 0 before the first."""
        return fmean(self._recent) if self._recent else 0.0

    def step(self, tokens: int, seconds: float) -> dict[str, float]:
        """Take note of a step; its figures for steps.jsonl.

        Gives    tokens_per_second, and mfu: FLOPs of the model over those that matrix products of this arithmetic
                 reach here, by the probe of `hardware.rates`
        """
        self.seen += 1
        if self.seen == WARM_UP + 1:
            self._recent.clear()
        self._recent.append(seconds)
        rate = tokens / max(seconds, 1e-9)
        return {"tokens_per_second": round(rate, 1), "mfu": round(rate * self._flops / self._peak, 4)}

    @contextlib.contextmanager
    def look(self) -> Iterator[None]:
        """Around a look at the validation rows."""
        began = time.monotonic()
        yield
        self.look_seconds = time.monotonic() - began

    @contextlib.contextmanager
    def save(self) -> Iterator[None]:
        """Around the writing of a checkpoint."""
        began = time.monotonic()
        yield
        self.save_seconds = time.monotonic() - began

    def left(self, steps: int, looks: int) -> float:
        """Seconds that so many steps and looks will take at this pace."""
        return steps * self.step_seconds + looks * self.look_seconds

    def passed_by_the_next(self, budget: Limits, used: Mapping[str, float], spent: Mapping[str, float]) -> str | None:
        """The limit of a budget that one more step, and what has to follow it, would pass; None: there is room.

        used    seconds, usd and wh of the project's steps so far
        spent   the same of this run: what a second of it costs
        """
        closing = CLOSING_SECONDS + 2 * self.save_seconds
        return limit_passed(budget, used, spent, self.left(1, 1) + closing)


def limit_passed(budget: Limits, used: Mapping[str, float], spent: Mapping[str, float], seconds: float) -> str | None:
    """The first limit that `used` and so many seconds more, at the cost of `spent` per second, would pass."""
    more = seconds / max(spent["seconds"], 1e-9)
    limits = (
        ("hours", budget.hours, "seconds", 3600),
        ("usd", budget.usd, "usd", 1),
        ("kwh", budget.kwh, "wh", 1000),
    )
    for name, limit, what, unit in limits:
        if limit is not None and used[what] + more * spent[what] > limit * unit:
            return name
    return None
