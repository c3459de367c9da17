"""What a search found: in words, as a document, and as one HTML file with the course of every trial."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wyrmling.config import Project
from wyrmling.core import toml
from wyrmling.evaluate import charts
from wyrmling.evaluate.charts import Curve, Dot
from wyrmling.evaluate.html import document, section, table
from wyrmling.flow.trials import Record
from wyrmling.flow.tune import Search, shown

if TYPE_CHECKING:
    from wyrmling.train.rivals import Comparison


def answer(search: Search) -> tuple[dict[str, Any], str]:
    """What the verb says: the trials, the best settings, and how they compare with those of the project file."""
    best, compared, plot = search.best, search.compared(), search.folder / "tune.html"
    plot.write_text(page(search.records, search.judge.name, list(search.space)), encoding="utf-8")
    winning = [] if best is None else [f"{key}={value}" for key, value in best.settings.items()]
    found = {
        "metric": search.judge.name,
        "higher_is_better": search.judge.higher_is_better,
        "best": None if best is None else best.document(),
        "set": winning,
        "toml": pasted(search.project, winning),
        "against_present": None if compared is None else vars(compared),
        "trials": [record.document() for record in search.records],
        "spent": search.spent(),
        "stopped": search.stopped,
        "plot": str(plot),
    }
    return found, "\n".join(_text(search, winning, compared, plot))


def _text(search: Search, winning: list[str], compared: Comparison | None, plot: Path) -> Iterator[str]:
    yield f"{search.judge.name:>12}  {'minutes':>8}  {'looks':>5}  settings"
    for record in search.records:
        settings = "  ".join(f"{key}={value}" for key, value in record.settings.items()) or "as they are"
        ended = "" if record.end == "done" else f"  [{record.end}: {record.why}]"
        minutes = record.spent["seconds"] / 60
        yield f"{shown(record.value):>12}  {minutes:>8.2f}  {len(record.curve):>5}  {settings}{ended}"
    spent = search.spent()
    yield f"in all {spent['seconds'] / 60:.1f} minutes, {spent['wh']:.2f} Wh, ${spent['usd']:.4f}" + (
        f"; {search.stopped}" if search.stopped else ""
    )
    if search.best is None:
        yield "no trial came to its end"
    elif not winning:
        yield "the settings as they are did best"
    else:
        if compared is not None:
            yield (
                f"against the settings as they are: {compared.difference:+.4f} a target on {compared.rows} validation "
                f"rows, p {compared.p:.2g} ({compared.test}); the best of many looks better than it is: test it with "
                "wyrmling evaluate"
            )
        yield "the best: wyrmling train " + " ".join(f"--set {text}" for text in winning)
        yield f"or, in wyrmling.toml in the place of what is there:\n\n{pasted(search.project, winning)}\n"
    yield f"plot {plot}"


def pasted(project: Project, winning: Sequence[str]) -> str:
    """The sections of wyrmling.toml that the winning settings belong to, with them, to stand in the old ones' place."""
    raw = project.with_settings(winning).settings.model_dump(mode="json", exclude_unset=True)
    return "\n".join(toml.lines({name: raw[name] for name in dict.fromkeys(key.partition(".")[0] for key in winning)}))


def page(records: Sequence[Record], metric: str, keys: Sequence[str]) -> str:
    """The page; `keys` are the settings that were searched."""
    looked = [record for record in records if record.curve]
    curves = [
        Curve(
            _settings(record), [(number, value) for number, value in enumerate(record.curve, 1)], record.end == "done"
        )
        for record in looked
    ]
    sections = [f"<header><h1>Search over {escape(', '.join(keys))}</h1></header>"]
    if curves:
        figure = charts.curves(curves, f"{metric} of each trial by look", "look", metric)
        sections.append(section("How the trials went", f"<figure>{figure}</figure>"))
    sections += [section(escape(key), f"<figure>{plot}</figure>") for key, plot in _plots(records, metric, keys)]
    sections.append(section("Trials", _table(records, metric)))
    return document("Search", sections)


def _plots(records: Sequence[Record], metric: str, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """For each setting the figure of the trials over its values; numbers on a line, names side by side."""
    for key in keys:
        tried = [record for record in records if key in record.settings and record.value is not None]
        if not tried:
            continue
        numbers = [_number(record.settings[key]) for record in tried]
        names = sorted({record.settings[key] for record in tried})
        numeric = all(number is not None for number in numbers)
        dots = [
            Dot(
                number if numeric and number is not None else float(names.index(record.settings[key])),
                record.value or 0.0,
                record.settings[key],
                record.end == "done",
            )
            for record, number in zip(tried, numbers, strict=True)
        ]
        yield key, charts.dots(dots, f"{metric} over {key}", key, metric)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _settings(record: Record) -> str:
    return ", ".join(f"{key} {value}" for key, value in record.settings.items()) or "as they are"


def _table(records: Sequence[Record], metric: str) -> str:
    rows = [
        [
            escape(_settings(record)),
            "" if record.value is None or not math.isfinite(record.value) else f"{record.value:.4f}",
            str(len(record.curve)),
            f"{record.spent['seconds'] / 60:.2f}",
            f"{record.spent['wh']:.3f}",
            escape(f"{record.end}: {record.why}" if record.why else record.end),
        ]
        for record in records
    ]
    return table(["settings", metric, "looks", "minutes", "Wh", "end"], rows, numbers=(1, 2, 3, 4))
