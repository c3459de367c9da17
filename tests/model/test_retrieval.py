"""What is nearest: BM25 by its formula, and rows spread over labels."""

import math
from collections import Counter

import numpy as np
import pytest

from wyrmling.model import retrieval


def by_formula(rows: list[list[int]], query: list[int]) -> list[float]:
    """Robertson's sum, term by term."""
    mean = sum(map(len, rows)) / len(rows)
    found = []
    for row in rows:
        total, counts = 0.0, Counter(row)
        for term in query:
            having = sum(term in other for other in rows)
            idf = math.log(1 + (len(rows) - having + 0.5) / (having + 0.5))
            times = counts[term]
            total += idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(row) / mean))
        found.append(total)
    return found


def test_bm25_is_the_published_sum_on_random_rows():
    generator = np.random.default_rng(0)
    for _ in range(50):
        rows = [generator.integers(0, 12, generator.integers(1, 9)).tolist() for _ in range(generator.integers(1, 8))]
        query = generator.integers(0, 15, 4).tolist()
        assert retrieval.Bm25(rows).scores(query) == pytest.approx(by_formula(rows, query))


def test_words_nobody_has_match_nothing():
    assert retrieval.Bm25([["lost", "card"], ["new"]]).scores(["parcel"]).tolist() == [0, 0]
    assert retrieval.Bm25([]).scores(["parcel"]).tolist() == []


def test_each_label_comes_once_before_any_comes_twice():
    scores = np.array([9.0, 8, 7, 6, 5, 4])
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert retrieval.best_by_label(scores, labels, 6).tolist() == [0, 3, 5, 1, 4, 2]
    assert retrieval.best_by_label(scores, labels, 2).tolist() == [0, 3]
    assert retrieval.best(scores[::-1], 2).tolist() == [5, 4]


def test_a_k_shot_pool_has_k_rows_of_each_label_that_has_them_and_depends_on_the_seed():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 20)
    rows = retrieval.per_label(labels, 5, seed=1)
    assert Counter(labels[rows].tolist()) == {0: 5, 1: 3, 2: 5}
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows.tolist() == retrieval.per_label(labels, 5, seed=1).tolist()
    assert rows.tolist() != retrieval.per_label(labels, 5, seed=2).tolist()
    assert len(retrieval.per_label(labels, None, seed=1)) == 73
