"""Whether a probability means what it says: log-loss, Brier, calibration error, and the temperature that mends it.

Letters: N rows, C labels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wyrmling.evaluate.metrics import Bools
from wyrmling.evaluate.statistics import Floats, Ints

ECE_BINS = 10
# Where a temperature is looked for: a softmax 20 times sharper or flatter than the model's is a broken model.
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0


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


def sharpened(probabilities_NC: Floats, temperature: float) -> Floats:
    """Probabilities of the softmax at a temperature: above 1 flatter, below 1 sharper; the best label stays best."""
    tiny = float(np.finfo(np.float64).tiny)
    logits_NC = np.log(np.maximum(probabilities_NC, tiny)) / temperature
    scaled_NC = np.exp(logits_NC - logits_NC.max(1, keepdims=True))
    return np.asarray(scaled_NC / scaled_NC.sum(1, keepdims=True))


def temperature(gold_N: Ints, probabilities_NC: Floats) -> float:
    """The temperature with the least log-loss on these rows, which must not be the test rows.

    Raises   ValueError without rows
    Source   Guo et al. 2017 (arXiv 1706.04599); golden-section search over its logarithm, where the loss has one valley
    """
    if not len(gold_N):
        raise ValueError("a temperature can't be fitted without rows")

    def loss(logarithm: float) -> float:
        return float(log_losses(gold_N, sharpened(probabilities_NC, math.exp(logarithm))).mean())

    low, high = math.log(LEAST_TEMPERATURE), math.log(MOST_TEMPERATURE)
    golden = (math.sqrt(5) - 1) / 2
    a, b = high - golden * (high - low), low + golden * (high - low)
    loss_a, loss_b = loss(a), loss(b)
    while high - low > 1e-4:
        if loss_a <= loss_b:
            high, b, loss_b = b, a, loss_a
            a = high - golden * (high - low)
            loss_a = loss(a)
        else:
            low, a, loss_a = a, b, loss_b
            b = low + golden * (high - low)
            loss_b = loss(b)
    return math.exp((low + high) / 2)
