"""What a test set can show before it is used: rows that prove a threshold, differences that would be found, chances.

Source   docs/statistics.md; the exact counts come from the binomial distribution, not from a normal approximation.
"""

from __future__ import annotations

import math

import numpy as np

from wyrmling.evaluate.statistics import POWER_80, Z, log_binomial, wilson

POWER = 0.8


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


def least_right(n: int, threshold: float) -> int | None:
    """The fewest right rows of n whose Wilson interval lies at the threshold or above; None when n of n does not."""
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        bound = wilson(middle, n).low if middle <= n else math.inf
        if bound is not None and bound >= threshold:
            high = middle
        else:
            low = middle + 1
    return low if low <= n else None


def chance_to_pass(n: int, threshold: float, truth: float) -> float:
    """How often a proportion that is truly `truth` proves `>= threshold` with n rows."""
    needed = least_right(n, threshold)
    if needed is None:
        return 0.0
    if truth >= 1:
        return 1.0
    return float(np.exp(log_binomial(n, truth)[needed:]).sum())


def truth_to_pass(n: int, threshold: float) -> float | None:
    """The true proportion from which n rows prove `>= threshold` in 80 % of repetitions; None when they never do."""
    if least_right(n, threshold) is None:
        return None
    low, high = threshold, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if chance_to_pass(n, threshold, middle) >= POWER else (middle, high)
    return high


def detectable(n: int, discordant: float) -> float:
    """The smallest difference of two proportions on the same n rows that is found in 80 % of repetitions.

    discordant   share of the rows that exactly one of the two has right
    """
    # n = POWER_80² (d - g²) / g², solved for the gain g; no gain is larger than the share of rows that differ.
    return min(discordant, math.sqrt(discordant / (n / POWER_80**2 + 1)))


def rows_for_difference(gain: float, discordant: float) -> int:
    """Rows that find a gain with 80 % power, two-sided 5 %. Raises ValueError when the gain exceeds `discordant`."""
    if not 0 < gain <= discordant:
        raise ValueError(f"a gain of {gain} can't come from rows of which {discordant:.0%} differ")
    return max(6, math.ceil(POWER_80**2 * (discordant - gain**2) / gain**2))
