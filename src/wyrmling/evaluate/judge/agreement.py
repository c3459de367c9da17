"""How far two judges agree beyond chance, from tables of what one said against what the other said."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from wyrmling.evaluate import metrics, outcomes
from wyrmling.evaluate.outcomes import Score
from wyrmling.evaluate.statistics import Floats, Ints

SEED = 0


def kappa(tables: Floats, *, weighted: bool) -> Floats:
    """Cohen's kappa of tables (..., K, K), shaped (...); nan where both name one and the same value throughout.

    weighted   a disagreement counts by its squared distance; else all count the same
    Source     Cohen 1960 and 1968
    """
    values = np.arange(tables.shape[-1])
    distance = (values[:, None] - values[None, :]) ** 2
    weights = distance if weighted else np.minimum(distance, 1)
    by_chance = tables.sum(-1)[..., :, None] * tables.sum(-2)[..., None, :] / tables.sum((-1, -2))[..., None, None]
    return 1 - _ratio((weights * tables).sum((-1, -2)), (weights * by_chance).sum((-1, -2)))


def spearman(tables: Floats) -> Floats:
    """Rank correlation of tables (..., K, K), ties at the mean of their ranks; nan where one side never changes."""
    one, other = (_centred_ranks(tables.sum(axis)) for axis in (-1, -2))
    covariance = (tables * one[..., :, None] * other[..., None, :]).sum((-1, -2))
    spread = (tables.sum(-1) * one**2).sum(-1) * (tables.sum(-2) * other**2).sum(-1)
    return _ratio(covariance, np.sqrt(spread))


def _centred_ranks(counts: Floats) -> Floats:
    """The mean rank of each value that occurs so often, (..., K), less the mean of all ranks."""
    ranks = counts.cumsum(-1) - counts / 2
    return np.asarray(ranks - counts.sum(-1, keepdims=True) / 2)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    out = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def measure(human_N: Ints, judge_N: Ints, values: int, resamples: int, *, ordered: bool) -> dict[str, Score]:
    """Agreement on the same answers: the share of equal words, kappa, and of ordered values two more.

    human_N, judge_N   what each said, from 0 to values - 1
    """
    table = np.zeros((values, values))
    np.add.at(table, (human_N, judge_N), 1)
    found = {"agreement": outcomes.proportion(human_N == judge_N, None, metrics.signature("agreement", "exact"))}
    found["kappa"] = _bootstrapped(partial(kappa, weighted=False), table, resamples, "kappa", "unweighted")
    if ordered:
        quadratic = partial(kappa, weighted=True)
        found["weighted_kappa"] = _bootstrapped(quadratic, table, resamples, "weighted_kappa", "quadratic")
        found["spearman"] = _bootstrapped(spearman, table, resamples, "spearman", "ties:mean")
    return found


def _bootstrapped(of: Callable[[Floats], Floats], table: Floats, resamples: int, name: str, options: str) -> Score:
    """The value with an interval from resampled answers, each a draw of as many cells of the table."""
    n, signature = int(table.sum()), metrics.signature(name, options)
    value = float(of(table)) if n else float("nan")
    if np.isnan(value):
        return Score(None, None, None, n, signature, None, "undefined: one side says the same of every answer")
    drawn = np.random.default_rng(SEED).multinomial(n, table.ravel() / n, size=resamples)
    se = float(np.nanstd(of(drawn.reshape(-1, *table.shape).astype(np.float64)), ddof=1))
    return Score(value, *outcomes.signed(value, se, n), n=n, signature=signature, se=se)
