"""Any number of labels per row: scores over labels, over rows and of whole rows, and compared with another system.

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
    proportion,
    ratio_difference,
    share,
    taken,
    too_thin,
)
from wyrmling.evaluate.statistics import Difference, Floats, Ints

# A label is said where its probability reaches this, unless thresholds were fitted on validation rows.
THRESHOLD = 0.5


@dataclass(frozen=True)
class MultilabelOutcome:
    """Which labels each row has and which were said, both (N, C) bool."""

    labels: Sequence[str]
    gold_NC: Bools
    predicted_NC: Bools
    resamples: int = RESAMPLES
    cluster_N: Ints | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (*AVERAGES, *SAMPLES, "subset_accuracy", "hamming_loss")

    @cached_property
    def counts_NKC(self) -> Floats:
        """(N, 3, C) correct, gold and predicted of each row and label."""
        return np.stack([self.gold_NC & self.predicted_NC, self.gold_NC, self.predicted_NC], axis=1).astype(np.float64)

    @cached_property
    def scored_C(self) -> Bools:
        """True for labels with test rows: those that averages run over."""
        return np.asarray(self.gold_NC.any(0))

    @cached_property
    def _resampled(self) -> Floats:
        return _resampled(self.counts_NKC, self)

    def right(self) -> Bools:
        return np.asarray((self.gold_NC == self.predicted_NC).all(1))

    def take(self, rows_N: Ints) -> MultilabelOutcome:
        return replace(
            self,
            gold_NC=self.gold_NC[rows_N],
            predicted_NC=self.predicted_NC[rows_N],
            cluster_N=taken(self.cluster_N, rows_N),
        )

    def score(self, name: str) -> Score:
        n, labels = len(self.gold_NC), int(self.scored_C.sum())
        signature = metrics.signature(name, "labels:several", labels=labels)
        if name == "subset_accuracy":
            return proportion(self.right(), self.cluster_N, signature)
        if name == "hamming_loss" or name in SAMPLES:
            return share(self._of_rows(name), np.ones(n), signature, self.cluster_N)
        if labels == 0:
            return Score(None, None, None, n, signature, None, "no test row has a label")
        value = float(AVERAGES[name](self.counts_NKC.sum(0), self.scored_C))
        se = float(AVERAGES[name](self._resampled, self.scored_C).std(ddof=1))
        if not name.startswith("micro") and self.gold_NC.sum() < MIN_ROWS_PER_CLASS * labels:
            thin = too_thin(int(self.gold_NC.sum()), labels, "rows")
            return Score(value, None, None, n, signature, se, thin)
        return Score(value, *bounded(value, se, independent(n, self.cluster_N)), n, signature, se)

    def _of_rows(self, name: str) -> Floats:
        """The value of each row; 0/0 is 0, as in scikit-learn's `zero_division=0`."""
        if name == "hamming_loss":
            return np.asarray((self.gold_NC != self.predicted_NC).mean(1))
        of_row_N3 = self.counts_NKC.sum(2)[:, :, None]
        return metrics.PER_CLASS[name.removeprefix("samples_")](of_row_N3)[:, 0]

    def per_class(self) -> dict[str, dict[str, Score]]:
        """Precision, recall and F1 of each label with test rows."""
        found = {}
        sums, resampled = self.counts_NKC.sum(0), self._resampled
        for c in np.flatnonzero(self.scored_C).tolist():
            of_label = {}
            for name, rate in metrics.PER_CLASS.items():
                value, se = float(rate(sums)[c]), float(rate(resampled)[:, c].std(ddof=1))
                items = int(sums[metrics.PREDICTED if name == "precision" else metrics.GOLD, c])
                signature = metrics.signature(name, "label")
                if items:
                    of_label[name] = Score(value, *bounded(value, se, items), items, signature, se)
                else:
                    of_label[name] = Score(value, None, None, 0, signature, None, "nothing predicted")
            found[self.labels[c]] = of_label
        return found

    def difference(self, old: MultilabelOutcome, metric: str) -> Difference:
        """This minus `old` on the same rows. Raises KeyError for a metric that is none of `names`."""
        if metric == "subset_accuracy":
            return accuracy_difference(self.right(), old.right(), self.cluster_N)
        if metric == "hamming_loss" or metric in SAMPLES:
            change_N = self._of_rows(metric) - old._of_rows(metric)
            return ratio_difference(change_N, np.ones(len(change_N)), self.cluster_N)
        of, width = AVERAGES[metric], len(self.labels)
        both = _resampled(np.concatenate([self.counts_NKC, old.counts_NKC], axis=2), self)
        change_R = of(both[..., :width], self.scored_C) - of(both[..., width:], self.scored_C)
        point = float(of(self.counts_NKC.sum(0), self.scored_C) - of(old.counts_NKC.sum(0), self.scored_C))
        return statistics.paired(point, change_R, independent(len(self.gold_NC), self.cluster_N))


SAMPLES = tuple(f"samples_{rate}" for rate in metrics.PER_CLASS)
AVERAGES = {
    name: metrics.CLASSIFY[name].of
    for average in ("micro", "macro", "weighted")
    for name in (f"{average}_{rate}" for rate in metrics.PER_CLASS)
}


def thresholds(gold_NC: Bools, probabilities_NC: Floats) -> Floats:
    """The probability from which each label is said, (C,): that with the best F1 on these rows, not the test rows.

    A label without rows keeps 0.5; of equally good thresholds the highest is taken.
    """
    found = np.full(gold_NC.shape[1], THRESHOLD)
    for c in np.flatnonzero(gold_NC.any(0)).tolist():
        order = np.argsort(-probabilities_NC[:, c], kind="stable")
        p_N, correct_N = probabilities_NC[order, c], gold_NC[order, c].cumsum()
        f1_N = 2 * correct_N / (np.arange(1, len(order) + 1) + gold_NC[:, c].sum())
        # Rows of equal probability are said together: only the last of them is a place to stop.
        last_N = np.append(p_N[1:] != p_N[:-1], True)
        found[c] = p_N[int(np.argmax(np.where(last_N, f1_N, -1.0)))]
    return found


def _resampled(counts_NKC: Floats, outcome: MultilabelOutcome) -> Floats:
    """Bootstrap sums (R, 3, C) of per-row counts."""
    cells = resampling.fold(counts_NKC.reshape(len(counts_NKC), -1).astype(np.int64), outcome.cluster_N)
    sums = [weights_RM @ cells.table_MK for weights_RM in cells.draw(outcome.resamples, SEED)]
    return np.concatenate(sums).reshape(-1, *counts_NKC.shape[1:])
