"""Can a classifier tell new prompts from old ones? If it can, they are about something else. It reads sketches only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wyrmling.feedback.permutation import Floats, Ints, Statistic
from wyrmling.feedback.sketches import PLACES, places


def domain(sketches: Sequence[bytes]) -> Statistic:
    """The area under the ROC curve of a classifier of windows: 0.5 is guessing, 1 tells every row.

    It is naive Bayes on which places occur (scikit-learn's BernoulliNB with alpha 1), for all shuffles at once. Each
    half of the rows, chosen at random, is judged by what was learned from the other.
    """
    from scipy.sparse import csr_matrix

    columns = [places(one) for one in sketches]
    ends = np.cumsum([0, *map(len, columns)])
    places_M = np.concatenate([*columns, np.zeros(0, dtype=np.int64)])
    parts = np.array_split(np.random.default_rng(0).permutation(len(sketches)), 2)
    there_NP = csr_matrix((np.ones(len(places_M)), places_M, ends), shape=(len(sketches), PLACES))

    def auc(inside_RN: Ints) -> Floats:
        halves = [(there_NP[part], inside_RN[:, part].T) for part in parts]
        areas = [_area(judged @ _odds(*learned), inside_HR) for (judged, inside_HR), learned in (halves, halves[::-1])]
        return np.asarray(np.mean(areas, axis=0))

    return auc


def _odds(there_HP: Any, inside_HR: Ints) -> Floats:
    """[places, shuffles]: how much a place speaks for the current window, as a difference of log odds."""
    of_window = []
    for inside in (inside_HR, 1 - inside_HR):
        share_PR = (there_HP.T @ inside + 1) / (inside.sum(0) + 2)
        of_window.append(np.log(share_PR) - np.log1p(-share_PR))
    return np.asarray(of_window[0] - of_window[1])


def _area(score_HR: Floats, inside_HR: Ints) -> Floats:
    """For each shuffle, the share of pairs of a new and an old row in which the new one scores higher, ties half."""
    from scipy.stats import rankdata

    new_R = inside_HR.sum(0)
    old_R = len(inside_HR) - new_R
    # Equal rows must stay equal, however their sums were rounded.
    above_R = (rankdata(score_HR.round(9), axis=0) * inside_HR).sum(0) - new_R * (new_R + 1) / 2
    return np.asarray(np.where(new_R * old_R > 0, above_R / np.maximum(1, new_R * old_R), 0.5))
