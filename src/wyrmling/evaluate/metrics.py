"""Metrics as functions of summed per-row counts: the same code gives the point, a slice and every bootstrap resample.

A count array `sums` is (..., 3, C): for each class or entity type the correct, the gold and the predicted items. 0/0 is
0, as in scikit-learn's `zero_division=0`. `scored_C` marks the classes that averages run over: those with gold rows in
the test, fixed before resampling, so that one stray prediction can't change the denominator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wyrmling.evaluate.statistics import Floats, Ints

Bools = npt.NDArray[np.bool_]

CORRECT, GOLD, PREDICTED = 0, 1, 2
# A metric whose definition changes gets a higher version, so that old and new values are not compared.
VERSION = 1
ECE_BINS = 10


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    out = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape))
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def precision(sums: Floats) -> Floats:
    """Correct / predicted per class, (..., C)."""
    return _divide(sums[..., CORRECT, :], sums[..., PREDICTED, :])


def recall(sums: Floats) -> Floats:
    """Correct / gold per class, (..., C)."""
    return _divide(sums[..., CORRECT, :], sums[..., GOLD, :])


def f1(sums: Floats) -> Floats:
    """2 correct / (gold + predicted) per class, (..., C)."""
    return _divide(2 * sums[..., CORRECT, :], sums[..., GOLD, :] + sums[..., PREDICTED, :])


def accuracy(sums: Floats, scored_C: Bools) -> Floats:
    """Rows with the right label; a row without a prediction is wrong."""
    return _divide(sums[..., CORRECT, :].sum(-1), sums[..., GOLD, :].sum(-1))


def mcc(sums: Floats, scored_C: Bools) -> Floats:
    """Matthews correlation for any number of classes, -1..1; 0 when one side names a single class.

    Source   Gorodkin 2004, R_K
    """
    correct, gold, predicted = (sums[..., i, :] for i in (CORRECT, GOLD, PREDICTED))
    n = gold.sum(-1)
    missing = n - predicted.sum(-1)
    covariance = correct.sum(-1) * n - (gold * predicted).sum(-1)
    spread = (n**2 - (predicted**2).sum(-1) - missing**2) * (n**2 - (gold**2).sum(-1))
    return _divide(covariance, np.sqrt(np.maximum(spread, 0)))


Rate = Callable[[Floats], Floats]
Average = Callable[[Floats, Bools], Floats]


def _macro(rate: Rate) -> Average:
    return lambda sums, scored_C: np.asarray(rate(sums)[..., scored_C].mean(-1))


def _weighted(rate: Rate) -> Average:
    def average(sums: Floats, scored_C: Bools) -> Floats:
        gold = sums[..., GOLD, :]
        return _divide((rate(sums) * gold).sum(-1), gold.sum(-1))

    return average


def _micro(rate: Rate) -> Average:
    return lambda sums, scored_C: rate(sums.sum(-1, keepdims=True))[..., 0]


class Metric(NamedTuple):
    """of: sums (..., 3, C), scored_C -> values (...). options: the part of the signature that tells variants apart."""

    of: Average
    options: str
    per_class: bool = False
    """An equal-weight mean over classes: with few rows a class it is biased and its bootstrap interval is wrong."""


CLASSIFY: dict[str, Metric] = {
    "accuracy": Metric(accuracy, "missing:wrong"),
    "balanced_accuracy": Metric(_macro(recall), "avg:macro|zero:0", per_class=True),
    "macro_f1": Metric(_macro(f1), "avg:macro|zero:0", per_class=True),
    "micro_f1": Metric(_micro(f1), "avg:micro"),
    "weighted_f1": Metric(_weighted(f1), "avg:gold|zero:0"),
    "macro_precision": Metric(_macro(precision), "avg:macro|zero:0", per_class=True),
    "micro_precision": Metric(_micro(precision), "avg:micro"),
    "weighted_precision": Metric(_weighted(precision), "avg:gold|zero:0"),
    "macro_recall": Metric(_macro(recall), "avg:macro|zero:0", per_class=True),
    "micro_recall": Metric(_micro(recall), "avg:micro"),
    "weighted_recall": Metric(_weighted(recall), "avg:gold|zero:0"),
    "mcc": Metric(mcc, "multiclass"),
}
TAG: dict[str, Metric] = {
    "entity_f1": Metric(_micro(f1), "avg:micro|decode:conlleval"),
    "entity_precision": Metric(_micro(precision), "avg:micro|decode:conlleval"),
    "entity_recall": Metric(_micro(recall), "avg:micro|decode:conlleval"),
    "macro_entity_f1": Metric(_macro(f1), "avg:macro|zero:0|decode:conlleval", per_class=True),
}
# One class or entity type, written metric[label] in objective.accept.
PER_CLASS: dict[str, Rate] = {"precision": precision, "recall": recall, "f1": f1}
PROBABILITY = ("log_loss", "brier", "ece")
TEXT = ("bpb", "loss", "perplexity", "token_accuracy")
# Where less is better; everything else is better when larger.
LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece", "bpb", "loss", "perplexity"})


def signature(name: str, options: str, **facts: object) -> str:
    """`macro_f1|labels:77|avg:macro|zero:0|v:1`: two values may be compared only when these are equal."""
    return "|".join([name, *(f"{key}:{value}" for key, value in facts.items()), options, f"v:{VERSION}"])


def fold(gold_N: Ints, *predicted: Ints) -> tuple[Ints, list[Ints], Ints]:
    """Distinct (gold, predictions of each system) combinations and the rows of each: gold_M, [predicted_M], rows_M."""
    table, rows_M = np.unique(np.stack([gold_N, *predicted], axis=1), axis=0, return_counts=True)
    return table[:, 0], [table[:, i + 1] for i in range(len(predicted))], rows_M.astype(np.int64)


def class_sums(weights_RM: Floats, gold_M: Ints, predicted_M: Ints, n_classes: int) -> Floats:
    """Sums (R, 3, C) of correct, gold and predicted rows per class, each cell counted `weights` times.

    predicted_M   -1 where there is no prediction
    """
    right = np.where(gold_M == predicted_M, gold_M, -1)
    parts = [_sum_by(weights_RM, group, n_classes) for group in (right, gold_M, predicted_M)]
    return np.stack(parts, axis=1)


def _sum_by(weights_RM: Floats, group_M: Ints, n_groups: int) -> Floats:
    """Column sums per group, (R, n_groups); columns of group -1 are left out."""
    out = np.zeros((len(weights_RM), n_groups))
    order = np.argsort(group_M, kind="stable")
    order = order[group_M[order] >= 0]
    if len(order):
        present, starts = np.unique(group_M[order], return_index=True)
        out[:, present] = np.add.reduceat(weights_RM[:, order], starts, axis=1)
    return out


def confusion(gold_N: Ints, predicted_N: Ints, n_classes: int) -> Ints:
    """Rows by gold (first axis) and predicted label, (C, C + 1); the last column counts rows without a prediction."""
    column_N = np.where(predicted_N < 0, n_classes, predicted_N)
    flat = np.bincount(gold_N * (n_classes + 1) + column_N, minlength=n_classes * (n_classes + 1))
    return flat.reshape(n_classes, n_classes + 1).astype(np.int64)


def log_losses(gold_N: Ints, probabilities_NC: Floats) -> Floats:
    """Minus log-probability of the gold label per row, nats; a probability of 0 costs 36.04, as in scikit-learn."""
    eps = float(np.finfo(np.float64).eps)
    return -np.log(np.clip(probabilities_NC[np.arange(len(gold_N)), gold_N], eps, 1 - eps))


def brier_scores(gold_N: Ints, probabilities_NC: Floats) -> Floats:
    """Squared distance between the probabilities and the gold one-hot per row, 0..2."""
    gold_p_N = probabilities_NC[np.arange(len(gold_N)), gold_N]
    return np.asarray((probabilities_NC**2).sum(1) - 2 * gold_p_N + 1)


class Reliability(NamedTuple):
    """Equal-mass bins of the top probability: rows, mean confidence and share right of each; bin_N: bin of each row."""

    rows: Ints
    confidence: Floats
    right: Floats
    bin_N: Ints


def reliability(confidence_N: Floats, right_N: Bools, bins: int = ECE_BINS) -> Reliability:
    """Rows sorted by confidence and cut into bins of (nearly) equal size; fewer rows than bins give fewer bins."""
    n = len(confidence_N)
    bins = min(bins, n)
    bin_N = np.empty(n, dtype=np.int64)
    bin_N[np.argsort(confidence_N, kind="stable")] = np.arange(n) * bins // n
    rows = np.bincount(bin_N, minlength=bins)
    return Reliability(
        rows.astype(np.int64),
        np.bincount(bin_N, confidence_N, bins) / rows,
        np.bincount(bin_N, right_N.astype(np.float64), bins) / rows,
        bin_N,
    )


def ece(gaps: Floats, n: int) -> Floats:
    """Expected calibration error from per-bin sums of confidence minus right, (..., bins). Source: Guo et al. 2017."""
    return np.asarray(np.abs(gaps).sum(-1) / n)


def ece_by_chance(confidence_N: Floats, bin_N: Ints, draws: int, seed: int) -> tuple[float, float]:
    """Mean and 95th percentile of the ECE that a perfectly calibrated model would show on these rows."""
    generator = np.random.default_rng(seed)
    found = np.empty(draws)
    for i in range(draws):
        gap_N = confidence_N - (generator.random(len(confidence_N)) < confidence_N)
        found[i] = ece(np.bincount(bin_N, gap_N).astype(np.float64), len(confidence_N))
    return float(found.mean()), float(np.quantile(found, 0.95))


class Entity(NamedTuple):
    type: str
    start: int
    end: int
    """Index of the last word, inclusive."""


def entities(tags: Sequence[str]) -> list[Entity]:
    """Entities of one sentence by the rules of conlleval, which forgive an I without its B.

    An entity starts at B or S, and at I or E after O or another type. It ends before B, S, O or another type, and
    after E or S.
    Source   conlleval.pl (CoNLL-2000); the default mode of seqeval
    """
    found: list[Entity] = []
    kind: str | None = None
    start = 0
    for i, tag in enumerate(tags):
        prefix, _, name = tag.partition("-")
        begins = prefix in ("B", "S") or (prefix in ("I", "E") and name != kind)
        if kind is not None and (begins or prefix == "O"):
            found.append(Entity(kind, start, i - 1))
            kind = None
        if begins:
            kind, start = name, i
        if kind is not None and prefix in ("E", "S"):
            found.append(Entity(kind, start, i))
            kind = None
    if kind is not None:
        found.append(Entity(kind, start, len(tags) - 1))
    return found


def entity_counts(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], types: Sequence[str]) -> Floats:
    """Correct, gold and predicted entities of each sentence and type, (N, 3, T).

    Raises   ValueError when a sentence has another number of predicted tags than gold ones
    """
    index = {name: i for i, name in enumerate(types)}
    counts = np.zeros((len(gold), 3, len(types)))
    for row, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        if len(gold_tags) != len(predicted_tags):
            raise ValueError(f"sentence {row}: {len(predicted_tags)} predicted tags for {len(gold_tags)} words")
        true, guessed = set(entities(gold_tags)), set(entities(predicted_tags))
        for which, group in ((CORRECT, true & guessed), (GOLD, true), (PREDICTED, guessed)):
            for entity in group:
                counts[row, which, index[entity.type]] += 1
    return counts


def entity_types(*tag_lists: Sequence[Sequence[str]]) -> list[str]:
    """Sorted entity types named by any tag."""
    return sorted({tag.partition("-")[2] for tags in tag_lists for row in tags for tag in row if tag != "O"})


def bits_per_byte(nll: float, n_bytes: int) -> float:
    """Cross-entropy in bits per UTF-8 byte of the scored text. Raises ValueError when there are no bytes.

    nll   sum over the scored tokens, nats
    Source   Gao et al. 2020, The Pile (arXiv 2101.00027), bits per UTF-8 byte
    """
    if n_bytes <= 0:
        raise ValueError("nothing was scored: the text has no bytes")
    return nll / (math.log(2) * n_bytes)
