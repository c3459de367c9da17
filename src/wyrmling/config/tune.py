"""`[tune]`: settings searched by real trainings."""

from __future__ import annotations

from pydantic import Field

from wyrmling.config.objective import Limits
from wyrmling.config.section import Section


class Tune(Section):
    """What `wyrmling tune` searches; `--over` on the command line adds to it."""

    over: dict[str, str] = Field(default={})
    """Settings and where to look: "train.tune.lr" = "1e-5..1e-3:log", or values such as "lora,full"."""
    trials: int = Field(default=20, ge=1)
    """Trainings at most, given-up ones included; the one with the settings as they are comes on top."""
    prune: bool = True
    """Give up a trial that falls behind the others, or surely behind the best one on the same validation rows."""
    budget: Limits = Limits()
    """What the whole search may take; None of a limit: as much as its trials need."""
