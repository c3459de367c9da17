"""How well probabilities order rows: AUROC and average precision, one label against the rest, averaged over labels.

A row counts `weights` times, so that the point (weights of one) and every bootstrap resample are the same code.

Letters: N rows, R resamples, G groups of equal scores.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wyrmling.evaluate.metrics import Bools
from wyrmling.evaluate.statistics import Floats, Ints


def auroc(weights_RN: Floats, positive_N: Bools, score_N: Floats) -> Floats:
    """How often a positive row has the higher score than a negative one, ties half, (R,); nan with one kind of row.

    Source   Hanley and McNeil 1982: the Mann-Whitney statistic
    """
    hits_RG, misses_RG = _by_score(weights_RN, positive_N, score_N)
    below_RG = misses_RG.sum(1, keepdims=True) - misses_RG.cumsum(1)
    won_R = (hits_RG * (below_RG + misses_RG / 2)).sum(1)
    return _divide(won_R, hits_RG.sum(1) * misses_RG.sum(1))


def average_precision(weights_RN: Floats, positive_N: Bools, score_N: Floats) -> Floats:
    """Precision at each score, averaged over the recall it adds, (R,); nan without positive rows.

    Source   scikit-learn's definition: no interpolation
    """
    hits_RG, misses_RG = _by_score(weights_RN, positive_N, score_N)
    found_RG = hits_RG.cumsum(1)
    seen_RG = found_RG + misses_RG.cumsum(1)
    precision_RG = np.divide(found_RG, seen_RG, out=np.zeros_like(seen_RG), where=seen_RG > 0)
    return _divide((hits_RG * precision_RG).sum(1), hits_RG.sum(1))


Ranking = Callable[[Floats, Bools, Floats], Floats]
RANKING: dict[str, Ranking] = {"auroc": auroc, "average_precision": average_precision}


def over_labels(
    ranking: Ranking, weights_RN: Floats, gold_N: Ints, probabilities_NC: Floats, scored_C: Bools
) -> Floats:
    """The mean over labels with gold rows, (R,); with two labels the second against the first.

    nan where a label can't be judged: all rows are of one label.
    """
    classes = np.flatnonzero(scored_C)
    if probabilities_NC.shape[1] == 2:
        classes = np.array([1])
    values = [ranking(weights_RN, gold_N == c, probabilities_NC[:, c]) for c in classes]
    # A resample may miss a rare label altogether; then the mean is over the others.
    table = np.stack(values)
    known = ~np.isnan(table)
    return _divide(np.where(known, table, 0).sum(0), known.sum(0).astype(np.float64))


def _by_score(weights_RN: Floats, positive_N: Bools, score_N: Floats) -> tuple[Floats, Floats]:
    """Weights of positive and of negative rows with each distinct score, the highest score first."""
    order = np.argsort(-score_N, kind="stable")
    ordered = score_N[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    weights = weights_RN[:, order]
    hits = np.add.reduceat(weights * positive_N[order], starts, axis=1)
    return hits, np.add.reduceat(weights, starts, axis=1) - hits


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out
