"""`wyrmling runs`: the trainings of a project, those that go on now included, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wyrmling.config import Project
from wyrmling.core import artifact, steps
from wyrmling.core.errors import CorruptArtifact, UsageError
from wyrmling.core.steps import STEPS_FILE
from wyrmling.evaluate import picture

BARS = "▁▂▃▄▅▆▇█"
# Characters of a curve in a list, and in a comparison.
SHORT, LONG = 16, 60


@dataclass(frozen=True)
class Run:
    """One training step that was or is being trained. Figures are None where nothing was measured yet.

    name    of its folder: step and id
    state   done or unfinished
    """

    name: str
    state: str
    created: str
    objective: str
    method: str
    steps: int
    tokens: int
    loss: float | None
    val: Mapping[str, float]
    seconds: float
    wh: float
    memory_gb: float | None
    meter: str
    parameters: int | None
    model: Path | None
    settings: Mapping[str, Any]
    forecast: Mapping[str, Any] | None
    losses: tuple[tuple[int, float], ...]
    val_losses: tuple[tuple[int, float], ...]

    @property
    def wh_per_1000_tokens(self) -> float | None:
        return 1000 * self.wh / self.tokens if self.tokens else None

    def document(self) -> dict[str, Any]:
        values = {name: value for name, value in vars(self).items() if name not in ("settings", "losses", "val_losses")}
        return values | {
            "wh_per_1000_tokens": self.wh_per_1000_tokens,
            "model": str(self.model) if self.model else None,
        }


def find(project: Project) -> list[Run]:
    """Every run of the project, the oldest first."""
    folder = project.runs / "train"
    done = [_done(path.parent) for path in folder.glob(f"[!.]*/{artifact.MANIFEST}")]
    going = [_unfinished(path.parent) for path in folder.glob(f".*.work/{STEPS_FILE}")]
    return sorted((run for run in (*done, *going) if run is not None), key=lambda run: run.created)


def _done(path: Path) -> Run | None:
    with suppress(CorruptArtifact):
        manifest = artifact.open_artifact(path, verify=False).manifest
        figures, cost, step = manifest["figures"], manifest["cost"], manifest["settings"]["step"]
        return Run(
            name=path.name,
            state="done",
            created=manifest["created"],
            objective=step["objective"],
            method=step["method"],
            steps=figures["steps"],
            tokens=figures["tokens"],
            loss=figures["loss"],
            val=figures["val"],
            seconds=cost["seconds"],
            wh=cost["wh"],
            memory_gb=cost["peak_memory_gb"],
            meter=cost["meter"],
            parameters=figures["parameters"],
            model=path / "model",
            settings=manifest["settings"],
            forecast=manifest["forecast"],
            **_losses(path),
        )
    return None


def _unfinished(path: Path) -> Run | None:
    """A run that goes on now or was interrupted, by what its steps.jsonl says."""
    done, looks = steps.read(path / STEPS_FILE)
    if not done:
        return None
    last = done[-1]
    when = datetime.fromtimestamp((path / STEPS_FILE).stat().st_mtime, UTC)
    return Run(
        name=path.name.removeprefix(".").removesuffix(".work"),
        state="unfinished",
        created=when.isoformat(timespec="seconds"),
        objective="",
        method="",
        steps=last["step"],
        tokens=last["tokens"],
        loss=last["loss"],
        val=looks[-1]["val"] if looks else {},
        seconds=last["seconds"],
        wh=last["wh"],
        memory_gb=last.get("memory_gb"),
        meter="",
        parameters=None,
        model=None,
        settings={},
        forecast=None,
        **_losses(path),
    )


def _losses(path: Path) -> dict[str, tuple[tuple[int, float], ...]]:
    curve = steps.curve(path / STEPS_FILE) or {"train": [], "val": []}
    return {"losses": tuple(curve["train"]), "val_losses": tuple(curve["val"])}


def listing(project: Project) -> tuple[dict[str, Any], str]:
    """Every run on a line, the oldest first, with its loss as a curve."""
    found = find(project)
    if not found:
        return {"runs": []}, "nothing was trained yet; begin with: wyrmling run"
    width = max(len(run.name) for run in found) + 2
    head = f"{'run':<{width}}{'objective':<17}{'steps':>7}  {'loss':<{SHORT + 8}}{'validation':<21}"
    head += f"{'minutes':>8}{'Wh':>9}{'mWh/1k tokens':>15}  state"
    return {"runs": [run.document() for run in found]}, "\n".join([head, *(_line(run, width) for run in found)])


def _line(run: Run, width: int) -> str:
    what = f"{run.objective} {run.method}".strip() or "-"
    loss = "-" if run.loss is None else f"{run.loss:.4f}"
    per = run.wh_per_1000_tokens
    return (
        f"{run.name:<{width}}{what:<17}{run.steps:>7,}  {loss:<7} {sparkline(run.losses, SHORT):<{SHORT}}"
        f"{_judged(run.val):<21}{run.seconds / 60:>8.2f}{run.wh:>9.3f}{'-' if per is None else f'{1000 * per:.3f}':>15}"
        f"  {run.state}"
    )


def _judged(val: Mapping[str, float]) -> str:
    """The figure that people ask for first."""
    name = next((name for name in ("macro_f1", "entity_f1", "bits_per_byte", "loss") if name in val), None)
    return "-" if name is None else f"{name} {val[name]:.4f}"


def sparkline(points: Sequence[tuple[int, float]], width: int, ends: tuple[float, float] | None = None) -> str:
    """A curve in one line of text; ends: the values of the lowest and the highest bar, None: those of the points."""
    if not points:
        return ""
    values = [value for _, value in steps.averaged(points, width)]
    low, high = ends or (min(values), max(values))
    span = (high - low) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int((value - low) / span * len(BARS)))] for value in values)


def compare(project: Project, first: str, second: str) -> tuple[dict[str, Any], str]:
    """Where two runs differ: settings, figures, cost, forecast; and their losses on one scale.

    Raises   UsageError when a name means no run, or more than one
    """
    runs = find(project)
    a, b = _named(runs, first), _named(runs, second)
    rows = [row for row in _figures(a, b) if row[1] != row[2]]
    settings = [row for row in _settings(a, b) if row[1] != row[2]]
    document = {
        "runs": [a.document(), b.document()],
        "settings": {name: [old, new] for name, old, new in settings},
    }
    width = max(len(row[0]) for row in [*rows, *settings, ("", "", "")]) + 2
    lines = [f"{'':<{width}}{a.name:<34}{b.name}"]
    lines += [f"{name:<{width}}{_short(old):<34}{_short(new)}" for name, old, new in rows]
    if settings:
        lines += [
            "settings that differ",
            *(f"{name:<{width}}{_short(old):<34}{_short(new)}" for name, old, new in settings),
        ]
    values = [value for run in (a, b) for _, value in run.losses]
    if values:
        ends = (min(values), max(values))
        lines.append(f"loss, from {ends[0]:.4f} to {ends[1]:.4f}; across: the steps of each run")
        lines += [f"{run.name:<{width + 12}}{sparkline(run.losses, LONG, ends)}" for run in (a, b)]
    return document, "\n".join(lines)


def plot(project: Project, names: Sequence[str], out: Path) -> tuple[dict[str, Any], str]:
    """Write the losses of some runs, or of all, as one picture: training rows averaged, validation rows dashed.

    Raises   UsageError when a name means no run or more than one, nothing was trained yet, or for another ending of
             the file than .png and .pdf
    """
    found = find(project)
    chosen = [_named(found, name) for name in names] or found
    lines = []
    for colour, run in enumerate(chosen):
        lines += [picture.Line(run.name, run.losses, colour, False)] if run.losses else []
        lines += [picture.Line(f"{run.name} validation", run.val_losses, colour, True)] if run.val_losses else []
    if not lines:
        raise UsageError("there is no loss to show yet", fix="train first: wyrmling run")
    picture.save(out, lines, "optimizer step", "loss, nats per target")
    return {"runs": [run.name for run in chosen], "picture": str(out)}, f"picture {out}"


def _named(runs: Sequence[Run], name: str) -> Run:
    """By folder name, id, step name, or the beginning of one of them."""
    exact = [run for run in runs if name in (run.name, run.name.rpartition("-")[2], run.name.rpartition("-")[0])]
    found = exact or [run for run in runs if run.name.startswith(name) or run.name.rpartition("-")[2].startswith(name)]
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} runs are called {name!r}" if found else f"there is no run {name!r}"
    known = ", ".join(run.name for run in found or runs) or "none"
    raise UsageError(problem, fix=f"name one of: {known}")


def _figures(a: Run, b: Run) -> Iterator[tuple[str, Any, Any]]:
    for name in ("state", "objective", "method", "steps", "tokens", "parameters", "loss"):
        yield name, getattr(a, name), getattr(b, name)
    for name in sorted({*a.val, *b.val}):
        yield f"val {name}", a.val.get(name), b.val.get(name)
    yield "minutes", a.seconds / 60, b.seconds / 60
    yield "  forecast", _forecast(a, "minutes"), _forecast(b, "minutes")
    yield "memory GB", a.memory_gb, b.memory_gb
    yield "  forecast", _forecast(a, "memory_gb"), _forecast(b, "memory_gb")
    yield "Wh", a.wh, b.wh
    yield "Wh/1,000 tokens", a.wh_per_1000_tokens, b.wh_per_1000_tokens


def _forecast(run: Run, name: str) -> float | None:
    return None if run.forecast is None else float(run.forecast[name]["value"])


def _settings(a: Run, b: Run) -> Iterator[tuple[str, Any, Any]]:
    one, two = dict(_flat(a.settings)), dict(_flat(b.settings))
    for name in sorted({*one, *two}):
        yield name, one.get(name), two.get(name)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)
