"""`[retrain]`: when the next model is trained, and what it must hold against the champion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wyrmling.config.section import Section


class Retrain(Section):
    every: str | None = Field(default=None, pattern=r"^[1-9]\d*[hdw]$")
    """Time after which `--when-needed` and `--watch` train again, such as "12h", "7d" or "4w". None: no such reason."""
    min_feedback: int = Field(default=50, ge=1)
    """Accepted feedback that no training has used, from which `--when-needed` and `--watch` train again."""
    start: Literal["champion", "trunk"] | None = None
    """What training starts from: the champion, or the trunk (the model that the champion's last step began with).
    None: the trunk when there is one."""
    margin: float = Field(default=0.02, ge=0)
    """What the challenger may lose against the champion in the main metric, on the same test rows."""
    slice_margin: float = Field(default=0.05, ge=0)
    """What it may lose in any part of the test rows (a label, a length, a source) at most."""
    new_failures: float = Field(default=0.05, ge=0, lt=1)
    """Share of the frozen feedback that the champion gets right and the challenger may get wrong; more only if it newly
    gets more right than that. 0: none, whatever got better."""
    extra_cost: float = Field(default=0.25, ge=0)
    """By what share the challenger may be slower or use more energy per answer."""
    implausible: float = Field(default=0.05, ge=0, le=1)
    """How much more often corrections may be far from the champion's likeliest labels than the right labels of its own
    errors on test rows are; a share."""
    canary_answers: int = Field(default=200, ge=20)
    """Answers of a challenger on trial (`serve.canary`) before it is judged."""
