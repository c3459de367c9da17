"""The training rows nearest to each test row: what an error may have been learned from, and rows that stand in both.

Nearest is by the cosine of TF-IDF vectors of words. A test row is the same as a training row when both have the same
matching form, and near to one when the Jaccard similarity of their sets of words reaches 0.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wyrmling.data.matching import matching_form

NEAREST = 3
NEAR = 0.8
# The beginning of a long text is enough to find it again.
CHARACTERS = 2000
# More training rows are thinned to every second, third … row; equal texts are found among all of them.
MOST_TRAIN_ROWS = 50_000
# Similarities held at once: 2 million floats are 16 MB, and sparse as much again.
SIMILARITIES = 2_000_000
# Past this many training rows, words in more than a tenth of them are left out: they find nothing and cost most.
MANY_ROWS, COMMON = 5_000, 0.1


class Neighbour(NamedTuple):
    """A training row by its index, and the cosine similarity to the test row."""

    row: int
    similarity: float


class Found(NamedTuple):
    """For each test row its nearest training rows, best first, and whether one is the `same` or `near`, with its index.

    note   what was left out, for the report
    """

    nearest: list[list[Neighbour]]
    flags: list[str | None]
    twins: list[int | None]
    note: str | None


def find(train: Sequence[str], test: Sequence[str]) -> Found:
    """The neighbours of every test text among the training texts."""
    train, test = ([text[:CHARACTERS] for text in texts] for texts in (train, test))
    step = -(-len(train) // MOST_TRAIN_ROWS) if train else 1
    nearest = [[Neighbour(n.row * step, n.similarity) for n in row] for row in _nearest(train[::step], test)]
    forms = [matching_form(text) for text in test]
    wanted = set(forms)
    first: dict[str, int] = {}
    for i, text in enumerate(train):
        if (form := matching_form(text)) in wanted:
            first.setdefault(form, i)
    flags: list[str | None] = []
    twins: list[int | None] = []
    for form, row in zip(forms, nearest, strict=True):
        twin = first.get(form)
        flag = None if twin is None else "same"
        if twin is None and (close := _close(form, row, train)) is not None:
            twin, flag = close, "near"
        twins.append(twin)
        flags.append(flag)
    note = f"nearest rows are looked for among every {step}th of {len(train):,} training rows" if step > 1 else None
    return Found(nearest, flags, twins, note)


def _close(form: str, nearest: list[Neighbour], train: Sequence[str]) -> int | None:
    words = set(form.split())
    for neighbour in nearest:
        others = set(matching_form(train[neighbour.row]).split())
        if words and len(words & others) >= NEAR * len(words | others):
            return neighbour.row
    return None


def _nearest(train: Sequence[str], test: Sequence[str]) -> list[list[Neighbour]]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(any(c.isalnum() for c in text) for text in train):
        return [[] for _ in test]
    common = COMMON if len(train) > MANY_ROWS else 1.0
    words = TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True, max_df=common)
    train_rows = words.fit_transform(train).T.tocsr()
    test_rows = words.transform(test)
    chunk = max(1, SIMILARITIES // len(train))
    found: list[list[Neighbour]] = []
    for start in range(0, len(test), chunk):
        similar = (test_rows[start : start + chunk] @ train_rows).toarray()
        # The order among equally near rows is that of the training rows.
        best = np.argsort(-similar, axis=1, kind="stable")[:, :NEAREST]
        for row, order in zip(similar, best.tolist(), strict=True):
            found.append([Neighbour(i, float(row[i])) for i in order if row[i] > 0])
    return found
