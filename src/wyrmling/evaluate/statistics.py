"""Intervals, paired tests and the number of rows that would settle a question. Knows nothing of models or metrics.

Which interval belongs to which quantity, and why the percentile bootstrap is not among them, is in docs/evaluate.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
# Weights held at once while resampling: 4 million doubles are 32 MB.
CHUNK_CELLS = 4_000_000


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


def wilson(successes: float, n: int) -> Interval:
    """Wilson score interval of a proportion. Raises ValueError when n is 0.

    Source   Wilson 1927; Brown, Cai and DasGupta 2001
    """
    if n <= 0:
        raise ValueError(f"a proportion of {n} rows has no interval")
    p, z2 = successes / n, Z * Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At 0 of n and n of n one end is exact; rounding must not push it past the point.
    return Interval(
        0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half)
    )


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


def ratio_se(numerator_N: Floats, denominator_N: Floats) -> float:
    """Standard error of sum(numerator) / sum(denominator) over independent rows; with a denominator of ones, of a mean.

    Raises   ValueError when the denominators sum to 0
    Source   linearised ratio estimator, Cochran 1977, section 6.4; equals the bootstrap's as rows grow
    """
    total = float(denominator_N.sum())
    if total <= 0:
        raise ValueError("nothing was scored: the denominators sum to 0")
    n = len(numerator_N)
    if n < 2:
        return math.inf
    residual_N = numerator_N - float(numerator_N.sum()) / total * denominator_N
    return math.sqrt(n / (n - 1) * float(residual_N @ residual_N)) / total


def resamples(rows_M: Ints, count: int, seed: int) -> Iterator[Floats]:
    """How often each cell is drawn in bootstrap resamples of all rows: chunks (r, M) that add up to `count` rows.

    rows_M   rows that fell into each cell; equal rows share a cell, which makes 2,000 resamples cost milliseconds
    """
    n, cells = int(rows_M.sum()), len(rows_M)
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // max(cells, 1))
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        if cells * 2 <= n:
            yield generator.multinomial(n, rows_M / n, size=size).astype(np.float64)
            continue
        # With few equal rows, drawing row numbers is ten times faster than a multinomial with a cell for each.
        cell_of_row = np.repeat(np.arange(cells), rows_M)
        weights_RM = np.empty((size, cells))
        for one in weights_RM:
            one[:] = np.bincount(cell_of_row[generator.integers(0, n, n)], minlength=cells)
        yield weights_RM


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p-value that two systems are right equally often.

    fixed    rows that only the new system has right
    broken   rows that only the old system has right
    Source   McNemar 1947, exact binomial form
    """
    flips = fixed + broken
    if flips == 0:
        return 1.0
    return min(1.0, 2 * float(np.exp(_log_binomial(flips, 0.5)[: min(fixed, broken) + 1]).sum()))


def paired(point: float, differences_R: Floats, n: int) -> Difference:
    """The difference of two scores on the same n rows, with a normal interval from paired bootstrap differences.

    Where every resample gives the same difference (each row differs in the same way), the bootstrap knows no spread:
    then the p-value is the sign test's and the interval reaches to what n rows out of n prove.
    """
    se = float(differences_R.std(ddof=1))
    if se > 0 or point == 0:
        return Difference(point, *normal(point, se), se, two_sided_p(point, se), "paired bootstrap")
    ends = sorted([point * highest_provable(n), point])
    return Difference(point, ends[0], ends[1], se, min(1.0, 2 * 0.5**n), "sign test")


def two_sided_p(point: float, se: float) -> float:
    """P-value of a normal statistic against 0; 1 when there is no difference or no way to tell."""
    if point == 0 or math.isinf(se):
        return 1.0
    if se == 0:
        return 0.0
    return math.erfc(abs(point / se) / math.sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for looking at several, in the given order. Source: Holm 1979."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = running
    return corrected


def rows_needed(n: int, se: float, point: float, threshold: float) -> int | None:
    """Rows that settle on which side of the threshold the truth is in 80 % of repetitions, if `point` is the truth.

    None when the point is on the threshold, or no number of rows helps.
    """
    gap = abs(point - threshold)
    if gap == 0 or not math.isfinite(se):
        return None
    return max(n, math.ceil(n * (POWER_80 * se / gap) ** 2))


def highest_provable(n: int) -> float:
    """The largest proportion that n rows, all right, can prove: the Wilson lower bound of n of n."""
    return n / (n + Z * Z)


def rows_to_prove(proportion: float) -> int:
    """Rows, all right, that prove at least this proportion. Raises ValueError for 1, which no number of rows proves."""
    if not 0 <= proportion < 1:
        raise ValueError(f"a proportion of {proportion} can't be proven by rows")
    return math.ceil(round(proportion * Z * Z / (1 - proportion), 9))


def quantile_ranks(n: int, quantile: float) -> tuple[int | None, int | None]:
    """Ranks (1 = smallest) of the order statistics that bound a quantile with 95 % confidence; None = no such rank."""
    below = np.cumsum(np.exp(_log_binomial(n, quantile)))  # below[k] = P(at most k of n values lie under the quantile)
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


def _log_binomial(n: int, p: float) -> Floats:
    """Log-probabilities of 0..n successes."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    choose = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    return np.asarray(choose + k * math.log(p) + (n - k) * math.log1p(-p), dtype=np.float64)
