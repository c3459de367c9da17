"""Any number of labels per row: metrics over yes and no for each label, in slices, and compared with another system."""

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
    proportion,
    taken,
    too_thin,
)
from wyrmling.evaluate.statistics import Difference, Floats, Ints

# The metrics of single labels that are defined for several; accuracy asks for all labels of a row to be right.
NAMES = ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "macro_precision", "micro_precision", "weighted_precision",
         "macro_recall", "micro_recall", "weighted_recall")  # fmt: skip


@dataclass(frozen=True)
class LabelSetOutcome:
    """Any number of labels per row.

    gold_NC, predicted_NC   whether the row has the label, and whether the system says so
    cluster_N               cluster of each row; None: every row is independent
    """

    labels: Sequence[str]
    gold_NC: Bools
    predicted_NC: Bools
    resamples: int = RESAMPLES
    cluster_N: Ints | None = None

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
        cells = resampling.fold(np.arange(n)[:, None], self.cluster_N)
        flat = self._counts.reshape(n, -1)
        return np.concatenate(
            [
                (weights_RN @ flat).reshape(-1, *self._counts.shape[1:])
                for weights_RN in cells.draw(self.resamples, SEED)
            ]
        )

    def right(self) -> Bools:
        return np.asarray((self.gold_NC == self.predicted_NC).all(1))

    def take(self, rows_N: Ints) -> LabelSetOutcome:
        return replace(
            self,
            gold_NC=self.gold_NC[rows_N],
            predicted_NC=self.predicted_NC[rows_N],
            cluster_N=taken(self.cluster_N, rows_N),
        )

    def score(self, name: str) -> Score:
        n, labels = len(self.gold_NC), int(self.scored_C.sum())
        if name == "accuracy":
            return proportion(self.right(), self.cluster_N, metrics.signature(name, "all labels", labels=labels))
        metric = metrics.CLASSIFY[name]
        signature = metrics.signature(name, f"{metric.options}|several", labels=labels)
        if labels == 0:
            return Score(None, None, None, n, signature, None, "no test row has a label")
        value = float(metric.of(self._counts.sum(0), self.scored_C))
        se = float(metric.of(self._sums, self.scored_C).std(ddof=1))
        if metric.per_class and n < MIN_ROWS_PER_CLASS * labels:
            return Score(value, None, None, n, signature, se, too_thin(n, labels, "rows"))
        return Score(value, *bounded(value, se, independent(n, self.cluster_N)), n, signature, se)

    def per_class(self) -> dict[str, dict[str, Score]]:
        """Precision, recall and F1 of each label with test rows, in the order of the labels."""
        return {self.labels[c]: self._of_label(c) for c in np.flatnonzero(self.scored_C).tolist()}

    def _of_label(self, c: int) -> dict[str, Score]:
        found = {}
        for name, rate in metrics.PER_CLASS.items():
            value, se = float(rate(self._counts.sum(0))[c]), float(rate(self._sums)[:, c].std(ddof=1))
            rows = int(self.gold_NC[:, c].sum())
            found[name] = Score(value, *bounded(value, se, max(rows, 1)), rows, metrics.signature(name, "label"), se)
        return found

    def difference(self, old: LabelSetOutcome, metric: str) -> Difference:
        """This minus `old` on the same rows. Raises KeyError for a metric that has no paired test."""
        if metric == "accuracy":
            return accuracy_difference(self.right(), old.right(), self.cluster_N)
        of = metrics.CLASSIFY[metric].of
        point = float(of(self._counts.sum(0), self.scored_C) - of(old._counts.sum(0), self.scored_C))
        change_R = of(self._sums, self.scored_C) - of(old._sums, self.scored_C)
        return statistics.paired(point, change_R, independent(len(self.gold_NC), self.cluster_N))
