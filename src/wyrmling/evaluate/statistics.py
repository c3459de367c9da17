"""Intervals and paired tests. Knows nothing of models or metrics.

Which interval belongs to which quantity, and why the percentile bootstrap is not among them, is in docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CONFIDENCE = 0.95
# Two-sided 95 %: 1.959963985.
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
# A gap of this many standard errors is found in 80 % of repetitions by a two-sided 5 % test: 1.96 + 0.84.
POWER_80 = Z + NormalDist().inv_cdf(0.8)


class Interval(NamedTuple):
    """A 95 % interval; None is an open end (too few rows to bound it)."""

    low: float | None
    high: float | None


class Difference(NamedTuple):
    """New minus old on the same rows, with a 95 % interval (None from a single row).

    p   two-sided p-value of the paired test that `test` names
    """

    value: float
    low: float | None
    high: float | None
    se: float | None
    p: float
    test: str


def wilson(successes: float, n: float) -> Interval:
    """Wilson score interval of a proportion. Raises ValueError when n is 0.

    n   rows, or the rows they are worth where they depend on each other (`effective_rows`)
    Source   Wilson 1927; Brown, Cai and DasGupta 2001
    """
    return Interval(*_score_ends(successes, n))


def _score_ends(successes: float, n: float) -> tuple[float, float]:
    if n <= 0:
        raise ValueError(f"a proportion of {n} rows has no interval")
    p, z2 = successes / n, Z * Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At 0 of n and n of n one end is exact; rounding must not push it past the point.
    return (0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half))


def newcombe(a: int, n_a: int, b: int, n_b: int) -> tuple[float, float]:
    """Hybrid score interval of a / n_a - b / n_b, two independent proportions. Raises ValueError when n_a or n_b is 0.

    Source   Newcombe 1998, Interval estimation for the difference between independent proportions, method 10
    """
    (low_a, high_a), (low_b, high_b) = _score_ends(a, n_a), _score_ends(b, n_b)
    p_a, p_b = a / n_a, b / n_b
    return (
        p_a - p_b - math.hypot(p_a - low_a, high_b - p_b),
        p_a - p_b + math.hypot(high_a - p_a, p_b - low_b),
    )


def effective_rows(n: int, p: float, se: float) -> float:
    """Independent rows that would give a proportion this standard error; n dependent rows are worth at most n.

    Source   Korn and Graubard 1998, the degrees of freedom left out
    """
    return min(float(n), p * (1 - p) / se**2) if se > 0 else float(n)


def logit_normal(point: float, se: float) -> Interval:
    """Interval of a value in 0..1 that is not a plain proportion, such as F1, from its bootstrap standard error."""
    clipped = min(max(point, 0.001), 0.999)
    middle = math.log(clipped / (1 - clipped))
    half = Z * se / (clipped * (1 - clipped))
    return Interval(min(point, _expit(middle - half)), max(point, _expit(middle + half)))


def normal(point: float, se: float) -> Interval:
    """point ± 1.96 standard errors."""
    return Interval(point - Z * se, point + Z * se)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def ratio_se(numerator_N: Floats, denominator_N: Floats, cluster_N: Ints | None = None) -> float:
    """Standard error of sum(numerator) / sum(denominator) over independent rows; with a denominator of ones, of a mean.

    cluster_N   number of the cluster of each row, when rows of a cluster depend on each other
    Raises   ValueError when the denominators sum to 0
    Source   linearised ratio estimator, Cochran 1977, section 6.4; equals the bootstrap's as rows grow
    """
    total = float(denominator_N.sum())
    if total <= 0:
        raise ValueError("nothing was scored: the denominators sum to 0")
    if cluster_N is not None:
        numerator_N = np.bincount(cluster_N, numerator_N).astype(np.float64)
        denominator_N = np.bincount(cluster_N, denominator_N).astype(np.float64)
    n = len(numerator_N)
    if n < 2:
        return math.inf
    residual_N = numerator_N - float(numerator_N.sum()) / total * denominator_N
    return math.sqrt(n / (n - 1) * float(residual_N @ residual_N)) / total


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p-value that two systems are right equally often.

    fixed    rows that only the new system has right
    broken   rows that only the old system has right
    Source   McNemar 1947, exact binomial form
    """
    flips = fixed + broken
    if flips == 0:
        return 1.0
    return min(1.0, 2 * float(np.exp(log_binomial(flips, 0.5)[: min(fixed, broken) + 1]).sum()))


def paired(point: float, differences_R: Floats, n: int) -> Difference:
    """The difference of two scores on the same n rows, with a normal interval from paired bootstrap differences.

    Where every resample gives the same difference (each row differs in the same way), the bootstrap knows no spread:
    then the p-value is the sign test's and the interval reaches to what n rows out of n prove.
    """
    se = float(differences_R.std(ddof=1))
    if se > 0 or point == 0:
        return Difference(point, *normal(point, se), se, two_sided_p(point, se), "paired bootstrap")
    ends = sorted([point * n / (n + Z * Z), point])
    return Difference(point, ends[0], ends[1], se, min(1.0, 2 * 0.5**n), "sign test")


def paired_proportions(fixed: int, broken: int, n: int) -> Interval:
    """Interval of the difference of two proportions on the same n rows; it holds for few flips, and for none.

    Source   Agresti and Min 2005: half a row is added to each cell of the table
    """
    rows = n + 2
    point = (fixed - broken) / rows
    return normal(point, math.sqrt(fixed + broken + 1 - (fixed - broken) ** 2 / rows) / rows)


def two_sided_p(point: float, se: float) -> float:
    """P-value of a normal statistic against 0; 1 when there is no difference or no way to tell."""
    if point == 0 or math.isinf(se):
        return 1.0
    if se == 0:
        return 0.0
    return math.erfc(abs(point / se) / math.sqrt(2))


def unpaired(a: float, a_se: float, b: float, b_se: float) -> Difference:
    """a minus b, measured on different rows."""
    se = math.hypot(a_se, b_se)
    return Difference(a - b, *normal(a - b, se), se, two_sided_p(a - b, se), "unpaired")


def unpaired_proportions(a: int, a_rows: int, b: int, b_rows: int) -> Difference:
    """The difference of two proportions on different rows.

    Source   Agresti and Caffo 2000: one success and one failure added to each, which holds from a few rows on
    """
    p, q = (a + 1) / (a_rows + 2), (b + 1) / (b_rows + 2)
    se = math.sqrt(p * (1 - p) / (a_rows + 2) + q * (1 - q) / (b_rows + 2))
    low, high = normal(p - q, se)
    return Difference(a / a_rows - b / b_rows, low, high, se, two_sided_p(p - q, se), "Agresti-Caffo")


def replicates(values: Sequence[float], row_se: float) -> tuple[float, Interval, float]:
    """Mean over trainings that differ in the seed only, its interval over seeds and test rows, and the seeds' spread.

    values   one per seed, on the same rows
    row_se   standard error of the mean value from the rows alone
    The interval uses Student's t with a degree of freedom less than seeds for the part that comes from them.
    Raises   ValueError for fewer than two seeds
    Source   variance of a mean over two crossed random factors; Bouthillier et al. 2021 (arXiv 2103.03098)
    """
    if len(values) < 2:
        raise ValueError("one training shows nothing of the spread between seeds: train with at least two")
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = math.hypot(Z * row_se, student_t(len(values) - 1) * spread / math.sqrt(len(values)))
    return mean, Interval(mean - half, mean + half), spread


def student_t(freedom: int) -> float:
    """The 97.5 % point of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for looking at several, in the given order. Source: Holm 1979."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = running
    return corrected


def quantile_ranks(n: int, quantile: float) -> tuple[int | None, int | None]:
    """Ranks (1 = smallest) of the order statistics that bound a quantile with 95 % confidence; None = no such rank."""
    below = np.cumsum(np.exp(log_binomial(n, quantile)))  # below[k] = P(at most k of n values lie under the quantile)
    tail = (1 - CONFIDENCE) / 2
    low = int(np.searchsorted(below, tail, side="right"))
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return (low if low >= 1 else None), (high if high <= n else None)


def quantile_interval(values: Floats, quantile: float) -> Interval:
    """Interval of a quantile of a continuous quantity such as seconds, without assuming its distribution."""
    ordered = np.sort(values)
    low, high = quantile_ranks(len(ordered), quantile)
    return Interval(
        None if low is None else float(ordered[low - 1]),
        None if high is None else float(ordered[high - 1]),
    )


def log_binomial(n: int, p: float) -> Floats:
    """Log-probabilities of 0..n successes."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    choose = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    return np.asarray(choose + k * math.log(p) + (n - k) * math.log1p(-p), dtype=np.float64)
