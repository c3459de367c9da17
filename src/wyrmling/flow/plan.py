"""`wyrmling plan`: before anything runs, what is derived and why, what it will cost, and whether to train at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wyrmling.config import Project
from wyrmling.core import hardware
from wyrmling.core.errors import BadSetting
from wyrmling.flow import facts, rungs, stage_costs, ways
from wyrmling.flow.facts import Known
from wyrmling.flow.summary import aligned
from wyrmling.flow.ways import Way
from wyrmling.train import forecast, sizing
from wyrmling.train.forecast import Forecast, Pricing, Range
from wyrmling.train.sizing import Derived, Shape
from wyrmling.train.spread import spread

# The derived numbers that a reader may want to set, by step.
STEP_NUMBERS = (
    "steps",
    "batch_tokens",
    "micro_batch_tokens",
    "optimizer",
    "lr",
    "embedding_lr",
    "head_lr",
    "scalar_lr",
    "dropout",
    "label_smoothing",
    "weight_decay",
)
SHAPE_NUMBERS = ("family", "layers", "width", "heads", "ffn", "context")


@dataclass(frozen=True)
class Fit:
    """Whether a limit will hold: yes, perhaps (the limit lies within the error bar) or no."""

    limit: str
    value: float
    forecast: Range

    @property
    def status(self) -> str:
        if self.forecast.high <= self.value:
            return "fits"
        return "may not fit" if self.forecast.low <= self.value else "does not fit"

    def document(self) -> dict[str, Any]:
        return {"limit": self.limit, "value": self.value, "status": self.status, "forecast": self.forecast.as_dict()}


@dataclass(frozen=True)
class Plan:
    """What `plan` found. Nothing was made or changed."""

    project: str
    known: Known
    shape: Shape
    steps: Mapping[str, Derived]
    stages: Mapping[str, Forecast]
    total: Forecast
    fits: tuple[Fit, ...]
    accept: tuple[str, ...]
    advice: tuple[str, ...]
    power: str
    arithmetic: str
    ways: tuple[Way, ...] = ()
    launch: tuple[str, ...] = ()
    """How `wyrmling launch` would spread the model, when the project names several processes."""

    def document(self) -> dict[str, Any]:
        """The total as {minutes, memory_gb, usd, kwh, kg_co2}, each {value, low, high}; the rest beside it."""
        return {
            **self.total.document(),
            "stages": {name: {**one.document(), "from": one.basis} for name, one in self.stages.items()},
            "fits": [fit.document() for fit in self.fits],
            "derived": {
                "model": {name: getattr(self.shape, name) for name in SHAPE_NUMBERS}
                | {"parameters": self.shape.parameters, "reasons": self.shape.reasons},
                "train": {
                    name: {number: getattr(step, number) for number in STEP_NUMBERS} | {"reasons": step.reasons}
                    for name, step in self.steps.items()
                },
            },
            "facts": {
                "from": self.known.source,
                "exact": self.known.exact,
                "rows": self.known.rows,
                "bytes": self.known.n_bytes,
                "test_rows": self.known.test_rows,
                "train_tokens": sum(source.tokens for source in self.known.facts.sources),
                "vocab_size": self.known.facts.vocab_size,
                "labels": self.known.facts.labels,
            },
            "accept": list(self.accept),
            "advice": list(self.advice),
            "power": self.power,
            "ways": [way.document() for way in self.ways],
        }

    def text(self) -> str:
        """The same for a person."""
        return "\n\n".join(
            "\n".join(part)
            for part in (self._rows(), self._derived(), self._forecast(), self._ways(), self._limits())
            if part
        )

    def _rows(self) -> list[str]:
        known = self.known
        tokens = sum(source.tokens for source in known.facts.sources)
        about = "" if known.exact else "about "
        return [
            f"{self.project}: what `wyrmling run` would take; nothing is run now",
            f"{about}{known.rows:,} rows, {known.n_bytes / 1e6:.2f} MB, {about}{tokens:,} training tokens, "
            f"{known.test_rows:,} test rows (from {known.source})",
        ]

    def _derived(self) -> list[str]:
        shape = self.shape
        lines = [f"model: {shape.parameters:,} parameters, {self.arithmetic}", *self.launch]
        lines += _reasoned({name: getattr(shape, name) for name in SHAPE_NUMBERS}, shape.reasons)
        for name, step in self.steps.items():
            lines += [f"train.{name}:"]
            lines += _reasoned({number: getattr(step, number) for number in STEP_NUMBERS}, step.reasons)
        return lines

    def _forecast(self) -> list[str]:
        head = f"{'':<16}{'minutes':>26}{'memory GB':>26}{'Wh':>26}{'US dollars':>26}  from"
        lines = [f"{_costs(name, one)}  {one.basis}" for name, one in self.stages.items()]
        lines.append(_costs("total", self.total))
        grams = self.total.kg_co2.scaled(1000)
        return [head, *lines, f"CO2 {_range(grams)} g; power {self.power}"]

    def _ways(self) -> list[str]:
        """What other ways of training would take, for the last step."""
        lines = ["other ways, by what their training would take here:"]
        for way in self.ways:
            cost = f"{'-':>18}" if way.forecast is None else _costs("", way.forecast).strip()
            lines.append(f"  {way.name:<14}{cost}  {'; '.join(filter(None, (way.model, way.note)))}")
        return lines

    def _limits(self) -> list[str]:
        pairs = [(f"{f.limit} {f.value:g}", f"{f.status}: {_range(f.forecast)}") for f in self.fits]
        lines = aligned(pairs).splitlines() if pairs else []
        lines += [f"accept {line}" for line in self.accept]
        return lines + list(self.advice)


def plan(project: Project, *, simulate: bool = False) -> Plan:
    """Look at the sources and forecast every stage; takes seconds and makes nothing.

    simulate   count the memory of training with tensors that have no values, where no real steps were taken
    Raises   BadInput for sources that can't be read; BadSetting for a bad line of objective.accept
    """
    from wyrmling.evaluate import accept

    settings = project.settings
    accept.of(settings)
    known = facts.look(project)
    if known.names and settings.objective.task in accept.SLICED_TASKS:
        accept.of(settings, known.names)
    _check_sources(project, known)
    base = base_shape(project)
    shape = base or sizing.derive_model(settings, project.steps, known.facts)
    steps = {
        step.name: sizing.derive_step(settings, step, shape, known.facts, scratch=base is None, first=number == 0)
        for number, step in enumerate(project.steps)
    }
    pricing = Pricing.of(project)
    stages = dict(_stages(project, known, shape, base, pricing, simulate=simulate))
    whole = forecast.total(list(stages.values()))
    return Plan(
        project=settings.name,
        known=known,
        shape=shape,
        steps=steps,
        stages=stages,
        total=whole,
        fits=tuple(_fits(project, whole)),
        accept=settings.objective.accept,
        advice=tuple(rungs.advice(project, known)),
        power=f"{pricing.watts:.0f} W ({pricing.watts_from}), PUE {pricing.tariff.pue:g}",
        arithmetic=hardware.dtype(known.facts.device, settings.machine.dtype),
        ways=tuple(ways.ways(project, known, base, pricing)),
        launch=tuple(_launched(project, shape)),
    )


def _launched(project: Project, shape: Shape) -> Iterator[str]:
    """The processes of `[launch]`, on a machine like this one. Raises BadSetting when they can't be dealt out."""
    asked, gpus = project.settings.launch, hardware.machine().gpus
    near = asked.processes or max(1, len(gpus))
    if asked.nodes * near == 1:
        return
    on_board = gpus and hardware.device(project.settings.machine.device) == "cuda"
    memory = gpus[0].memory_gb if on_board else hardware.machine().memory_gb / near
    found = spread(asked, world=asked.nodes * near, node=near, parameters=shape.parameters, memory_gb=memory)
    yield (
        f"wyrmling launch: {asked.nodes * near} processes, {found.strategy}: {found.words()} ({found.reason}); "
        "the forecast is for one process"
    )


def _stages(
    project: Project, known: Known, shape: Shape, base: Shape | None, pricing: Pricing, *, simulate: bool
) -> Iterator[tuple[str, Forecast]]:
    yield "data", stage_costs.data(known, pricing)
    yield "tokenizer", stage_costs.tokenizer(known, pricing)
    trained = forecast.forecast(
        project, known.facts, shape=base, validation_tokens=known.validation_tokens, simulated=simulate
    )
    yield from ((f"train {name}", one) for name, one in trained.items())
    yield "evaluate", stage_costs.evaluate(project, known, shape, pricing)


def _check_sources(project: Project, known: Known) -> None:
    """Every step has rows to learn from. Raises BadSetting naming the step."""
    for step in project.steps:
        if not known.facts.of(step):
            wanted = " or ".join(sizing.KINDS[step.objective])
            there = sorted({f"{source.source}: {source.kind}" for source in known.facts.sources})
            raise BadSetting(
                f"train.{step.name}: the objective {step.objective!r} learns from {wanted} rows, and there are none",
                where=f"train.{step.name}.sources",
                fix=f"name sources that have such rows; those of this project are {', '.join(there)}",
            )


def base_shape(project: Project) -> Shape | None:
    """The sizes of the base model, from its config.json; None when training starts from scratch."""
    base = project.settings.model.base
    if base == "scratch":
        return None
    from wyrmling.flow import models
    from wyrmling.model import folder
    from wyrmling.tokenizer.folder import refuse_remote

    refuse_remote(project)

    return sizing.shape_of(
        folder.describe(models.resolve(project, base, whole=False)), f"the sizes of model.base = {base!r}"
    )


def _fits(project: Project, whole: Forecast) -> Iterator[Fit]:
    budget = project.settings.objective.budget
    on_cpu = hardware.device(project.settings.machine.device) == "cpu"
    limits = (
        ("budget hours", budget.hours, whole.minutes.scaled(1 / 60)),
        ("budget usd", budget.usd, whole.usd),
        ("budget kwh", budget.kwh, whole.kwh),
        ("budget memory_gb", budget.memory_gb, whole.memory_gb),
        ("free memory GB", round(hardware.available_memory_gb(), 1) if on_cpu else None, whole.memory_gb),
    )
    for name, value, ranged in limits:
        if value is not None:
            yield Fit(name, value, ranged)


def _reasoned(numbers: Mapping[str, Any], reasons: Mapping[str, str]) -> list[str]:
    """One line per number, with why it is so; a number without a reason was set by the user."""
    width = max(len(name) for name in numbers) + 2
    lines = []
    for name, value in numbers.items():
        shown = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        lines.append(f"  {name:<{width}}{shown:<12}{reasons.get(name, 'as set in the project file')}")
    return lines


def _costs(name: str, one: Forecast) -> str:
    parts = (one.minutes, one.memory_gb, one.kwh.scaled(1000), one.usd)
    return f"{name:<16}" + "".join(f"  {_range(part):>24}" for part in parts)


def _range(ranged: Range) -> str:
    return f"{_short(ranged.value)} ({_short(ranged.low)} to {_short(ranged.high)})"


def _short(value: float) -> str:
    """Two digits are all that a forecast has."""
    if value < 0.0005:
        return "<0.001" if value else "0"
    return f"{value:.0f}" if value >= 100 else f"{float(f'{value:.2g}'):g}"
