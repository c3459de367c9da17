"""Parts of the test rows: by label, length, language, source, kept columns and so on; the worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wyrmling.evaluate import metrics, statistics
from wyrmling.evaluate.accept import LENGTHS
from wyrmling.evaluate.outcomes import Outcome, Score
from wyrmling.evaluate.statistics import Difference
from wyrmling.evaluate.tasks import Example, text_of

# The metric that parts are compared in: one whose value does not depend on which labels a part happens to have.
METRIC = {"classify": "accuracy", "tag": "entity_f1"}
DEFAULT_METRIC = "bpb"
# With fewer rows, or fewer left outside it, a part says nothing.
MIN_ROWS = 20

Columns = Mapping[str, Sequence[str]]
"""By column the value of every test row."""


@dataclass(frozen=True)
class Part:
    """How the rows with one value of a column fare. difference: to all other rows; p: Holm-corrected over all parts."""

    column: str
    value: str
    n: int
    score: Score
    difference: Difference
    p: float

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "score": self.score.as_dict(), "difference": self.difference._asdict()}


def columns(rows: Sequence[Example], near_train: Sequence[str | None]) -> dict[str, list[str]]:
    """What the test rows can be sliced by, each column with a value per row; columns of a single value are left out.

    length       short, medium or long: thirds of these rows by characters
    near_train   same, near or no: whether the row stands in the training rows too
    Columns that a source keeps (`keep`) have the values of its rows, or unknown.
    """
    characters = np.array([len(text_of(row)) for row in rows])
    thirds = np.quantile(characters, [1 / 3, 2 / 3])
    found: dict[str, list[str]] = {
        "length": [LENGTHS[int((size > thirds).sum())] for size in characters],
        "language": [row.get("language") or "unknown" for row in rows],
        "source": [row["source"] for row in rows],
        "kind": [row["kind"] for row in rows],
        "near_train": [flag or "no" for flag in near_train],
        "label": [row["label"] or ", ".join(row.get("labels") or ()) for row in rows],
    }
    for name in dict.fromkeys(name for row in rows for name in row.get("kept", ())):
        found[name] = [row["kept"].get(name, "unknown") for row in rows]
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def values_of(columns: Columns) -> dict[str, list[str]]:
    """The values of each column, sorted."""
    return {name: sorted(set(values)) for name, values in columns.items()}


def large(columns: Columns) -> dict[str, list[str]]:
    """The values of each column that enough rows have."""
    counts = rows_by_value(columns)
    return {
        name: [value for value in values if counts[f"{name}={value}"] >= MIN_ROWS]
        for name, values in values_of(columns).items()
    }


def rows_by_value(columns: Columns) -> dict[str, int]:
    """Test rows of each slice, by `column=value`."""
    return {
        f"{name}={value}": int(count)
        for name, values in columns.items()
        for value, count in zip(*np.unique(np.array(values), return_counts=True), strict=True)
    }


def chosen(columns: Columns, column: str, value: str) -> statistics.Ints:
    """The rows of a slice."""
    return np.flatnonzero(np.array([one == value for one in columns[column]])).astype(np.int64)


def compared(metric: str, outcome: Outcome, columns: Columns) -> list[Part]:
    """Every part with enough rows beside the rest of the rows, the most clearly worse first."""
    found: list[tuple[str, str, int, Score, Difference]] = []
    for column, values in columns.items():
        n = len(values)
        for value, count in sorted((value, values.count(value)) for value in set(values)):
            if min(count, n - count) < MIN_ROWS:
                continue
            inside = chosen(columns, column, value)
            rest = np.setdiff1d(np.arange(n), inside)
            part, other = outcome.take(inside), outcome.take(rest)
            score = part.score(metric)
            difference = _difference(metric, part, score, other)
            if difference is not None:
                found.append((column, value, count, score, difference))
    corrected = statistics.holm([one[4].p for one in found])
    parts = [Part(*one, p) for one, p in zip(found, corrected, strict=True)]
    worse = -1 if metric in metrics.LOWER_IS_BETTER else 1
    return sorted(parts, key=lambda part: worse * part.difference.value / (part.difference.se or 1))


def _difference(metric: str, part: Outcome, score: Score, other: Outcome) -> Difference | None:
    right, right_other = part.right(), other.right()
    rows_alone = part.cluster_N is None and other.cluster_N is None
    if metric == "accuracy" and rows_alone and right is not None and right_other is not None:
        counts = (int(right.sum()), len(right), int(right_other.sum()), len(right_other))
        return statistics.unpaired_proportions(*counts)
    rest = other.score(metric)
    if score.value is None or rest.value is None or score.se is None or rest.se is None:
        return None
    return statistics.unpaired(score.value, score.se, rest.value, rest.se)
