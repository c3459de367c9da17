"""Metrics as functions of summed per-row counts: the same code gives the point, a slice and every bootstrap resample.

A count array `sums` is (..., 3, C): for each class or entity type the correct, the gold and the predicted items. 0/0 is
0, as in scikit-learn's `zero_division=0`. `scored_C` marks the classes that averages run over: those with gold rows in
the test, fixed before resampling, so that one stray prediction can't change the denominator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wyrmling.evaluate.resampling import sum_by
from wyrmling.evaluate.statistics import Floats, Ints

Bools = npt.NDArray[np.bool_]

CORRECT, GOLD, PREDICTED = 0, 1, 2
# A metric whose definition changes gets a higher version, so that old and new values are not compared.
VERSION = 1


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
    decode: str = ""
    """How tags become entities: conlleval, iob2 (strictly) or partial (overlaps count half). Empty for labels."""


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

# One class or entity type, written metric[label] in objective.accept.
PER_CLASS: dict[str, Rate] = {"precision": precision, "recall": recall, "f1": f1}


def _of_tags() -> dict[str, Metric]:
    found = {}
    for prefix, decode in (("", "conlleval"), ("strict_", "iob2"), ("partial_", "partial")):
        for name, rate in PER_CLASS.items():
            found[f"{prefix}entity_{name}"] = Metric(_micro(rate), f"avg:micro|decode:{decode}", decode=decode)
    macro = Metric(_macro(f1), "avg:macro|zero:0|decode:conlleval", per_class=True, decode="conlleval")
    return found | {"macro_entity_f1": macro}


TAG: dict[str, Metric] = _of_tags()
# Of rows that may have several labels: means over rows of a row's own rates, and the share of labels that are wrong.
SAMPLES = tuple(f"samples_{name}" for name in PER_CLASS)
LABEL_SETS = (*SAMPLES, "hamming_loss")
PROBABILITY = ("log_loss", "brier", "ece", "auroc", "average_precision")
TEXT = ("bpb", "loss", "perplexity", "token_accuracy")
# Where less is better; everything else is better when larger.
LOWER_IS_BETTER = frozenset({"hamming_loss", "log_loss", "brier", "ece", "bpb", "loss", "perplexity"})


def signature(name: str, options: str, **facts: object) -> str:
    """`macro_f1|labels:77|avg:macro|zero:0|v:1`: two values may be compared only when these are equal."""
    return "|".join([name, *(f"{key}:{value}" for key, value in facts.items()), options, f"v:{VERSION}"])


def class_sums(weights_RM: Floats, gold_M: Ints, predicted_M: Ints, n_classes: int) -> Floats:
    """Sums (R, 3, C) of correct, gold and predicted rows per class, each cell counted `weights` times.

    predicted_M   -1 where there is no prediction
    """
    right = np.where(gold_M == predicted_M, gold_M, -1)
    parts = [sum_by(weights_RM, group, n_classes) for group in (right, gold_M, predicted_M)]
    return np.stack(parts, axis=1)


def bits_per_byte(nll: float, n_bytes: int) -> float:
    """Cross-entropy in bits per UTF-8 byte of the scored text. Raises ValueError when there are no bytes.

    nll   sum over the scored tokens, nats
    Source   Gao et al. 2020, The Pile (arXiv 2101.00027), bits per UTF-8 byte
    """
    if n_bytes <= 0:
        raise ValueError("nothing was scored: the text has no bytes")
    return nll / (math.log(2) * n_bytes)
