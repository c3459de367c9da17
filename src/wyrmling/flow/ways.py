"""The ways to a model, from asking a ready one with a few examples to training from scratch: what each would take.

Which of them is good enough only an evaluation tells; this is what they cost before one is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wyrmling.config import Project, TrainMethod
from wyrmling.core import hardware
from wyrmling.core.errors import UsageError
from wyrmling.flow import stage_costs
from wyrmling.flow.facts import Known
from wyrmling.train import forecast, sizing
from wyrmling.train.forecast import Forecast, Pricing
from wyrmling.train.sizing import Shape
from wyrmling.train.workload import work_of

METHODS: tuple[TrainMethod, ...] = ("probe", "lora", "full")


@dataclass(frozen=True)
class Way:
    """One way. forecast: of its training, of few-shot of answering the test rows; None where there is no such way."""

    name: str
    model: str
    forecast: Forecast | None
    note: str = ""

    def document(self) -> dict[str, Any]:
        costs = {} if self.forecast is None else self.forecast.document()
        return {"name": self.name, "model": self.model, **costs, "note": self.note}


def ways(project: Project, known: Known, shape: Shape | None, pricing: Pricing) -> Iterator[Way]:
    """Every way, the cheapest kind first.

    shape   of the project's own base model; None when it starts from scratch: then of a known open model
    """
    name, base, against = _suggested(project) if shape is None else (project.settings.model.base, shape, "")
    if base is None:
        yield from (Way(method, "", None, "no known open model does this") for method in ("few-shot", *METHODS))
    else:
        yield _few_shot(name, base, known, pricing)
        yield from (Way(method, name, _trained(project, known, base, method, pricing), against) for method in METHODS)
    every = forecast.forecast(project, known.facts, validation_tokens=known.validation_tokens)
    yield Way("from scratch", "a new one", forecast.total(list(every.values())), f"all of {', '.join(every)}")


def _suggested(project: Project) -> tuple[str, Shape | None, str]:
    """Name and sizes of the largest known model whose training fits, else of the cheapest; what speaks against it."""
    from wyrmling.flow import suggest

    try:
        first = suggest.suggest(project)[0]
    except UsageError:
        return "", None, ""
    return first.model.id, first.model.shape, "; ".join(f"full: {reason}" for reason in first.against[:1])


def _few_shot(name: str, base: Shape, known: Known, pricing: Pricing) -> Way:
    cost = stage_costs.few_shot(known, base, pricing)
    how = f"{stage_costs.SHOTS} examples before each of" if base.causal else "the nearest training rows for"
    return Way("few-shot", name, cost, f"no training; {how} {known.test_rows:,} test rows")


def _trained(project: Project, known: Known, base: Shape, method: TrainMethod, pricing: Pricing) -> Forecast:
    """The last train step with this method, from the base."""
    from wyrmling.flow.suggest import retold

    settings, step = project.settings, project.steps[-1].model_copy(update={"method": method})
    facts = retold(known.facts, base.vocab_size)
    derived = sizing.derive_step(settings, step, base, facts, scratch=False, first=True)
    arithmetic = hardware.dtype(facts.device, settings.machine.dtype)
    work = work_of(step, base, derived, facts, dtype=arithmetic, validation_tokens=known.validation_tokens)
    return forecast.step_forecast(work, pricing)
