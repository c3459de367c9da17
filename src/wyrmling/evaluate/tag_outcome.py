"""Tags of the words of each sentence: entity scores by three rules, per type, and compared with another system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from wyrmling.evaluate import entities, metrics, resampling, statistics
from wyrmling.evaluate.metrics import Bools
from wyrmling.evaluate.outcomes import (
    MIN_ROWS_PER_CLASS,
    RESAMPLES,
    SEED,
    Score,
    bounded,
    independent,
    ratio_difference,
    share,
    taken,
    too_thin,
)
from wyrmling.evaluate.statistics import Difference, Floats, Ints


@dataclass(frozen=True)
class TagOutcome:
    """Tags of the words of each sentence. Sentences, not words, are what is resampled."""

    gold: Sequence[Sequence[str]]
    predicted: Sequence[Sequence[str]]
    types: Sequence[str]
    resamples: int = RESAMPLES
    cluster_N: Ints | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (*metrics.TAG, "token_accuracy")

    @cached_property
    def counts(self) -> dict[str, Floats]:
        """By rule of decoding (N, 3, T) correct, gold and predicted entities per sentence and type."""
        return {
            "conlleval": entities.entity_counts(self.gold, self.predicted, self.types),
            "iob2": entities.entity_counts(self.gold, self.predicted, self.types, entities.strict_entities),
            "partial": entities.partial_counts(self.gold, self.predicted),
        }

    @cached_property
    def right_N(self) -> Floats:
        """Words with the right tag, per sentence."""
        pairs = zip(self.gold, self.predicted, strict=True)
        return np.array([sum(g == p for g, p in zip(*row, strict=True)) for row in pairs], dtype=np.float64)

    @cached_property
    def words_N(self) -> Floats:
        return np.array([len(row) for row in self.gold], dtype=np.float64)

    @cached_property
    def _resampled(self) -> dict[str, Floats]:
        return {rule: _resampled_counts(counts, self) for rule, counts in self.counts.items()}

    def right(self) -> Bools:
        return np.asarray(self.right_N == self.words_N)

    def take(self, rows_N: Ints) -> TagOutcome:
        gold, predicted = ([tags[i] for i in rows_N.tolist()] for tags in (self.gold, self.predicted))
        return replace(self, gold=gold, predicted=predicted, cluster_N=taken(self.cluster_N, rows_N))

    def score(self, name: str) -> Score:
        if name == "token_accuracy":
            return share(self.right_N, self.words_N, metrics.signature(name, "unit:word"), self.cluster_N)
        metric = metrics.TAG[name]
        counts = self.counts[metric.decode]
        sums, scored_C = counts.sum(0), counts[:, metrics.GOLD].sum(0) > 0
        types, gold = int(scored_C.sum()), int(sums[metrics.GOLD].sum())
        signature = metrics.signature(name, metric.options, types=types)
        n = len(self.gold)
        if gold == 0:
            return Score(None, None, None, n, signature, None, "the test rows have no entities")
        value = float(metric.of(sums, scored_C))
        se = float(metric.of(self._resampled[metric.decode], scored_C).std(ddof=1))
        if metric.per_class and gold < MIN_ROWS_PER_CLASS * types:
            return Score(value, None, None, n, signature, se, too_thin(gold, types, "entities"))
        return Score(value, *bounded(value, se, min(gold, independent(n, self.cluster_N))), n, signature, se)

    def per_class(self) -> dict[str, dict[str, Score]]:
        """Precision, recall and F1 of each entity type with test rows, by conlleval."""
        counts, resampled = self.counts["conlleval"], self._resampled["conlleval"]
        sums = counts.sum(0)
        found: dict[str, dict[str, Score]] = {}
        for c in np.flatnonzero(sums[metrics.GOLD] > 0).tolist():
            rows = {}
            for name, rate in metrics.PER_CLASS.items():
                value, se = float(rate(sums)[c]), float(rate(resampled)[:, c].std(ddof=1))
                items = int(sums[metrics.PREDICTED if name == "precision" else metrics.GOLD, c])
                signature = metrics.signature(name, "type|decode:conlleval")
                if items == 0:
                    rows[name] = Score(value, None, None, 0, signature, None, "nothing predicted")
                else:
                    rows[name] = Score(value, *bounded(value, se, items), items, signature, se)
            found[self.types[c]] = rows
        return found

    def difference(self, old: TagOutcome, metric: str) -> Difference:
        """This minus `old` on the same sentences. Raises KeyError for a metric that is no tagging metric."""
        if metric == "token_accuracy":
            return ratio_difference(self.right_N - old.right_N, self.words_N, self.cluster_N)
        of, rule = metrics.TAG[metric].of, metrics.TAG[metric].decode
        new_counts, old_counts = self.counts[rule], old.counts[rule]
        width, scored_C = new_counts.shape[2], new_counts[:, metrics.GOLD].sum(0) > 0
        both = _resampled_counts(np.concatenate([new_counts, old_counts], axis=2), self)
        point = float(of(new_counts.sum(0), scored_C) - of(old_counts.sum(0), scored_C))
        change_R = of(both[..., :width], scored_C) - of(both[..., width:], scored_C)
        return statistics.paired(point, change_R, independent(len(self.gold), self.cluster_N))


def _resampled_counts(counts_NKC: Floats, outcome: TagOutcome) -> Floats:
    """Bootstrap sums (R, K, C) of per-sentence counts."""
    # Halves of partial matches become whole numbers, so that equal sentences share a cell.
    flat = np.rint(counts_NKC.reshape(len(counts_NKC), -1) * 2).astype(np.int64)
    cells = resampling.fold(flat, outcome.cluster_N)
    sums = [weights_RM @ cells.table_MK for weights_RM in cells.draw(outcome.resamples, SEED)]
    return np.concatenate(sums).reshape(-1, *counts_NKC.shape[1:]) / 2
