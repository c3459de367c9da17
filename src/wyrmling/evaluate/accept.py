"""`objective.accept`: conditions a model must meet, checked before training, judged after it by interval, not by luck.

A line is `metric[label] OP value`, such as `macro_f1 >= 0.88`, `recall[lost_card] >= 0.8`, `latency_p95_ms <= 200` or
`macro_f1 > baseline.tfidf + 0.01`. OP is >=, <=, > or <. A trailing `@point` decides on the point value and says so.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.evaluate import metrics, statistics
from wyrmling.evaluate.outcomes import Score
from wyrmling.evaluate.statistics import Difference

Status = Literal["PASS", "FAIL", "INCONCLUSIVE"]
EXIT_CODES: dict[Status, int] = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}
# Above this a test can't reasonably be enlarged: the threshold has to move.
MOST_ROWS = 100_000

OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_LINE = re.compile(
    r"^\s*(?P<metric>\w+)\s*(?:\[(?P<label>.*)\])?\s*(?P<op>>=|<=|>|<)\s*(?P<value>.+?)\s*(?P<point>@point)?\s*$"
)
_BASELINE = re.compile(r"^baseline\.(?P<name>\w+)\s*(?:(?P<sign>[+-])\s*(?P<margin>[0-9.eE+-]+))?$")

COST = ("latency_p50_ms", "latency_p95_ms", "model_mb", "wh_per_1k", "usd_per_1k")
# What each task can be asked for; names in brackets take a [label].
OVERALL: dict[str, tuple[str, ...]] = {
    "classify": (*metrics.CLASSIFY, *metrics.PROBABILITY),
    "tag": (*metrics.TAG, "token_accuracy"),
    "complete": metrics.TEXT,
    "chat": metrics.TEXT,
    "answer": metrics.TEXT,
    "summarize": metrics.TEXT,
}
SLICED_TASKS = ("classify", "tag")
# The baselines a task has, cheapest first, and the metrics a paired difference is known for.
BASELINES: dict[str, tuple[str, ...]] = {
    "classify": ("majority", "tfidf"),
    "tag": ("frequent_tag", "crf"),
    "complete": ("unigram", "five_gram"),
    "chat": ("unigram", "five_gram"),
    "answer": ("unigram", "five_gram"),
    "summarize": ("unigram", "five_gram"),
}
COMPARABLE: dict[str, tuple[str, ...]] = {
    "classify": tuple(metrics.CLASSIFY),
    "tag": (*metrics.TAG, "token_accuracy"),
    **dict.fromkeys(("complete", "chat", "answer", "summarize"), ("bpb",)),
}


@dataclass(frozen=True)
class Criterion:
    """One parsed line of objective.accept. `threshold` is a number, or a margin over `baseline` when that is named."""

    text: str
    metric: str
    label: str | None
    op: str
    threshold: float
    baseline: str | None = None
    point: bool = False

    @property
    def name(self) -> str:
        return self.metric if self.label is None else f"{self.metric}[{self.label}]"


@dataclass(frozen=True)
class Line:
    """The verdict on one criterion. `rows_needed`: test rows that would settle it; None: settled, or none would."""

    criterion: str
    status: Status
    reason: str
    value: float
    low: float | None
    high: float | None
    n: int
    rows_needed: int | None = None

    @property
    def text(self) -> str:
        """The line for a person: PASS  macro_f1 >= 0.88: 0.91 [0.9, 0.92]"""
        return f"{self.status}  {self.criterion}: {self.reason}"


@dataclass(frozen=True)
class Verdict:
    """Any FAIL is FAIL; else any INCONCLUSIVE is INCONCLUSIVE; else PASS."""

    status: Status
    lines: tuple[Line, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]

    def as_dict(self) -> dict[str, Any]:
        lines = [{"text": line.text, **asdict(line)} for line in self.lines]
        return {"status": self.status, "lines": lines}


def parse(lines: Iterable[str], task: str, labels: Sequence[str] | None = None) -> list[Criterion]:
    """The criteria of a project, checked against the task and, where they are known, its labels or entity types.

    Raises   BadSetting that names the line and the nearest known metric, label or baseline
    """
    return [_parse(text, task, labels) for text in lines]


def _parse(text: str, task: str, labels: Sequence[str] | None) -> Criterion:
    match = _LINE.match(text)
    if match is None:
        raise _bad(
            text, "is not of the form: metric OP value", 'for example "macro_f1 >= 0.85" or "recall[refund] >= 0.8"'
        )
    metric, label = match["metric"], match["label"]
    if label is None:
        known = (*OVERALL[task], *COST)
        if metric not in known:
            bracket = "; write it with a label: " + f"{metric}[LABEL]" if _sliced(metric, task) else ""
            raise _bad(
                text,
                f"unknown metric {metric!r} for the task {task!r}{_nearest(metric, known)}{bracket}",
                _names(known),
            )
    else:
        label = label.strip().strip("'\"")
        _check_slice(text, metric, label, task, labels)
    threshold, baseline = _value(text, match["value"], task)
    if baseline is not None and (label is not None or metric not in COMPARABLE[task]):
        raise _bad(text, f"{metric} can't be compared with a baseline", _names(COMPARABLE[task]))
    return Criterion(text, metric, label, match["op"], threshold, baseline, point=match["point"] is not None)


def _sliced(metric: str, task: str) -> bool:
    return task in SLICED_TASKS and metric in metrics.PER_CLASS


def _check_slice(text: str, metric: str, label: str, task: str, labels: Sequence[str] | None) -> None:
    if task not in SLICED_TASKS:
        raise _bad(text, f"the task {task!r} has no labels to slice by", _names(OVERALL[task]))
    if metric not in metrics.PER_CLASS:
        raise _bad(
            text, f"{metric!r} has no value per label{_nearest(metric, metrics.PER_CLASS)}", _names(metrics.PER_CLASS)
        )
    if labels is not None and label not in labels:
        raise _bad(text, f"there is no label {label!r}{_nearest(label, labels)}", _names(labels))


def _value(text: str, value: str, task: str) -> tuple[float, str | None]:
    if (match := _BASELINE.match(value)) is not None:
        if match["name"] not in BASELINES[task]:
            known = BASELINES[task]
            raise _bad(text, f"unknown baseline {match['name']!r}{_nearest(match['name'], known)}", _names(known))
        margin = _number(text, match["margin"] or "0")
        return (-margin if match["sign"] == "-" else margin), match["name"]
    return _number(text, value), None


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _bad(text, f"{value!r} is neither a number nor baseline.NAME + number", 'for example "macro_f1 >= 0.85"')
    return number


def _bad(text: str, what: str, fix: str) -> BadSetting:
    return BadSetting(f"{text!r}: {what}", where="objective.accept", fix=fix)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _names(known: Iterable[str]) -> str:
    names = list(known)
    return "known: " + ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def impossible(criteria: Iterable[Criterion], rows: int, rows_by_label: Mapping[str, int]) -> list[str]:
    """Lines that no model can pass with this test set, each with the rows it would need; to be said before training.

    rows           test rows in all
    rows_by_label  test rows of each label, or gold entities of each type
    Even when every row is right, n rows prove no more than n / (n + 3.84).
    """
    problems = []
    for criterion in criteria:
        proportion = criterion.metric in ("accuracy", "recall") and criterion.baseline is None and not criterion.point
        if not proportion or criterion.op not in (">=", ">"):
            continue
        n = rows if criterion.label is None else rows_by_label.get(criterion.label, 0)
        best = statistics.highest_provable(n)
        if criterion.threshold > best:
            needs = (
                "no number of rows"
                if criterion.threshold >= 1
                else f"{statistics.rows_to_prove(criterion.threshold)} rows"
            )
            problems.append(
                f"{criterion.text!r} cannot pass with this test: {n} rows, all right, prove at most {best:.3f}; "
                f"it needs {needs}"
            )
    return problems


def judge(
    criteria: Iterable[Criterion],
    scores: Mapping[str, Score],
    differences: Mapping[tuple[str, str], Difference] | None = None,
) -> Verdict:
    """The verdict on every criterion.

    scores       by metric name, those of a label as `recall[label]`
    differences  (metric, baseline) -> model minus baseline on the same rows
    Raises   BadInput when a metric was not measured or is not a number: that is never a FAIL
    """
    lines = []
    for criterion in criteria:
        if criterion.baseline is not None:
            difference = (differences or {}).get((criterion.metric, criterion.baseline))
            if difference is None:
                raise _unmeasured(criterion, "the baselines were not run; set evaluate.baselines = true")
            n = scores[criterion.metric].n
            lines.append(_line(criterion, difference.value, difference.low, difference.high, difference.se, n, None))
            continue
        score = scores.get(criterion.name)
        if score is None:
            raise _unmeasured(
                criterion, "the test rows have no such label" if criterion.label else "it was not measured"
            )
        if score.value is None or math.isnan(score.value):
            raise _unmeasured(criterion, score.note or "its value is not a number")
        exact = criterion.metric in COST and not criterion.metric.startswith("latency")
        low, high = (score.value, score.value) if exact else (score.low, score.high)
        lines.append(_line(criterion, score.value, low, high, score.se, score.n, score.note))
    statuses = {line.status for line in lines}
    overall: Status = "FAIL" if "FAIL" in statuses else "INCONCLUSIVE" if "INCONCLUSIVE" in statuses else "PASS"
    return Verdict(overall, tuple(lines))


def _unmeasured(criterion: Criterion, why: str) -> BadInput:
    return BadInput(
        f"{criterion.text!r} can't be judged: {why}",
        where="objective.accept",
        fix="mend the test rows or remove the line",
    )


def _line(
    criterion: Criterion,
    value: float,
    low: float | None,
    high: float | None,
    se: float | None,
    n: int,
    note: str | None,
) -> Line:
    test, bound = OPERATORS[criterion.op], criterion.threshold
    shown = f"{value:.4g}" + (f" [{_end(low)}, {_end(high)}]" if low is not None or high is not None else "")
    what = f"difference {shown}" if criterion.baseline else shown
    if criterion.point:
        status: Status = "PASS" if test(value, bound) else "FAIL"
        return Line(criterion.text, status, f"{what}; decided on the point value", value, low, high, n)
    worst, best = (low, high) if criterion.op in (">=", ">") else (high, low)
    if worst is not None and test(worst, bound):
        return Line(criterion.text, "PASS", what, value, low, high, n)
    if best is not None and not test(best, bound):
        return Line(criterion.text, "FAIL", what, value, low, high, n)
    needed = None if se is None else statistics.rows_needed(n, se, value, bound)
    return Line(
        criterion.text, "INCONCLUSIVE", f"{what}: {_advice(criterion, note, n, needed)}", value, low, high, n, needed
    )


def _advice(criterion: Criterion, note: str | None, n: int, needed: int | None) -> str:
    if note is not None and note.startswith("no interval"):
        return note
    if needed is None:
        return "the interval holds the threshold"
    if needed > MOST_ROWS:
        return "the interval holds the threshold, and this test cannot settle it: move the threshold"
    more = max(needed - n, 1)
    of = f" of {criterion.label}" if criterion.label else ""
    return f"the interval holds the threshold; about {more:,} more test rows{of} would settle it"


def _end(x: float | None) -> str:
    return "…" if x is None else f"{x:.4g}"
