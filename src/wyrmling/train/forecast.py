"""What a training step will take, from a closed form: minutes, memory, money, energy, CO2, each with its uncertainty.

train/workload.py counts the work and `core.hardware.rates` says how fast this machine is; what earlier steps took here,
against what was forecast, corrects the result. No torch is imported unless the rates were never measured, or memory is
simulated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Literal

from wyrmling.config import Project, TrainObjective, TrainStep
from wyrmling.core import energy, hardware
from wyrmling.core.energy import Tariff
from wyrmling.core.hardware import Rates
from wyrmling.core.store import ForecastRecord, Store
from wyrmling.train import sizing
from wyrmling.train.sizing import Derived, Facts, Shape
from wyrmling.train.workload import Work, memory_gb, room_gb, seconds, total_flops, work_of

Quantity = Literal["minutes", "memory_gb", "kwh"]
QUANTITIES: tuple[Quantity, ...] = ("minutes", "memory_gb", "kwh")
# In records and manifests, beside the quantities: by this the same work is known again.
FLOPS = "flops"

# Factors up and down that hold most errors: before anything was seen on this machine, and at best.
FIRST_BAND = {"minutes": 1.6, "memory_gb": 1.3, "kwh": 1.6}
# An estimated power adds this factor to those of energy, money and CO2.
POWER_BAND = 1.5
LEAST_BAND = 1.15
# Corrections come from this many of the latest records; of the very same work the last few say all.
RECORDS, SAME_RECORDS = 8, 3
# What is left once the same work was measured here, by real steps or to its end (on a machine shared with others, see
# benchmarks/RESULTS.md).
SAME_BAND: Mapping[Quantity, float] = {"minutes": 1.25, "memory_gb": 1.15, "kwh": 1.3}
# What is left of memory that was counted by train/simulate.py (six runs, docs/plan.md).
SIMULATED_BAND = 1.3
# What a forecast of the same work rests on.
REAL_STEPS = "real steps"
# Two steps of an objective whose FLOPs differ by less are the same work; a padded vocabulary makes some difference.
SAME_WORK = 1.05


@dataclass(frozen=True)
class Range:
    """A forecast value and the bounds that hold it about nine times in ten."""

    value: float
    low: float
    high: float

    @staticmethod
    def around(value: float, factor: float) -> Range:
        """From value / factor to value x factor."""
        return Range(value, value / factor, value * factor)

    def scaled(self, factor: float) -> Range:
        return Range(self.value * factor, self.low * factor, self.high * factor)

    def plus(self, other: Range) -> Range:
        """The sum, bounds added: errors on one machine go the same way."""
        return Range(self.value + other.value, self.low + other.low, self.high + other.high)

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Forecast:
    """What a piece of work will take on this machine."""

    minutes: Range
    memory_gb: Range
    usd: Range
    kwh: Range
    kg_co2: Range
    closed_form: Mapping[Quantity, float]
    """The values before they were corrected by earlier work."""
    basis: str = "closed form"
    """What the values rest on, in words."""
    flops: float = 0.0
    """Of a training step: all of its multiply-adds, counted as two."""

    def document(self) -> dict[str, dict[str, float]]:
        """{minutes, memory_gb, usd, kwh, kg_co2}, each {value, low, high}."""
        names = ("minutes", "memory_gb", "usd", "kwh", "kg_co2")
        return {name: getattr(self, name).as_dict() for name in names}

    def manifest(self) -> dict[str, dict[str, float]]:
        """The document, with `closed_form` beside the corrected values: what the next correction is learned from."""
        document = self.document() | {FLOPS: {"value": self.flops}}
        for name, value in self.closed_form.items():
            document[name]["closed_form"] = value
        return document


@dataclass(frozen=True)
class Correction:
    """What earlier work on this machine took, over what the closed form said; and the band that remains.

    runs   the pieces of work it was learned from; 0: none, every factor is 1
    same   True when they were this very work
    """

    factor: Mapping[Quantity, float]
    band: Mapping[Quantity, float]
    runs: int
    same: bool = False

    @property
    def basis(self) -> str:
        """What a forecast rests on, for people."""
        if self.same:
            return REAL_STEPS
        return f"{self.runs} earlier runs" if self.runs > 1 else "an earlier run" if self.runs else "closed form"


def correct(records: Iterable[ForecastRecord], objective: TrainObjective, flops: float | None = None) -> Correction:
    """The factors that earlier forecasts on this machine were off by: the median over the latest steps alike.

    Records of the very same work (the same objective and FLOPs) are believed as they are. Without them, steps of the
    same objective count when there are any, else all; few records move the factor less.
    """
    every = list(records)
    if flops is not None and (same := [r for r in every if _is_same(r, objective, flops)][-SAME_RECORDS:]):
        factor = {name: _median_ratio(same, name) for name in QUANTITIES}
        return Correction(factor, SAME_BAND, len(same), same=True)
    alike = [record for record in every if record.work.endswith(f"/{objective}")] or every
    chosen = alike[-RECORDS:]
    learned = {name: _learn(chosen, name) for name in QUANTITIES}
    factor = {name: factor for name, (factor, _) in learned.items()}
    return Correction(factor, {name: band for name, (_, band) in learned.items()}, len(chosen))


def _is_same(record: ForecastRecord, objective: TrainObjective, flops: float) -> bool:
    theirs = record.forecast.get(FLOPS, 0.0)
    alike = theirs > 0 and flops > 0 and abs(math.log(flops / theirs)) < math.log(SAME_WORK)
    return alike and record.work.endswith(f"/{objective}")


def _ratios(records: Iterable[ForecastRecord], name: Quantity) -> list[float]:
    """Actual over forecast of the records that have this quantity."""
    pairs = [(r.forecast.get(name, 0), r.actual.get(name, 0)) for r in records]
    return [actual / forecast for forecast, actual in pairs if actual > 0 and forecast > 0]


def _median_ratio(records: Iterable[ForecastRecord], name: Quantity) -> float:
    ratios = _ratios(records, name)
    return median(ratios) if ratios else 1.0


def _learn(records: Iterable[ForecastRecord], name: Quantity) -> tuple[float, float]:
    """Factor and band of one quantity, from the records that have it."""
    logs = [math.log(ratio) for ratio in _ratios(records, name)]
    if not logs:
        return 1.0, FIRST_BAND[name]
    n, middle = len(logs), median(logs)
    spread = median(abs(value - middle) for value in logs)
    # The first band shrinks with every record; 3 median deviations hold most of a bell curve.
    band = max(LEAST_BAND, FIRST_BAND[name] ** (1 / n), math.exp(3 * spread))
    return math.exp(middle * n / (n + 0.5)), band


def priced(
    closed_form: Mapping[Quantity, float], correction: Correction, tariff: Tariff, *, power_known: bool = True
) -> Forecast:
    """The forecast with its bounds and prices.

    closed_form   minutes, memory_gb and kwh (PUE included)
    power_known   False when the power is an estimate too: that widens the bounds of energy, money and CO2
    """
    minutes, memory, kwh = (
        Range.around(closed_form[name] * correction.factor[name], correction.band[name]) for name in QUANTITIES
    )
    if not power_known and not correction.runs:
        kwh = Range.around(kwh.value, correction.band["kwh"] * POWER_BAND)
    usd = minutes.scaled(tariff.usd_per_hour / 60).plus(kwh.scaled(tariff.usd_per_kwh))
    kg_co2 = kwh.scaled(tariff.g_co2_per_kwh / 1000)
    return Forecast(minutes, memory, usd, kwh, kg_co2, dict(closed_form), correction.basis)


def total(forecasts: Sequence[Forecast]) -> Forecast:
    """Work done one after the other: times and costs add up, memory is that of the largest."""
    whole = forecasts[0]
    for one in forecasts[1:]:
        largest = max(whole.memory_gb, one.memory_gb, key=lambda r: r.value)
        whole = Forecast(
            minutes=whole.minutes.plus(one.minutes),
            memory_gb=replace(largest, high=max(whole.memory_gb.high, one.memory_gb.high)),
            usd=whole.usd.plus(one.usd),
            kwh=whole.kwh.plus(one.kwh),
            kg_co2=whole.kg_co2.plus(one.kg_co2),
            closed_form={
                "minutes": whole.closed_form["minutes"] + one.closed_form["minutes"],
                "memory_gb": max(whole.closed_form["memory_gb"], one.closed_form["memory_gb"]),
                "kwh": whole.closed_form["kwh"] + one.closed_form["kwh"],
            },
        )
    return whole


@dataclass(frozen=True)
class Pricing:
    """What turns minutes into money on this machine, opened once for all stages of a project."""

    tariff: Tariff
    watts: float
    watts_from: str
    power_known: bool
    records: tuple[ForecastRecord, ...]

    @staticmethod
    def of(project: Project) -> Pricing:
        """Prices and power from `[machine]`, and this machine's earlier forecasts from the project database."""
        asked = project.settings.machine
        boards = sum(gpu.watts for gpu in hardware.machine().gpus)
        on_gpu = hardware.device(asked.device) == "cuda"
        watts, source = energy.full_load_watts(asked.watts, gpu_watts=boards if on_gpu else 0.0)
        return Pricing(project.meter().tariff, watts, source, asked.watts is not None, _records(project))

    def forecast(self, minutes: float, memory: float, correction: Correction) -> Forecast:
        """The forecast of work that takes so long, at full load."""
        kwh = self.watts * minutes / 60 / 1000 * self.tariff.pue
        closed: dict[Quantity, float] = {"minutes": minutes, "memory_gb": memory, "kwh": kwh}
        return priced(closed, correction, self.tariff, power_known=self.power_known)


def _records(project: Project) -> tuple[ForecastRecord, ...]:
    """What happened on this machine before; nothing where the project has no database yet."""
    if project.settings.database is None and not (project.root / "wyrmling.db").is_file():
        return ()
    store = Store.open(project.database_url)
    try:
        return tuple(store.forecasts(hardware.machine().id))
    finally:
        store.close()


def step_forecast(work: Work, pricing: Pricing, rates: Rates | None = None) -> Forecast:
    """The forecast of one training step. rates: None measures them, or reads what was measured before."""
    measured = rates or hardware.rates(work.device, use_threads=work.threads)
    minutes, memory = seconds(work, measured) / 60, memory_gb(work)
    flops = total_flops(work)
    found = pricing.forecast(minutes, memory, correct(pricing.records, work.objective, flops))
    return replace(found, flops=flops)


def works(
    project: Project, facts: Facts, *, shape: Shape | None = None, validation_tokens: float = 0
) -> dict[str, tuple[Derived, Work]]:
    """The numbers and the work of every train step by its name, in order.

    shape   the model's sizes; None derives them as for a model from scratch
    """
    settings = project.settings
    scratch = shape is None
    sizes = shape or sizing.derive_model(settings, project.steps, facts)
    arithmetic = hardware.dtype(facts.device, settings.machine.dtype)
    room = room_gb(settings, facts.device)
    found = {}
    for number, step in enumerate(project.steps):
        derived = sizing.derive_step(settings, step, sizes, facts, scratch=scratch, first=number == 0)
        work = work_of(step, sizes, derived, facts, dtype=arithmetic, validation_tokens=validation_tokens, room_gb=room)
        found[step.name] = derived, work
    return found


def forecast(
    project: Project, facts: Facts, *, shape: Shape | None = None, validation_tokens: float = 0, simulated: bool = False
) -> dict[str, Forecast]:
    """The forecast of every train step by its name, in order, for the arguments of `works`; `total` adds them up.

    Their memory is that of one process for all, which keeps what a step has freed for the next one.
    simulated   count the memory of what was not measured here with tensors that have no values: seconds for each step
    """
    pricing = Pricing.of(project)
    found = works(project, facts, shape=shape, validation_tokens=validation_tokens)
    forecasts = {name: step_forecast(work, pricing) for name, (_, work) in found.items()}
    for step in project.steps if simulated else ():
        if forecasts[step.name].basis != REAL_STEPS:
            forecasts[step.name] = _with_simulated_memory(forecasts[step.name], step, *found[step.name])
    for before, name in pairwise(forecasts):
        one, kept = forecasts[name], forecasts[before].memory_gb
        if one.basis != REAL_STEPS and kept.value > one.memory_gb.value:
            forecasts[name] = replace(one, memory_gb=kept)
    return forecasts


def _with_simulated_memory(said: Forecast, step: TrainStep, derived: Derived, work: Work) -> Forecast:
    """Earlier work corrects the closed form, which is not used here."""
    from wyrmling.train import simulate

    memory = simulate.memory_gb(step, work, derived)
    if memory is None:
        return said
    return replace(said, memory_gb=Range.around(memory, SIMULATED_BAND), basis=f"{said.basis}; memory simulated")
