"""Intervals and tests against scipy, golden values, and simulations of how often an interval holds the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from wyrmling.evaluate import metrics, power, resampling, statistics
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.evaluate.outcomes import scores
from wyrmling.evaluate.tag_outcome import TagOutcome
from wyrmling.evaluate.text_outcome import TextOutcome


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0, 0.27753),
        (21, 24, 0.68996, 0.95656),
        (180, 200, 0.85059, 0.93433),
        (450, 500, 0.87058, 0.92332),
        (2813, 3080, 0.90285, 0.92274),
    ],
)
def test_golden_wilson_intervals(k: int, n: int, low: float, high: float) -> None:
    assert statistics.wilson(k, n) == pytest.approx((low, high), abs=6e-6)


@pytest.mark.parametrize(
    ("a", "n_a", "b", "n_b", "low", "high"),
    [(56, 70, 48, 80, 0.0524, 0.3339), (9, 10, 3, 10, 0.1705, 0.8090), (10, 10, 0, 10, 0.6075, 1.0)],
)
def test_newcombes_own_examples(a: int, n_a: int, b: int, n_b: int, low: float, high: float) -> None:
    """Table II of the paper, method 10."""
    assert statistics.newcombe(a, n_a, b, n_b) == pytest.approx((low, high), abs=6e-5)
    assert statistics.newcombe(b, n_b, a, n_a) == pytest.approx((-high, -low), abs=6e-5)


def test_wilson_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    for n in rng.integers(1, 400, 300):
        k = int(rng.integers(0, n + 1))
        expected = stats.binomtest(k, int(n)).proportion_ci(method="wilson")
        assert statistics.wilson(k, int(n)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_rows_have_no_interval() -> None:
    with pytest.raises(ValueError, match="a proportion of 0 rows"):
        statistics.wilson(0, 0)


@pytest.mark.parametrize(
    ("fixed", "broken", "p"), [(20, 92, 3.19e-12), (10, 25, 0.01667), (2, 9, 0.06543), (0, 6, 0.03125), (0, 5, 0.0625)]
)
def test_golden_mcnemar(fixed: int, broken: int, p: float) -> None:
    assert statistics.mcnemar(fixed, broken) == pytest.approx(p, rel=2e-3)
    assert statistics.mcnemar(broken, fixed) == statistics.mcnemar(fixed, broken)


def test_mcnemar_equals_the_exact_binomial_test() -> None:
    for fixed, broken in np.random.default_rng(0).integers(0, 300, (200, 2)):
        n = int(fixed + broken)
        expected = stats.binomtest(int(fixed), n).pvalue if n else 1.0
        assert statistics.mcnemar(int(fixed), int(broken)) == pytest.approx(expected, rel=1e-9)


def test_few_flips_are_no_difference_by_interval_either() -> None:
    for fixed, broken, n in ((0, 4, 142), (1, 6, 300), (0, 0, 50)):
        low, high = statistics.paired_proportions(fixed, broken, n)
        assert low is not None and high is not None and low < 0 < high
        assert statistics.mcnemar(fixed, broken) > 0.05
    low, high = statistics.paired_proportions(20, 92, 3080)
    assert (low, high) == pytest.approx(((20 - 92) / 3080 - 0.0067, (20 - 92) / 3080 + 0.0067), abs=2e-4)


def test_golden_holm() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(("n", "ranks"), [(100, (90, 100)), (200, (184, 197)), (500, (465, 485)), (1000, (936, 964))])
def test_golden_ranks_of_the_95th_percentile(n: int, ranks: tuple[int, int]) -> None:
    assert statistics.quantile_ranks(n, 0.95) == ranks


def test_few_answers_have_no_upper_bound_of_the_95th_percentile() -> None:
    assert statistics.quantile_interval(np.arange(60.0), 0.95).high is None
    assert statistics.quantile_interval(np.arange(80.0), 0.95).high == 79.0


def test_rows_to_prove_a_proportion_are_the_first_that_do() -> None:
    for target in (0.5, 0.8, 0.9, 0.95, 0.99):
        n = power.rows_to_prove(target)
        assert power.highest_provable(n) >= target > power.highest_provable(n - 1)
    assert power.rows_to_prove(0.95) == 73
    assert power.highest_provable(40) == pytest.approx(0.912, abs=5e-4)
    with pytest.raises(ValueError, match="can't be proven"):
        power.rows_to_prove(1.0)


def test_rows_needed_shrink_with_the_gap() -> None:
    assert power.rows_needed(100, 0.03, 0.9, 0.9) is None
    near, far = (power.rows_needed(100, 0.03, 0.9, t) for t in (0.89, 0.85))
    assert near is not None and far is not None
    assert near > far >= 100
    assert near == math.ceil(100 * (statistics.POWER_80 * 0.03 / (0.9 - 0.89)) ** 2)


def test_ratio_error_equals_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    size = rng.integers(20, 400, 500).astype(float)
    nats = size * rng.gamma(4, 0.3, 500)
    weights = np.concatenate(list(resampling.resamples(np.ones(500, dtype=np.int64), 4000, 0)))
    resampled = (weights @ nats) / (weights @ size)
    assert statistics.ratio_se(nats, size) == pytest.approx(resampled.std(), rel=0.05)


def test_both_ways_of_resampling_agree_in_mean_and_spread() -> None:
    rows = np.array([50, 30, 20], dtype=np.int64)
    folded = np.concatenate(list(resampling.resamples(rows, 4000, 0)))
    single = np.concatenate(list(resampling.resamples(np.ones(100, dtype=np.int64), 4000, 0)))
    unfolded = np.stack([single[:, :50].sum(1), single[:, 50:80].sum(1), single[:, 80:].sum(1)], axis=1)
    assert (folded.sum(1) == 100).all() and (unfolded.sum(1) == 100).all()
    assert folded.mean(0) == pytest.approx(rows, rel=0.02)
    assert folded.std(0) == pytest.approx(unfolded.std(0), rel=0.06)


def test_intervals_are_the_same_on_every_call() -> None:
    rng = np.random.default_rng(0)
    gold, predicted = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    outcomes = [ClassOutcome(list("abcde"), gold, predicted) for _ in range(2)]
    assert scores(outcomes[0]) == scores(outcomes[1])


def test_too_few_rows_per_class_print_no_interval_and_say_why() -> None:
    gold = np.arange(20) % 10
    score = ClassOutcome([str(i) for i in range(10)], gold, gold).score("macro_f1")
    assert (score.low, score.high) == (None, None)
    assert score.note is not None and "20 rows for 10 classes" in score.note


def test_all_right_is_no_proof_of_perfection() -> None:
    gold = np.arange(100) % 5
    score = ClassOutcome(list("abcde"), gold, gold).score("macro_f1")
    assert score.value == score.high == 1.0
    assert score.low == pytest.approx(power.highest_provable(100))


def draw(rng: np.random.Generator, n: int, classes: int, right: float) -> tuple[np.ndarray, np.ndarray]:
    gold = rng.integers(0, classes, n)
    wrong = (gold + rng.choice([1, 1, 1, 2, 3], n)) % classes
    return gold, np.where(rng.random(n) < right, gold, wrong)


def covered(truth: float, low: float | None, high: float | None) -> bool:
    assert low is not None and high is not None
    return low <= truth <= high


def test_intervals_hold_the_truth_about_95_times_in_100() -> None:
    """150 tests of 400 rows and 20 classes drawn from one population; the standard error of a coverage is 0.018."""
    rng = np.random.default_rng(0)
    gold, predicted = draw(rng, 400_000, 20, 0.85)
    population = ClassOutcome([str(i) for i in range(20)], gold, predicted, resamples=2)
    truth = float(metrics.CLASSIFY["macro_f1"].of(population.sums, population.scored_C))
    class_truth = float(metrics.f1(population.sums)[3])
    hits = {"macro_f1": 0, "accuracy": 0, "mcc": 0, "f1[3]": 0}
    mcc = float(metrics.mcc(population.sums, population.scored_C))
    for _ in range(150):
        chosen = rng.integers(0, len(gold), 400)
        one = ClassOutcome(population.labels, gold[chosen], predicted[chosen], resamples=400)
        f1 = one.per_class()["3"]["f1"]
        for name, true in (("macro_f1", truth), ("accuracy", 0.85), ("mcc", mcc)):
            score = one.score(name)
            hits[name] += covered(true, score.low, score.high)
        hits["f1[3]"] += covered(class_truth, f1.low, f1.high)
    for name, count in hits.items():
        assert 0.90 <= count / 150 <= 0.99, (name, count / 150)


def test_equal_models_are_called_different_about_5_times_in_100() -> None:
    rng = np.random.default_rng(0)
    found = {"macro_f1": 0, "accuracy": 0}
    for _ in range(300):
        gold = rng.integers(0, 10, 400)
        a, b = (np.where(rng.random(400) < 0.85, gold, (gold + 1) % 10) for _ in range(2))
        new, old = (ClassOutcome([str(i) for i in range(10)], gold, p, resamples=300) for p in (a, b))
        for metric in found:
            found[metric] += new.difference(old, metric).p < 0.05
    assert 0.02 <= found["macro_f1"] / 300 <= 0.09
    # The exact test is conservative.
    assert found["accuracy"] / 300 <= 0.07


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 10, 1000)
    old = np.where(rng.random(1000) < 0.80, gold, (gold + 1) % 10)
    new = np.where(rng.random(1000) < 0.10, gold, old)
    outcomes = [ClassOutcome([str(i) for i in range(10)], gold, p) for p in (new, old)]
    difference = outcomes[0].difference(outcomes[1], "macro_f1")
    scores = [outcome.score("macro_f1") for outcome in outcomes]
    assert scores[0].se is not None and scores[1].se is not None
    assert difference.value == pytest.approx((scores[0].value or 0) - (scores[1].value or 0))
    assert difference.se < math.hypot(scores[0].se, scores[1].se) / 2
    assert difference.low > 0


def test_differences_of_tags_and_texts_are_paired_too() -> None:
    gold = [["B-PER", "O"], ["O", "B-LOC"], ["B-LOC", "I-LOC"]] * 30
    worse = [["B-PER", "O"], ["O", "O"], ["B-LOC", "I-LOC"]] * 30
    new, old = (TagOutcome(gold, p, ["LOC", "PER"]) for p in (gold, worse))
    assert new.difference(old, "entity_f1").value == pytest.approx(1 - 0.8)
    assert new.difference(old, "token_accuracy").value == pytest.approx(1 / 6)
    size = np.full(50, 100.0)
    nats = np.random.default_rng(0).gamma(50, 2, 50)
    text = TextOutcome(nats, size).difference(TextOutcome(nats + 10, size), "bpb")
    assert text.value == pytest.approx(-0.1 / math.log(2))
    assert text.se == pytest.approx(0, abs=1e-12)
    with pytest.raises(KeyError):
        TextOutcome(nats, size).difference(TextOutcome(nats, size), "loss")


def test_one_row_can_show_no_difference() -> None:
    gold = np.array([0])
    new, old = (ClassOutcome(["a", "b"], gold, np.array([p]), resamples=100) for p in (0, 1))
    assert new.difference(old, "macro_f1").p == 1.0
    assert new.difference(old, "accuracy").low is None
    assert TextOutcome(np.ones(1), np.ones(1)).score("bpb").note == "one row has no interval"


def test_systems_that_differ_on_every_row_are_told_apart_by_the_sign_test() -> None:
    gold = np.arange(40) % 2
    new, old = (ClassOutcome(["a", "b"], gold, p, resamples=100) for p in (gold, 1 - gold))
    difference = new.difference(old, "macro_f1")
    assert (difference.value, difference.high, difference.test) == (1.0, 1.0, "sign test")
    assert difference.low == pytest.approx(power.highest_provable(40))
    assert old.difference(new, "macro_f1").high == pytest.approx(-power.highest_provable(40))
