"""Is a difference between two windows more than chance? Shuffling rows between them says what chance does at this size.

No fixed threshold on an index: with 10 bins and no drift at all, a PSI above 0.1 is had in 46 of 100 windows of 100
rows, in none of 1,000 rows. Shuffled windows have the same sizes as the real ones, so the threshold fits them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Statistic = Callable[[Ints], Floats]
"""From [shuffles, rows] of 0 (reference window) and 1 (current) to a number per shuffle, larger for more drift."""

# Shuffles that are computed together: what fits the cache.
TOGETHER = 100


class Shuffled(NamedTuple):
    """A statistic of the real windows beside what chance gives.

    threshold  what chance exceeds with the allowed probability
    p          share of the shuffles that reach the value, the real one counted
    """

    value: float
    threshold: float
    p: float


def shuffled(statistic: Statistic, reference: int, current: int, *, alpha: float, times: int, seed: int) -> Shuffled:
    """A statistic of windows of these sizes; its rows are those of the reference window, then those of the current.

    alpha    the probability that chance exceeds the threshold
    Source   Fisher's permutation test; Phipson and Smyth 2010 for counting the real windows too
    """
    inside_N: Ints = np.repeat(np.array([0, 1]), [reference, current]).astype(np.int64)
    value = float(statistic(inside_N[None])[0])
    draw = np.random.default_rng(seed)
    parts = [
        statistic(draw.permuted(np.tile(inside_N, (min(TOGETHER, times - start), 1)), axis=1))
        for start in range(0, times, TOGETHER)
    ]
    chance_R = np.concatenate(parts)
    # Sums in another order differ in the last digits.
    reached = int((chance_R >= value - 1e-12).sum())
    return Shuffled(value, float(np.quantile(chance_R, 1 - alpha, method="higher")), (reached + 1) / (times + 1))


def kolmogorov(values_N: Floats) -> Statistic:
    """The largest gap between the two windows' distributions of a number. Equal values are one step."""
    order_N = np.argsort(values_N, kind="stable")
    ends_N = np.append(np.diff(values_N[order_N]) > 0, True)

    def gap(inside_RN: Ints) -> Floats:
        current_RN = inside_RN[:, order_N].cumsum(1)
        reference_RN = np.arange(1, len(order_N) + 1) - current_RN
        gap_RN = current_RN / current_RN[:, -1:] - reference_RN / reference_RN[:, -1:]
        return np.asarray(np.abs(gap_RN[:, ends_N]).max(1))

    return gap


def rise(flags_N: Floats) -> Statistic:
    """By how much a share is higher in the current window."""

    def higher(inside_RN: Ints) -> Floats:
        size_R = inside_RN.sum(1)
        inside_R = inside_RN @ flags_N
        return np.asarray(inside_R / size_R - (flags_N.sum() - inside_R) / (len(flags_N) - size_R))

    return higher


def shares(kinds_N: Ints) -> Statistic:
    """Half the sum of the differences of all shares (total variation): the part of the rows that changed kind."""
    kind_NK = np.eye(int(kinds_N.max()) + 1)[kinds_N]

    def moved(inside_RN: Ints) -> Floats:
        size_R1 = inside_RN.sum(1, keepdims=True)
        current_RK = inside_RN @ kind_NK
        reference_RK = (kind_NK.sum(0) - current_RK) / (len(kinds_N) - size_R1)
        return np.asarray(np.abs(current_RK / size_R1 - reference_RK).sum(1) / 2)

    return moved
