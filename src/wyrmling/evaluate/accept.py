"""`objective.accept`: the conditions a model must meet, as they are written.

A line is `metric OP value`, `metric[label] OP value` or `metric[column=value] OP value`, such as `macro_f1 >= 0.88`,
`recall[lost_card] >= 0.8`, `accuracy[length=long] >= 0.7`, `latency_p95_ms <= 200`, `macro_f1 > baseline.tfidf + 0.01`
or `macro_f1 >= champion - 0.02`. OP is >=, <=, > or <. A trailing `@point` decides on the point value and says so.
"""

from __future__ import annotations

import difflib
import json
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from wyrmling.config import SLICED_BY, Settings
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadSetting
from wyrmling.evaluate import answers, judge, metrics, power
from wyrmling.evaluate.risks import RISKS

OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_LINE = re.compile(
    r"^\s*(?P<metric>\w+)\s*(?:\[(?P<part>.*)\])?\s*(?P<op>>=|<=|>|<)\s*(?P<value>.+?)\s*(?P<point>@point)?\s*$"
)
_AGAINST = re.compile(r"^(?:baseline\.(?P<name>\w+)|(?P<champion>champion))\s*(?:(?P<sign>[+-])\s*(?P<margin>.+))?$")
CHAMPION = "champion"
EVERY = "*"

SPEED = ("latency_p50_ms", "latency_p95_ms", "rows_per_s")
COST = (*SPEED, "model_mb", "memory_mb", "wh_per_1k", "usd_per_1k", "gco2e_per_1k")
# What each task can be asked for.
OVERALL: dict[str, tuple[str, ...]] = {
    "classify": (*metrics.CLASSIFY, *metrics.PROBABILITY, *metrics.LABEL_SETS),
    "tag": (*metrics.TAG, "token_accuracy"),
    "complete": metrics.TEXT,
    "chat": metrics.TEXT,
    "answer": (*metrics.TEXT, *answers.NAMES),
    "summarize": (*metrics.TEXT, *answers.NAMES),
}
SLICED_TASKS = ("classify", "tag")
# The baselines a task has, cheapest first, and the metrics a paired difference to them is known for.
BASELINES: dict[str, tuple[str, ...]] = {
    "classify": ("majority", "tfidf"),
    "tag": ("frequent_tag", "crf"),
    **dict.fromkeys(("complete", "chat"), ("unigram", "five_gram")),
    **dict.fromkeys(("answer", "summarize"), ("bm25", "unigram", "five_gram")),
}
COMPARABLE: dict[str, tuple[str, ...]] = {
    "classify": (*metrics.CLASSIFY, *metrics.LABEL_SETS),
    "tag": (*metrics.TAG, "token_accuracy"),
    **dict.fromkeys(("complete", "chat", "answer", "summarize"), ("bpb",)),
}
# What the champion can be compared in beyond that: it gives probabilities, and answers, too.
WITH_CHAMPION: dict[str, tuple[str, ...]] = {
    **COMPARABLE,
    "classify": (*COMPARABLE["classify"], "log_loss", "brier"),
    "answer": ("bpb", *answers.NAMES),
    "summarize": ("bpb", *answers.NAMES),
}
# The values of the column `length` are always these.
LENGTHS = ("short", "medium", "long")


@dataclass(frozen=True)
class Criterion:
    """One parsed line of objective.accept.

    label, part   the label, or the (column, value) of the rows, that the metric is asked of; None: of all
    threshold     a number, or a margin over `against` when that is named: a baseline, or "champion"
    """

    text: str
    metric: str
    label: str | None
    part: tuple[str, str] | None
    op: str
    threshold: float
    against: str | None = None
    point: bool = False

    @property
    def name(self) -> str:
        inside = self.label if self.part is None else "=".join(self.part)
        return self.metric if inside is None else f"{self.metric}[{inside}]"

    @property
    def higher_is_better(self) -> bool:
        return self.op in (">=", ">")


Values = Mapping[str, Sequence[str]]
"""The values of each column that the test rows can be sliced by."""


def of(settings: Settings, labels: Sequence[str] | None = None) -> list[Criterion]:
    """The criteria of a project, checked as far as that is possible without its test rows; see `parse`."""
    objective = settings.objective
    return parse(objective.accept, objective.task, labels, kept=settings.data.kept)


def labels_in(data: Artifact, task: str) -> list[str] | None:
    """What conditions of a task may name in brackets: the labels or entity types of the data; None for other tasks."""
    if task not in SLICED_TASKS:
        return None
    names = json.loads((data.path / "labels.json").read_text(encoding="utf-8"))
    labels: list[str] = names["labels"]
    return labels if task == "classify" else sorted({tag.partition("-")[2] for tag in names["tags"]} - {""})


def parse(
    lines: Iterable[str],
    task: str,
    labels: Sequence[str] | None = None,
    values: Values | None = None,
    *,
    kept: Sequence[str] = (),
) -> list[Criterion]:
    """The criteria of a project, checked against the task and, where they are known, its labels and slices.

    labels   labels or entity types of the model. None: not known yet
    values   the slices of the test rows. None: not known yet
    kept     columns that the sources keep: slices while `values` are not known
    Raises   BadSetting that names the line and the nearest known metric, label, slice or baseline
    """
    columns = (*SLICED_BY, *kept) if values is None else tuple(values)
    return [_parse(text, task, labels, columns, values) for text in lines]


def _parse(
    text: str, task: str, labels: Sequence[str] | None, columns: Sequence[str], values: Values | None
) -> Criterion:
    match = _LINE.match(text)
    if match is None:
        fix = 'for example "macro_f1 >= 0.85" or "recall[refund] >= 0.8"'
        raise _bad(text, "is not of the form: metric OP value", fix)
    metric, inside = match["metric"], match["part"]
    label, part = _inside(inside, labels)
    if label is not None:
        _check_label(text, metric, label, task, labels)
    else:
        _check_metric(text, metric, task)
    if part is not None:
        _check_part(text, metric, part, columns, values)
    threshold, against = _value(text, match["value"], task)
    if against is not None:
        known = comparable(task, against)
        if label is not None or metric not in known:
            raise _bad(text, f"{metric} can't be compared with {_called(against)}", _names(known))
    return Criterion(text, metric, label, part, match["op"], threshold, against, match["point"] is not None)


def comparable(task: str, against: str) -> tuple[str, ...]:
    """The metrics that a model can be compared in with a baseline or the champion."""
    if against == "bm25":
        return answers.NAMES
    return (WITH_CHAMPION if against == CHAMPION else COMPARABLE)[task]


def _inside(inside: str | None, labels: Sequence[str] | None) -> tuple[str | None, tuple[str, str] | None]:
    """What stands in brackets: a label, or column=value. A label that holds an equals sign is a label."""
    if inside is None:
        return None, None
    inside = inside.strip()
    column, equals, value = (one.strip() for one in inside.partition("="))
    if equals and inside not in (labels or ()):
        return None, (column, value.strip("'\""))
    return inside.strip("'\""), None


def _check_metric(text: str, metric: str, task: str) -> None:
    known = (*OVERALL[task], *COST, *RISKS[task])
    if metric in known:
        return
    if metric in judge.METRICS:
        fix = "name a measured metric; read the judge's word beside it (wyrmling judge)"
        raise _bad(text, "a judge's word is not usable in accept: it is never the evidence for a gate", fix)
    bracket = ""
    if task in SLICED_TASKS and metric in metrics.PER_CLASS:
        bracket = f"; write it with a label: {metric}[LABEL]"
    raise _bad(text, f"unknown metric {metric!r} for the task {task!r}{nearest(metric, known)}{bracket}", _names(known))


def _check_label(text: str, metric: str, label: str, task: str, labels: Sequence[str] | None) -> None:
    if task not in SLICED_TASKS:
        raise _bad(text, f"the task {task!r} has no labels to slice by", _names(OVERALL[task]))
    known = tuple(metrics.PER_CLASS)
    if metric not in known:
        raise _bad(text, f"{metric!r} has no value per label{nearest(metric, known)}", _names(known))
    if labels is not None and label not in labels:
        raise _bad(text, f"there is no label {label!r}{nearest(label, labels)}", _names(labels))


def _check_part(text: str, metric: str, part: tuple[str, str], columns: Sequence[str], values: Values | None) -> None:
    column, value = part
    if metric in COST:
        raise _bad(text, f"{metric} is measured over all rows, not for a part of them", "leave the brackets out")
    if column not in columns:
        fix = f"{_names(columns)}; any other column of a source once data.sources.NAME.keep names it"
        raise _bad(text, f"the test rows can't be sliced by {column!r}{nearest(column, columns)}", fix)
    there = LENGTHS if column == "length" else None if values is None else values[column]
    if there is not None and value not in (*there, EVERY):
        raise _bad(text, f"no test row has {column} = {value!r}{nearest(value, there)}", _names(there))


def _value(text: str, value: str, task: str) -> tuple[float, str | None]:
    match = _AGAINST.match(value)
    if match is None:
        return _number(text, value), None
    name = match["name"] or CHAMPION
    if name != CHAMPION and name not in BASELINES[task]:
        known = BASELINES[task]
        raise _bad(text, f"unknown baseline {name!r}{nearest(name, known)}", _names(known))
    margin = _number(text, match["margin"] or "0")
    return (-margin if match["sign"] == "-" else margin), name


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        what = f"{value!r} is neither a number nor baseline.NAME nor champion, with + or - a number"
        raise _bad(text, what, 'for example "macro_f1 >= 0.85" or "macro_f1 >= champion - 0.01"')
    return number


def _called(against: str) -> str:
    return "the champion" if against == CHAMPION else "a baseline"


def _bad(text: str, what: str, fix: str) -> BadSetting:
    return BadSetting(f"{text!r}: {what}", where="objective.accept", fix=fix)


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'macro_f1'?` when something known is near, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _names(known: Iterable[str]) -> str:
    names = list(known)
    return "known: " + ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def expand(criteria: Iterable[Criterion], values: Values) -> list[Criterion]:
    """Lines of the form `metric[column=*]` once for each value of the column."""
    found: list[Criterion] = []
    for criterion in criteria:
        if criterion.part is None or criterion.part[1] != EVERY:
            found.append(criterion)
            continue
        column = criterion.part[0]
        for value in values[column]:
            text = criterion.text.replace(EVERY, value, 1)
            found.append(replace(criterion, part=(column, value), text=text))
    return found


def is_proportion(criterion: Criterion) -> bool:
    """Whether the criterion is on a share of rows, for which what a test can prove is known exactly."""
    share = criterion.metric in ("accuracy", "recall", "micro_f1", "exact_match")
    return share and criterion.against is None and not criterion.point and criterion.higher_is_better


def impossible(criteria: Iterable[Criterion], rows: int, rows_by_name: Mapping[str, int]) -> list[str]:
    """Lines that no model can pass with this test set, each with the rows it would need; to be said before training.

    rows          test rows in all
    rows_by_name  test rows of each label, or gold entities of each type, and of each slice as `column=value`
    Even when every row is right, n rows prove no more than n / (n + 3.84).
    """
    problems = []
    for criterion in criteria:
        if not is_proportion(criterion):
            continue
        n = rows_of(criterion, rows, rows_by_name)
        best = power.highest_provable(n)
        if criterion.threshold > best:
            enough = criterion.threshold < 1
            needs = f"{power.rows_to_prove(criterion.threshold)} rows" if enough else "no number of rows"
            problems.append(
                f"{criterion.text!r} cannot pass with this test: {n} rows, all right, prove at most {best:.3f}; "
                f"it needs {needs}"
            )
    return problems


def rows_of(criterion: Criterion, rows: int, rows_by_name: Mapping[str, int]) -> int:
    """How many test rows a criterion is judged by."""
    if criterion.label is not None:
        return rows_by_name.get(criterion.label, 0)
    return rows if criterion.part is None else rows_by_name.get("=".join(criterion.part), 0)
