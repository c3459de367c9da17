"""`[objective]`: the business goal as conditions and a budget."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wyrmling.config.section import Section, Strings

Task = Literal["complete", "chat", "classify", "tag", "answer", "summarize"]


class Limits(Section):
    hours: float | None = Field(default=None, gt=0)
    """Wall-clock hours that training may take. None: no limit."""
    usd: float | None = Field(default=None, gt=0)
    """Money that one run may cost, in US dollars. None: no limit."""
    kwh: float | None = Field(default=None, gt=0)
    """Energy that one run may use, in kilowatt-hours. None: no limit."""


class Budget(Limits):
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory that training may take, in GB. None: what the machine has."""


class Objective(Section):
    goal: str | None = None
    """The job of the model in one sentence, for the reports."""
    task: Task
    """What the model does: complete, chat, classify, tag, answer or summarize."""
    accept: Strings = ()
    """Conditions that the model must meet on the test rows, such as "macro_f1 >= 0.85" or "recall[refund] >= 0.8"."""
    budget: Budget = Budget()
