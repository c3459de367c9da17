"""Any number of labels per row: metrics over yes and no for each label, in slices, and compared with another system.

Letters: N rows, C labels, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from wyrmling.evaluate import metrics, resampling, statistics
from wyrmling.evaluate.metrics import Bools
from wyrmling.evaluate.outcomes import (
    MIN_ROWS_PER_CLASS,
    RESAMPLES,
    SEED,
    Score,
    accuracy_difference,
    bounded,
    independent,
    of_label,
    proportion,
    ratio_difference,
    share,
    taken,
    too_thin,
)
from wyrmling.evaluate.statistics import Difference, Floats, Ints

# The metrics of single labels that are defined for several; accuracy asks for all labels of a row to be right, which
# scikit-learn calls subset accuracy.
AVERAGES = tuple(f"{average}_{rate}" for average in ("macro", "micro", "weighted") for rate in metrics.PER_CLASS)
NAMES = ("accuracy", *AVERAGES, *metrics.LABEL_SETS)


@dataclass(frozen=True)
class LabelSetOutcome:
    """Any number of labels per row.

    gold_NC, predicted_NC   whether the row has the label, and whether the system says so
    cluster_N               cluster of each row; None: every row is independent
    answered_N              False for a row without an answer: it is wrong even when it has no label. None: all have one
    """

    labels: Sequence[str]
    gold_NC: Bools
    predicted_NC: Bools
    resamples: int = RESAMPLES
    cluster_N: Ints | None = None
    answered_N: Bools | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return NAMES

    @cached_property
    def scored_C(self) -> Bools:
        """True for labels with test rows: those that averages run over."""
        return np.asarray(self.gold_NC.any(0))

    @cached_property
    def _counts(self) -> Floats:
        """(N, 3, C) what each row adds to the correct, gold and predicted labels."""
        parts = (self.gold_NC & self.predicted_NC, self.gold_NC, self.predicted_NC)
        return np.stack(parts, axis=1).astype(np.float64)

    @cached_property
    def _sums(self) -> Floats:
        """(R, 3, C) the sums of bootstrap resamples; the same draws for every system on these rows."""
        n = len(self.gold_NC)
        flat = self._counts.reshape(n, -1)
        drawn = resampling.of_rows(n, self.cluster_N, self.resamples, SEED)
        return np.concatenate([weights_RN @ flat for weights_RN in drawn]).reshape(-1, *self._counts.shape[1:])

    def right(self) -> Bools:
        same_N = (self.gold_NC == self.predicted_NC).all(1)
        return np.asarray(same_N if self.answered_N is None else same_N & self.answered_N)

    def take(self, rows_N: Ints) -> LabelSetOutcome:
        return replace(
            self,
            gold_NC=self.gold_NC[rows_N],
            predicted_NC=self.predicted_NC[rows_N],
            cluster_N=taken(self.cluster_N, rows_N),
            answered_N=None if self.answered_N is None else self.answered_N[rows_N],
        )

    def score(self, name: str) -> Score:
        n, labels = len(self.gold_NC), int(self.scored_C.sum())
        if name == "accuracy":
            return proportion(self.right(), self.cluster_N, metrics.signature(name, "all labels", labels=labels))
        if name in metrics.LABEL_SETS:
            signature = metrics.signature(name, "of each row|zero:0", labels=len(self.labels))
            return share(self._of_rows(name), np.ones(n), signature, self.cluster_N)
        metric = metrics.CLASSIFY[name]
        signature = metrics.signature(name, f"{metric.options}|several", labels=labels)
        if labels == 0:
            return Score(None, None, None, n, signature, None, "no test row has a label")
        value = float(metric.of(self._counts.sum(0), self.scored_C))
        se = float(metric.of(self._sums, self.scored_C).std(ddof=1))
        if metric.per_class and (items := int(self.gold_NC.sum())) < MIN_ROWS_PER_CLASS * labels:
            return Score(value, None, None, n, signature, se, too_thin(items, labels, "gold labels"))
        return Score(value, *bounded(value, se, independent(n, self.cluster_N)), n, signature, se)

    def _of_rows(self, name: str) -> Floats:
        """(N,) the metric of each row alone."""
        if name in metrics.SAMPLES:
            rate = metrics.PER_CLASS[name.removeprefix("samples_")]
            return rate(self._counts.sum(2, keepdims=True))[:, 0]
        wrong_N = (self.gold_NC != self.predicted_NC).mean(1)
        return np.asarray(wrong_N if self.answered_N is None else np.where(self.answered_N, wrong_N, 1.0))

    def per_class(self) -> dict[str, dict[str, Score]]:
        """Precision, recall and F1 of each label with test rows, in the order of the labels."""
        return {
            self.labels[c]: of_label(self.gold_NC[:, c], self.predicted_NC[:, c], self.cluster_N)
            for c in np.flatnonzero(self.scored_C).tolist()
        }

    def difference(self, old: LabelSetOutcome, metric: str) -> Difference:
        """This minus `old` on the same rows. Raises KeyError for a metric that has no paired test."""
        if metric == "accuracy":
            return accuracy_difference(self.right(), old.right(), self.cluster_N)
        if metric in metrics.LABEL_SETS:
            change_N = self._of_rows(metric) - old._of_rows(metric)
            return ratio_difference(change_N, np.ones(len(change_N)), self.cluster_N)
        of = metrics.CLASSIFY[metric].of
        point = float(of(self._counts.sum(0), self.scored_C) - of(old._counts.sum(0), self.scored_C))
        change_R = of(self._sums, self.scored_C) - of(old._sums, self.scored_C)
        return statistics.paired(point, change_R, independent(len(self.gold_NC), self.cluster_N))
