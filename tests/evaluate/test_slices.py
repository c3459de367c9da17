"""Parts of the test, clusters of rows, and rows that stand in training too."""

from __future__ import annotations

import numpy as np
import pytest

from wyrmling.evaluate import neighbours, power, resampling, slices, statistics
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.evaluate.text_outcome import TextOutcome


def rows(n: int) -> list[dict]:
    return [
        {"kind": "labelled", "text": "x" * (1 + i % 90), "label": "ab"[i % 2], "source": "web", "language": "en"}
        for i in range(n)
    ]


def test_columns_of_one_value_are_left_out_and_lengths_are_thirds() -> None:
    columns = slices.columns(rows(90), [None] * 89 + ["same"])
    assert set(columns) == {"length", "near_train", "label"}
    assert [columns["length"].count(value) for value in ("short", "medium", "long")] == [30, 30, 30]
    assert slices.rows_by_value(columns)["near_train=same"] == 1
    assert slices.large(columns)["near_train"] == ["no"]


def test_the_part_that_is_worse_comes_first_and_survives_the_correction() -> None:
    rng = np.random.default_rng(0)
    gold = np.zeros(600, dtype=np.int64)
    columns = {
        "group": ["bad" if i < 60 else "good" for i in range(600)],
        "coin": [str(x) for x in rng.integers(0, 2, 600)],
    }
    right = rng.random(600) < np.where(np.arange(600) < 60, 0.5, 0.95)
    parts = slices.compared("accuracy", ClassOutcome(["a", "b"], gold, np.where(right, 0, 1)), columns)
    assert (parts[0].column, parts[0].value, parts[0].n) == ("group", "bad", 60)
    assert parts[0].p < 0.001 and parts[0].difference.value < -0.3
    assert [part.p for part in parts if part.column == "coin"] == pytest.approx([1, 1], abs=0.95)
    assert parts[-1].value == "good"


def test_where_less_is_better_the_worst_is_the_largest() -> None:
    nats, size = np.where(np.arange(80) < 40, 300.0, 100.0) + np.arange(80) % 7, np.full(80, 100.0)
    columns = {"half": ["first"] * 40 + ["second"] * 40}
    parts = slices.compared("bpb", TextOutcome(nats, size), columns)
    assert [part.value for part in parts] == ["first", "second"]


def test_thin_parts_are_not_judged() -> None:
    columns = {"rare": ["yes"] * 5 + ["no"] * 95}
    assert slices.compared("accuracy", ClassOutcome(["a"], np.zeros(100, int), np.zeros(100, int)), columns) == []


def test_the_same_and_the_nearly_same_training_rows_are_found() -> None:
    train = ["where is my card", "please cancel the transfer that I made this morning now", "exchange rate of euros"]
    test = ["WHERE is my card?", "please cancel the transfer I made this morning now", "top up failed again", ""]
    found = neighbours.find(train, test)
    assert found.flags == ["same", "near", None, None]
    assert found.twins == [0, 1, None, None]
    assert found.nearest[1][0].row == 1
    assert found.nearest[3] == []
    assert neighbours.find([], test).flags == [None] * 4


def test_equal_texts_are_found_among_more_rows_than_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MOST_TRAIN_ROWS", 10)
    train = [f"ticket number {i} about {'card' if i % 2 else 'refund'}" for i in range(25)]
    found = neighbours.find(train, ["ticket number 7 about card"])
    assert found.flags == ["same"] and found.twins == [7]
    assert found.note is not None and "every 3th of 25" in found.note
    assert all(one.row % 3 == 0 for one in found.nearest[0])


def clustered(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(60), rng.integers(1, 8, 60))
    right = (rng.random(60) < 0.8)[cluster]
    return cluster, right


def test_clusters_are_drawn_whole_and_widen_the_interval() -> None:
    cluster, right = clustered(0)
    table = np.stack([right.astype(np.int64), np.arange(len(right)) % 3], axis=1)
    cells = resampling.fold(table, cluster)
    weights = np.concatenate(list(cells.draw(500, 0)))
    sizes = np.bincount(cluster)
    # As many clusters as there are, so the number of rows varies around theirs.
    assert weights.sum(1).mean() == pytest.approx(len(right), rel=0.03)
    assert weights.sum(1).std() == pytest.approx(sizes.std() * np.sqrt(len(sizes)), rel=0.15)
    gold, said = np.zeros(len(right), dtype=np.int64), np.where(right, 0, 1)
    alone = ClassOutcome(["a", "b"], gold, said).score("accuracy")
    together = ClassOutcome(["a", "b"], gold, said, cluster_N=cluster).score("accuracy")
    assert alone.value == together.value
    assert (together.high or 0) - (together.low or 0) > 1.5 * ((alone.high or 0) - (alone.low or 0))


def test_a_cluster_for_each_row_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    gold, said = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    labels = list("abcd")
    alone = ClassOutcome(labels, gold, said)
    singles = ClassOutcome(labels, gold, said, cluster_N=np.arange(200))
    assert alone.score("accuracy") == singles.score("accuracy")
    assert singles.score("macro_f1").se == pytest.approx(alone.score("macro_f1").se, rel=0.1)
    assert resampling.numbered([None, "x", None, "y"]) is None
    numbers = resampling.numbered(["x", None, "x"])
    assert numbers is not None and numbers[0] == numbers[2] != numbers[1]


def test_a_standard_error_by_clusters_equals_that_of_their_means() -> None:
    values = np.repeat([1.0, 0.0, 1.0, 1.0, 0.0, 0.0], 5)
    cluster = np.repeat(np.arange(6), 5)
    expected = statistics.ratio_se(values[::5], np.ones(6))
    assert statistics.ratio_se(values, np.ones(30), cluster) == pytest.approx(expected)


def test_seeds_are_replicates() -> None:
    mean, interval, spread = statistics.replicates([0.90, 0.92, 0.94], 0.01)
    assert mean == pytest.approx(0.92)
    assert spread == pytest.approx(0.02)
    # Student's t for 2 degrees of freedom is 4.3027.
    half = np.hypot(statistics.Z * 0.01, 4.302653 * 0.02 / np.sqrt(3))
    assert (interval.low, interval.high) == pytest.approx((0.92 - half, 0.92 + half))
    with pytest.raises(ValueError, match="at least two"):
        statistics.replicates([0.9], 0.01)


@pytest.mark.parametrize(
    ("threshold", "truth", "n"),
    [(0.8, 0.85, 482), (0.8, 0.9, 106), (0.9, 0.93, 719), (0.9, 0.95, 229), (0.95, 0.98, 311)],
)
def test_golden_rows_that_show_a_proportion_in_four_of_five_tests(threshold: float, truth: float, n: int) -> None:
    # The chance saws up and down as rows grow, by up to a tenth.
    assert power.chance_to_pass(n, threshold, truth) == pytest.approx(0.8, abs=0.1)


def test_the_truth_that_passes_is_the_one_with_four_chances_in_five() -> None:
    for n, threshold in ((100, 0.8), (400, 0.9), (47, 0.7)):
        truth = power.truth_to_pass(n, threshold)
        assert truth is not None
        assert power.chance_to_pass(n, threshold, truth) == pytest.approx(0.8, abs=1e-6)
        k = power.least_right(n, threshold)
        assert k is not None
        assert (statistics.wilson(k, n).low or 0) >= threshold > (statistics.wilson(k - 1, n).low or 0)
    assert power.truth_to_pass(40, 0.95) is None


def test_a_detectable_difference_needs_the_rows_that_find_it() -> None:
    for n in (300, 1000, 5000):
        gain = power.detectable(n, 0.1)
        assert power.rows_for_difference(gain, 0.1) == pytest.approx(n, rel=0.01)
    # Within 13 % of the exact 923 rows for a gain of 3 points when 10 % differ.
    assert power.rows_for_difference(0.03, 0.1) == pytest.approx(923, rel=0.13)
    with pytest.raises(ValueError, match="can't come from"):
        power.rows_for_difference(0.2, 0.1)
