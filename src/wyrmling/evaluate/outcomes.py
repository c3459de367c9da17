"""What a system (model or baseline) did on the test rows: what all kinds of outcomes share, and scores with intervals.

An outcome holds per-row results only, so two outcomes on the same rows can be compared row by row, and a part of the
rows is an outcome too. The kinds are in class_outcome.py, label_set_outcome.py, tag_outcome.py, text_outcome.py and
answer_outcome.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from wyrmling.evaluate import metrics, statistics
from wyrmling.evaluate.metrics import Bools
from wyrmling.evaluate.statistics import Difference, Floats, Interval, Ints

# With fewer test rows a class, the bootstrap of an average over classes does not cover the truth (docs/statistics.md).
MIN_ROWS_PER_CLASS = 6
RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Score:
    """A metric's value with its 95 % interval. None: undefined (value), not to be had from these rows (low, high)."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    signature: str
    se: float | None = None
    note: str | None = None
    """Why there is no interval, or what the value can't show."""

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "note" or value is not None}


class Outcome(Protocol):
    """What all kinds of outcomes have in common.

    cluster_N   number of the cluster that each row is resampled with; None: every row is independent
    """

    @property
    def cluster_N(self) -> Ints | None: ...

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that this outcome has."""
        ...

    def score(self, name: str) -> Score: ...

    def per_class(self) -> dict[str, dict[str, Score]]: ...

    def right(self) -> Bools | None:
        """Whether each row is right, where that is a yes or no."""
        ...

    def take(self, rows_N: Ints) -> Outcome:
        """The outcome on some of the rows."""
        ...

    def difference(self, old: Any, metric: str) -> Difference:
        """This minus `old` on the same rows. Raises KeyError for a metric without a paired test."""
        ...


def scores(outcome: Outcome) -> dict[str, Score]:
    """Every metric of an outcome."""
    return {name: outcome.score(name) for name in outcome.names}


def bounded(value: float, se: float, n: float) -> Interval:
    """Interval of a value in 0..1; where no resample differs (all right, all wrong), Wilson's for so many items."""
    return statistics.wilson(value * n, n) if se == 0 else statistics.logit_normal(value, se)


def signed(value: float, se: float, n: float) -> Interval:
    """Interval of a value in -1..1, such as MCC."""
    low, high = bounded((value + 1) / 2, se / 2, n)
    return Interval(None if low is None else 2 * low - 1, None if high is None else 2 * high - 1)


def independent(rows: int, cluster_N: Ints | None) -> int:
    """Rows, or clusters of them, that are independent of each other."""
    return rows if cluster_N is None else int(cluster_N.max()) + 1


def proportion(right_N: Bools, cluster_N: Ints | None, signature: str) -> Score:
    """The share of rows that are right, with Wilson's interval; n is 0 and there is none without rows."""
    n = len(right_N)
    if n == 0:
        return Score(0.0, None, None, 0, signature, None, "nothing predicted")
    p = float(right_N.mean())
    se = math.sqrt(p * (1 - p) / n)
    worth: float = n
    if cluster_N is not None:
        _, numbers_N = np.unique(cluster_N, return_inverse=True)
        groups = int(numbers_N.max()) + 1
        if groups < n:
            clustered = statistics.ratio_se(right_N.astype(np.float64), np.ones(n), numbers_N.reshape(-1))
            se = clustered if math.isfinite(clustered) else se
            worth = groups if se == 0 else statistics.effective_rows(n, p, se)
    return Score(p, *statistics.wilson(p * worth, worth), n=n, signature=signature, se=se)


def of_label(gold_N: Bools, said_N: Bools, cluster_N: Ints | None) -> dict[str, Score]:
    """Precision, recall and F1 of one label, from the rows that have it and those that it was said of."""

    def share_of(right_N: Bools, chosen_N: Bools, name: str) -> Score:
        clusters = None if cluster_N is None else cluster_N[chosen_N]
        return proportion(right_N[chosen_N], clusters, metrics.signature(name, "label"))

    # Among the rows where either side names the label, F1 is a rising function of the share correct:
    # f = 2j / (1 + j). So Wilson's interval of j gives one of F1 that holds for few rows too.
    j = share_of(gold_N & said_N, gold_N | said_N, "f1")
    value, low, high = (None if x is None else 2 * x / (1 + x) for x in (j.value, j.low, j.high))
    slope = 2 / (1 + (j.value or 0)) ** 2
    f1 = replace(j, value=value, low=low, high=high, se=None if j.se is None else slope * j.se)
    return {"precision": share_of(gold_N, said_N, "precision"), "recall": share_of(said_N, gold_N, "recall"), "f1": f1}


def ratio(
    numerator_N: Floats,
    denominator_N: Floats,
    signature: str,
    cluster_N: Ints | None,
    interval: Callable[[float, float], Interval] = statistics.normal,
) -> Score:
    """Sum of the numerators over sum of the denominators."""
    se = statistics.ratio_se(numerator_N, denominator_N, cluster_N)
    value = float(numerator_N.sum() / denominator_N.sum())
    if math.isinf(se):
        return Score(value, None, None, len(numerator_N), signature, None, "one row has no interval")
    return Score(value, *interval(value, se), n=len(numerator_N), signature=signature, se=se)


def share(numerator_N: Floats, denominator_N: Floats, signature: str, cluster_N: Ints | None) -> Score:
    """A ratio that lies in 0..1."""
    items = independent(len(numerator_N), cluster_N)
    return ratio(numerator_N, denominator_N, signature, cluster_N, lambda value, se: bounded(value, se, items))


def ratio_difference(change_N: Floats, denominator_N: Floats, cluster_N: Ints | None) -> Difference:
    """A difference of two ratios with the same denominators, from its share in each row."""
    point, se = float(change_N.sum() / denominator_N.sum()), statistics.ratio_se(change_N, denominator_N, cluster_N)
    if math.isinf(se):
        return Difference(point, None, None, None, 1.0, "one row")
    test = "paired by row" if cluster_N is None else "paired by cluster"
    return Difference(point, *statistics.normal(point, se), se, statistics.two_sided_p(point, se), test)


def accuracy_difference(new_N: Bools, old_N: Bools, cluster_N: Ints | None) -> Difference:
    """Exact McNemar; rows of a cluster flip together, so with clusters the test is that of the clusters' means."""
    fixed, broken = int((new_N & ~old_N).sum()), int((old_N & ~new_N).sum())
    change_N = new_N.astype(np.float64) - old_N
    paired = ratio_difference(change_N, np.ones(len(change_N)), cluster_N)
    flips = f"{fixed} fixed, {broken} broken"
    if cluster_N is not None:
        return paired._replace(test=f"{paired.test}, {flips}")
    low, high = (None, None) if paired.se is None else statistics.paired_proportions(fixed, broken, len(change_N))
    return paired._replace(low=low, high=high, p=statistics.mcnemar(fixed, broken), test=f"McNemar exact, {flips}")


def too_thin(items: int, classes: int, what: str) -> str:
    """Why an average over classes has no interval."""
    return (
        f"no interval: {items} {what} for {classes} classes; an average over classes needs at least "
        f"{MIN_ROWS_PER_CLASS} {what} a class"
    )


def taken(cluster_N: Ints | None, rows_N: Ints) -> Ints | None:
    """The clusters of some of the rows, numbered anew; None when no two of them share one."""
    if cluster_N is None:
        return None
    names, numbers_N = np.unique(cluster_N[rows_N], return_inverse=True)
    return None if len(names) == len(rows_N) else numbers_N.reshape(-1).astype(np.int64)
