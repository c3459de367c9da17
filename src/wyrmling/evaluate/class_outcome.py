"""One label per row: every classification metric, per label, in slices, and compared with another system."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from wyrmling.evaluate import calibration, metrics, ranking, resampling, statistics
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
    ratio,
    ratio_difference,
    signed,
    taken,
    too_thin,
)
from wyrmling.evaluate.statistics import Difference, Floats, Ints

# Ranking all rows in every resample is slow; 200 resamples know a standard error to 5 %.
RANKING_RESAMPLES = 200


@dataclass(frozen=True)
class ClassOutcome:
    """One label per row.

    gold_N            index into labels
    predicted_N       index into labels, -1 for no prediction
    probabilities_NC  rows sum to 1; None when the system gives none
    cluster_N         cluster of each row; None: every row is independent
    Raises            ValueError for probabilities that are no numbers
    """

    labels: Sequence[str]
    gold_N: Ints
    predicted_N: Ints
    probabilities_NC: Floats | None = None
    resamples: int = RESAMPLES
    cluster_N: Ints | None = None

    def __post_init__(self) -> None:
        if self.probabilities_NC is not None and not np.isfinite(self.probabilities_NC).all():
            row = int(np.flatnonzero(~np.isfinite(self.probabilities_NC).all(1))[0])
            raise ValueError(f"the probabilities of row {row} are not numbers")

    @property
    def names(self) -> tuple[str, ...]:
        of_probabilities = () if self.probabilities_NC is None else metrics.PROBABILITY
        return (*metrics.CLASSIFY, *of_probabilities)

    @cached_property
    def scored_C(self) -> Bools:
        """True for labels with test rows: those that averages run over."""
        return np.asarray(np.bincount(self.gold_N, minlength=len(self.labels)) > 0)

    @cached_property
    def sums(self) -> Floats:
        """(3, C) correct, gold and predicted rows per label."""
        ones = np.ones((1, len(self.gold_N)))
        return np.asarray(metrics.class_sums(ones, self.gold_N, self.predicted_N, len(self.labels))[0])

    @cached_property
    def _resampled(self) -> Floats:
        """(R, 3, C) the sums of bootstrap resamples."""
        return _resampled_sums(self, [self.predicted_N])[0]

    def right(self) -> Bools:
        return np.asarray(self.gold_N == self.predicted_N)

    def take(self, rows_N: Ints) -> ClassOutcome:
        return replace(
            self,
            gold_N=self.gold_N[rows_N],
            predicted_N=self.predicted_N[rows_N],
            probabilities_NC=None if self.probabilities_NC is None else self.probabilities_NC[rows_N],
            cluster_N=taken(self.cluster_N, rows_N),
        )

    def score(self, name: str) -> Score:
        if name in ranking.RANKING:
            return self._ranking(name)
        if name in metrics.PROBABILITY:
            return self._ece() if name == "ece" else self._of_rows(name)
        metric = metrics.CLASSIFY[name]
        n, labels = len(self.gold_N), int(self.scored_C.sum())
        signature = metrics.signature(name, metric.options, labels=labels)
        if name == "accuracy":
            return proportion(self.right(), self.cluster_N, signature)
        value = float(metric.of(self.sums, self.scored_C))
        se = float(metric.of(self._resampled, self.scored_C).std(ddof=1))
        if metric.per_class and n < MIN_ROWS_PER_CLASS * labels:
            return Score(value, None, None, n, signature, se, too_thin(n, labels, "rows"))
        interval = signed if name == "mcc" else bounded
        return Score(value, *interval(value, se, independent(n, self.cluster_N)), n, signature, se)

    @property
    def _given(self) -> Floats:
        if self.probabilities_NC is None:
            raise KeyError("this system gives no probabilities")
        return self.probabilities_NC

    def _of_rows(self, name: str) -> Score:
        """Log-loss and Brier score: means over rows."""
        of, options = ROWS[name]
        signature = metrics.signature(name, options, labels=len(self.labels))
        ones_N = np.ones(len(self.gold_N))
        return ratio(of(self.gold_N, self._given), ones_N, signature, self.cluster_N)

    def _ece(self) -> Score:
        n = len(self.gold_N)
        confidence_N = self._given.max(1)
        bins = calibration.reliability(confidence_N, self.right())
        gap_NB = np.zeros((n, len(bins.rows)))
        gap_NB[np.arange(n), bins.bin_N] = confidence_N - self.right()
        value = float(calibration.ece(gap_NB.sum(0), n))
        found = [calibration.ece(weights_RN @ gap_NB, n) for weights_RN in self._row_weights(self.resamples)]
        se = float(np.concatenate(found).std(ddof=1))
        mean, high = calibration.ece_by_chance(confidence_N, bins.bin_N, 200, SEED)
        note = f"a perfectly calibrated model shows {mean:.3f} on these rows, up to {high:.3f}"
        signature = metrics.signature("ece", f"bins:{len(bins.rows)}|mass:equal", labels=len(self.labels))
        return Score(value, *bounded(value, se, n), n, signature, se, note)

    def _ranking(self, name: str) -> Score:
        of, n = ranking.RANKING[name], len(self.gold_N)
        signature = metrics.signature(name, "one-vs-rest|avg:macro|ties:half", labels=int(self.scored_C.sum()))

        def values(weights_RN: Floats) -> Floats:
            return ranking.over_labels(of, weights_RN, self.gold_N, self._given, self.scored_C)

        value = float(values(np.ones((1, n)))[0])
        if math.isnan(value):
            return Score(None, None, None, n, signature, None, "all test rows have one label")
        se = float(np.nanstd(np.concatenate([values(w) for w in self._row_weights(RANKING_RESAMPLES)]), ddof=1))
        return Score(value, *bounded(value, se, n), n, signature, se)

    def _row_weights(self, count: int) -> Iterator[Floats]:
        return resampling.of_rows(len(self.gold_N), self.cluster_N, count, SEED)

    def per_class(self) -> dict[str, dict[str, Score]]:
        """Precision, recall and F1 of each label with test rows, in the order of the labels."""
        return {
            self.labels[c]: of_label(self.gold_N == c, self.predicted_N == c, self.cluster_N)
            for c in np.flatnonzero(self.scored_C).tolist()
        }

    def difference(self, old: ClassOutcome, metric: str) -> Difference:
        """This minus `old` on the same rows. Raises KeyError for a metric that has no paired test."""
        if metric == "accuracy":
            return accuracy_difference(self.right(), old.right(), self.cluster_N)
        if metric in ROWS:
            change_N = ROWS[metric][0](self.gold_N, self._given) - ROWS[metric][0](old.gold_N, old._given)
            return ratio_difference(change_N, np.ones(len(change_N)), self.cluster_N)
        of = metrics.CLASSIFY[metric].of
        new_sums, old_sums = _resampled_sums(self, [self.predicted_N, old.predicted_N])
        point = float(of(self.sums, self.scored_C) - of(old.sums, self.scored_C))
        change_R = of(new_sums, self.scored_C) - of(old_sums, self.scored_C)
        return statistics.paired(point, change_R, independent(len(self.gold_N), self.cluster_N))


ROWS = {
    "log_loss": (calibration.log_losses, "nats"),
    "brier": (calibration.brier_scores, "range:0-2"),
}


def _resampled_sums(outcome: ClassOutcome, predicted: list[Ints]) -> list[Floats]:
    """Bootstrap sums (R, 3, C) for each system, drawn together so that differences are paired."""
    cells = resampling.fold(np.stack([outcome.gold_N, *predicted], axis=1), outcome.cluster_N)
    gold_M, classes = cells.table_MK[:, 0], len(outcome.labels)
    chunks: list[list[Floats]] = [[] for _ in predicted]
    for weights_RM in cells.draw(outcome.resamples, SEED):
        for system, chunk in enumerate(chunks, start=1):
            chunk.append(metrics.class_sums(weights_RM, gold_M, cells.table_MK[:, system], classes))
    return [np.concatenate(chunk) for chunk in chunks]
