"""What a system (model or baseline) did on the test rows, and the scores with intervals that follow from it.

An outcome holds per-row results only, so two outcomes on the same rows can be compared row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from wyrmling.evaluate import metrics, statistics
from wyrmling.evaluate.metrics import Bools
from wyrmling.evaluate.statistics import Difference, Floats, Interval, Ints

# With fewer test rows a class, the bootstrap of an average over classes does not cover the truth (docs/evaluate.md).
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
    """What the three kinds of outcomes have in common."""

    def scores(self) -> dict[str, Score]: ...

    def per_class(self) -> dict[str, dict[str, Score]]: ...

    def difference(self, old: Any, metric: str) -> Difference: ...


@dataclass(frozen=True)
class ClassOutcome:
    """One label per row.

    gold_N            index into labels
    predicted_N       index into labels, -1 for no prediction
    probabilities_NC  rows sum to 1; None when the system gives none
    """

    labels: Sequence[str]
    gold_N: Ints
    predicted_N: Ints
    probabilities_NC: Floats | None = None
    resamples: int = RESAMPLES

    @cached_property
    def scored_C(self) -> Bools:
        """True for labels with test rows: those that averages run over."""
        return np.asarray(np.bincount(self.gold_N, minlength=len(self.labels)) > 0)

    @cached_property
    def sums(self) -> Floats:
        """(3, C) correct, gold and predicted rows per label."""
        ones = np.ones((1, len(self.gold_N)))
        return np.asarray(metrics.class_sums(ones, self.gold_N, self.predicted_N, len(self.labels))[0])

    def scores(self) -> dict[str, Score]:
        """Every classification metric; those of probabilities only where there are some."""
        resampled = _class_resamples(self.gold_N, [self.predicted_N], len(self.labels), self.resamples)[0]
        n, labels = len(self.gold_N), int(self.scored_C.sum())
        found = {}
        for name, metric in metrics.CLASSIFY.items():
            signature = metrics.signature(name, metric.options, labels=labels)
            value = float(metric.of(self.sums, self.scored_C))
            if name == "accuracy":
                found[name] = _proportion(round(value * n), n, signature)
                continue
            se = float(metric.of(resampled, self.scored_C).std(ddof=1))
            if metric.per_class and n < MIN_ROWS_PER_CLASS * labels:
                found[name] = Score(value, None, None, n, signature, se, _too_thin(n, labels, "rows"))
            else:
                low, high = _signed_logit(value, se, n) if name == "mcc" else _bounded(value, se, n)
                found[name] = Score(value, low, high, n, signature, se)
        return found | self._probability_scores()

    def _probability_scores(self) -> dict[str, Score]:
        if self.probabilities_NC is None:
            return {}
        n = len(self.gold_N)
        ones_N = np.ones(n)
        facts = {"labels": len(self.labels)}
        found = {
            "log_loss": _mean(
                metrics.log_losses(self.gold_N, self.probabilities_NC), ones_N, "log_loss", "nats", facts
            ),
            "brier": _mean(
                metrics.brier_scores(self.gold_N, self.probabilities_NC), ones_N, "brier", "range:0-2", facts
            ),
        }
        confidence_N, right_N = self.probabilities_NC.max(1), self.gold_N == self.predicted_N
        bins = metrics.reliability(confidence_N, right_N)
        gap_NB = np.zeros((n, len(bins.rows)))
        gap_NB[np.arange(n), bins.bin_N] = confidence_N - right_N
        value = float(metrics.ece(gap_NB.sum(0), n))
        drawn = statistics.resamples(np.ones(n, dtype=np.int64), self.resamples, SEED)
        se = float(np.concatenate([metrics.ece(weights @ gap_NB, n) for weights in drawn]).std(ddof=1))
        mean, high = metrics.ece_by_chance(confidence_N, bins.bin_N, 200, SEED)
        note = f"a perfectly calibrated model shows {mean:.3f} on these rows, up to {high:.3f}"
        interval = _bounded(value, se, n)
        signature = metrics.signature("ece", f"bins:{len(bins.rows)}|mass:equal", **facts)
        return found | {"ece": Score(value, *interval, n, signature, se, note)}

    def per_class(self) -> dict[str, dict[str, Score]]:
        """Precision, recall and F1 of each label with test rows, in the order of the labels."""
        found = {}
        for c in np.flatnonzero(self.scored_C).tolist():
            correct, gold, predicted = (int(x) for x in self.sums[:, c])
            options = "label"
            either = gold + predicted - correct
            low, high = (None if j is None else 2 * j / (1 + j) for j in statistics.wilson(correct, either))
            found[self.labels[c]] = {
                "precision": _proportion(correct, predicted, metrics.signature("precision", options)),
                "recall": _proportion(correct, gold, metrics.signature("recall", options)),
                # Among the rows where either side names the label, F1 is a rising function of the share correct:
                # f = 2j / (1 + j). So Wilson's interval of j gives one of F1 that holds for few rows too.
                "f1": Score(
                    2 * correct / (gold + predicted),
                    low,
                    high,
                    either,
                    metrics.signature("f1", options),
                    _f1_se(correct, either),
                ),
            }
        return found

    def difference(self, old: ClassOutcome, metric: str) -> Difference:
        """This minus `old` on the same rows. Raises KeyError for a metric that is no classification metric."""
        if metric == "accuracy":
            return _accuracy_difference(self.gold_N == self.predicted_N, old.gold_N == old.predicted_N)
        if metric in ("log_loss", "brier"):
            if self.probabilities_NC is None or old.probabilities_NC is None:
                raise KeyError(f"{metric} needs probabilities on both sides")
            rows = metrics.log_losses if metric == "log_loss" else metrics.brier_scores
            change_N = rows(self.gold_N, self.probabilities_NC) - rows(old.gold_N, old.probabilities_NC)
            return _ratio_difference(change_N, np.ones(len(change_N)))
        of = metrics.CLASSIFY[metric].of
        new_sums, old_sums = _class_resamples(
            self.gold_N, [self.predicted_N, old.predicted_N], len(self.labels), self.resamples
        )
        point = float(of(self.sums, self.scored_C) - of(old.sums, self.scored_C))
        change_R = of(new_sums, self.scored_C) - of(old_sums, self.scored_C)
        return statistics.paired(point, change_R, len(self.gold_N))


@dataclass(frozen=True)
class TagOutcome:
    """Tags of the words of each sentence. Sentences, not words, are what is resampled."""

    gold: Sequence[Sequence[str]]
    predicted: Sequence[Sequence[str]]
    types: Sequence[str]
    resamples: int = RESAMPLES

    @cached_property
    def counts(self) -> Floats:
        """(N, 3, T) correct, gold and predicted entities per sentence and type."""
        return metrics.entity_counts(self.gold, self.predicted, self.types)

    @cached_property
    def right_N(self) -> Floats:
        """Words with the right tag, per sentence."""
        return np.array(
            [sum(g == p for g, p in zip(*row, strict=True)) for row in zip(self.gold, self.predicted, strict=True)],
            float,
        )

    @cached_property
    def words_N(self) -> Floats:
        return np.array([len(row) for row in self.gold], dtype=np.float64)

    @cached_property
    def scored_C(self) -> Bools:
        return np.asarray(self.counts[:, metrics.GOLD].sum(0) > 0)

    def scores(self) -> dict[str, Score]:
        """Entity scores over all types, and the share of words with the right tag."""
        n, sums = len(self.gold), self.counts.sum(0)
        resampled = _count_resamples(self.counts, self.resamples)
        types, gold_entities = int(self.scored_C.sum()), int(sums[metrics.GOLD].sum())
        found = {}
        for name, metric in metrics.TAG.items():
            signature = metrics.signature(name, metric.options, types=types)
            if gold_entities == 0:
                found[name] = Score(None, None, None, n, signature, None, "the test rows have no entities")
                continue
            value = float(metric.of(sums, self.scored_C))
            se = float(metric.of(resampled, self.scored_C).std(ddof=1))
            if metric.per_class and gold_entities < MIN_ROWS_PER_CLASS * types:
                found[name] = Score(value, None, None, n, signature, se, _too_thin(gold_entities, types, "entities"))
            else:
                found[name] = Score(value, *_bounded(value, se, gold_entities), n, signature, se)
        found["token_accuracy"] = _share(self.right_N, self.words_N, "token_accuracy", "unit:word")
        return found

    def per_class(self) -> dict[str, dict[str, Score]]:
        """Precision, recall and F1 of each entity type with test rows."""
        sums, resampled = self.counts.sum(0), _count_resamples(self.counts, self.resamples)
        found: dict[str, dict[str, Score]] = {}
        for c in np.flatnonzero(self.scored_C).tolist():
            rows = {}
            for name, rate in metrics.PER_CLASS.items():
                value, se = float(rate(sums)[c]), float(rate(resampled)[:, c].std(ddof=1))
                entities = int(sums[metrics.PREDICTED if name == "precision" else metrics.GOLD, c])
                signature = metrics.signature(name, "type|decode:conlleval")
                if entities == 0:
                    rows[name] = Score(value, None, None, 0, signature, None, "nothing predicted")
                else:
                    rows[name] = Score(value, *_bounded(value, se, entities), entities, signature, se)
            found[self.types[c]] = rows
        return found

    def difference(self, old: TagOutcome, metric: str) -> Difference:
        """This minus `old` on the same sentences. Raises KeyError for a metric that is no tagging metric."""
        if metric == "token_accuracy":
            return _ratio_difference(self.right_N - old.right_N, self.words_N)
        of = metrics.TAG[metric].of
        types = len(self.types)
        both = _count_resamples(np.concatenate([self.counts, old.counts], axis=2), self.resamples)
        point = float(of(self.counts.sum(0), self.scored_C) - of(old.counts.sum(0), self.scored_C))
        change_R = of(both[..., :types], self.scored_C) - of(both[..., types:], self.scored_C)
        return statistics.paired(point, change_R, len(self.gold))


@dataclass(frozen=True)
class TextOutcome:
    """How well each text (document or answer) was predicted.

    nll_N, targets_N  nats and number of all targets, end-of-text included; None for a system without tokens
    text_nll_N        nats of the targets that are text: special tokens have neither nats nor bytes
    bytes_N           UTF-8 bytes of that text
    right_N           targets whose most probable token was the right one
    """

    text_nll_N: Floats
    bytes_N: Floats
    nll_N: Floats | None = None
    targets_N: Floats | None = None
    right_N: Floats | None = None
    tokenizer: str = "bytes"
    """Names the tokenizer in signatures: losses per token compare only within one."""

    def scores(self) -> dict[str, Score]:
        """Bits per byte; loss, perplexity and token accuracy where the system has tokens."""
        scale = math.log(2)
        found = {"bpb": _mean(self.text_nll_N / scale, self.bytes_N, "bpb", "unit:text|rolling:context")}
        if self.nll_N is None or self.targets_N is None:
            return found
        tokenizer = {"tokenizer": self.tokenizer}
        loss = _mean(self.nll_N, self.targets_N, "loss", "nats|unit:token", tokenizer)
        found["loss"] = loss
        value = _exp(loss.value)
        found["perplexity"] = Score(
            value,
            _exp(loss.low),
            _exp(loss.high),
            loss.n,
            metrics.signature("perplexity", "unit:token", **tokenizer),
            None if value is None or loss.se is None else value * loss.se,
            loss.note,
        )
        if self.right_N is not None:
            found["token_accuracy"] = _share(self.right_N, self.targets_N, "token_accuracy", "unit:token", tokenizer)
        return found

    def per_class(self) -> dict[str, dict[str, Score]]:
        return {}

    def difference(self, old: TextOutcome, metric: str) -> Difference:
        """This minus `old` on the same texts; only bits per byte compare across tokenizers.

        Raises   KeyError for another metric
        """
        if metric != "bpb":
            raise KeyError(metric)
        return _ratio_difference((self.text_nll_N - old.text_nll_N) / math.log(2), self.bytes_N)


def _class_resamples(gold_N: Ints, predicted: list[Ints], n_classes: int, count: int) -> list[Floats]:
    """Bootstrap sums (R, 3, C) for each system, drawn together so that differences are paired."""
    gold_M, predicted_M, rows_M = metrics.fold(gold_N, *predicted)
    chunks: list[list[Floats]] = [[] for _ in predicted]
    for weights_RM in statistics.resamples(rows_M, count, SEED):
        for system, cells in zip(chunks, predicted_M, strict=True):
            system.append(metrics.class_sums(weights_RM, gold_M, cells, n_classes))
    return [np.concatenate(system) for system in chunks]


def _count_resamples(counts_NKC: Floats, count: int) -> Floats:
    """Bootstrap sums (R, K, C) of per-row counts."""
    flat = counts_NKC.reshape(len(counts_NKC), -1)
    cells, rows_M = np.unique(flat, axis=0, return_counts=True)
    sums = [weights @ cells for weights in statistics.resamples(rows_M.astype(np.int64), count, SEED)]
    return np.concatenate(sums).reshape(-1, *counts_NKC.shape[1:])


def _bounded(value: float, se: float, n: int) -> Interval:
    """Interval of a value in 0..1; where no resample differs (all right, all wrong), Wilson's for so many items."""
    return statistics.wilson(value * n, n) if se == 0 else statistics.logit_normal(value, se)


def _signed_logit(value: float, se: float, n: int) -> Interval:
    low, high = _bounded((value + 1) / 2, se / 2, n)
    return Interval(None if low is None else 2 * low - 1, None if high is None else 2 * high - 1)


def _proportion(successes: int, n: int, signature: str) -> Score:
    if n == 0:
        return Score(0.0, None, None, 0, signature, None, "nothing predicted")
    p = successes / n
    return Score(p, *statistics.wilson(successes, n), n=n, signature=signature, se=math.sqrt(p * (1 - p) / n))


def _f1_se(correct: int, either: int) -> float:
    """Delta method of f = 2j / (1 + j), j a proportion of `either` rows."""
    j = correct / either
    return 2 / (1 + j) ** 2 * math.sqrt(j * (1 - j) / either)


def _ratio(
    numerator_N: Floats,
    denominator_N: Floats,
    signature: str,
    interval: Callable[[float, float], Interval],
) -> Score:
    value, se = float(numerator_N.sum() / denominator_N.sum()), statistics.ratio_se(numerator_N, denominator_N)
    if math.isinf(se):
        return Score(value, None, None, len(numerator_N), signature, None, "one row has no interval")
    return Score(value, *interval(value, se), n=len(numerator_N), signature=signature, se=se)


def _mean(
    numerator_N: Floats, denominator_N: Floats, name: str, options: str, facts: dict[str, Any] | None = None
) -> Score:
    return _ratio(numerator_N, denominator_N, metrics.signature(name, options, **(facts or {})), statistics.normal)


def _share(
    numerator_N: Floats, denominator_N: Floats, name: str, options: str, facts: dict[str, Any] | None = None
) -> Score:
    signature = metrics.signature(name, options, **(facts or {}))
    n = int(denominator_N.sum())
    return _ratio(numerator_N, denominator_N, signature, lambda value, se: _bounded(value, se, n))


def _ratio_difference(change_N: Floats, denominator_N: Floats) -> Difference:
    point, se = float(change_N.sum() / denominator_N.sum()), statistics.ratio_se(change_N, denominator_N)
    if math.isinf(se):
        return Difference(point, None, None, None, 1.0, "one row")
    return Difference(point, *statistics.normal(point, se), se, statistics.two_sided_p(point, se), "paired by row")


def _accuracy_difference(new_N: Bools, old_N: Bools) -> Difference:
    fixed, broken = int((new_N & ~old_N).sum()), int((old_N & ~new_N).sum())
    change_N = new_N.astype(np.float64) - old_N
    paired = _ratio_difference(change_N, np.ones(len(change_N)))
    return paired._replace(p=statistics.mcnemar(fixed, broken), test=f"McNemar exact, {fixed} fixed, {broken} broken")


def _too_thin(items: int, classes: int, what: str) -> str:
    return (
        f"no interval: {items} {what} for {classes} classes; an average over classes needs at least "
        f"{MIN_ROWS_PER_CLASS} {what} a class"
    )


def _exp(x: float | None) -> float | None:
    return None if x is None else math.exp(min(x, 700.0))
