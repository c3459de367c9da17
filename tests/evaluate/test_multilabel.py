"""Several labels a row: equal to scikit-learn, paired, and thresholds from rows that are not the test."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as judge

from wyrmling.evaluate.multilabel_outcome import MultilabelOutcome, thresholds
from wyrmling.evaluate.outcomes import scores


@pytest.mark.parametrize("seed", range(40))
def test_every_average_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, classes = int(rng.integers(1, 40)), int(rng.integers(2, 8))
    gold, said = (rng.random((n, classes)) < share for share in rng.random(2))
    gold[0, 0] = True
    outcome = MultilabelOutcome([str(i) for i in range(classes)], gold, said, resamples=100)
    found = scores(outcome)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for average in ("micro", "macro", "weighted", "samples"):
            labels = np.flatnonzero(gold.any(0)) if average in ("macro", "weighted") else None
            for name in ("precision", "recall", "f1"):
                of = getattr(judge, f"{name}_score")
                expected = of(gold, said, average=average, labels=labels, zero_division=0)
                assert found[f"{average}_{name}"].value == pytest.approx(expected, abs=1e-12)
        for c, of_label in enumerate(outcome.per_class().values()):
            column = np.flatnonzero(gold.any(0))[c]
            assert of_label["f1"].value == pytest.approx(judge.f1_score(gold[:, column], said[:, column]))
    assert found["subset_accuracy"].value == pytest.approx(judge.accuracy_score(gold, said))
    assert found["hamming_loss"].value == pytest.approx(judge.hamming_loss(gold, said))


def test_a_better_system_is_better_in_every_average_and_a_part_is_an_outcome_too() -> None:
    rng = np.random.default_rng(0)
    gold = rng.random((300, 6)) < 0.3
    new, old = (MultilabelOutcome(list("abcdef"), gold, gold ^ (rng.random(gold.shape) < e)) for e in (0.02, 0.15))
    for name in new.names:
        change = new.difference(old, name)
        assert (change.value < 0) == (name == "hamming_loss") and change.p < 1e-3
    assert new.take(np.arange(50)).score("micro_f1").n == 50


def test_thresholds_are_those_with_the_best_f1_on_the_rows_given() -> None:
    rng = np.random.default_rng(1)
    gold = rng.random((200, 3)) < 0.3
    gold[:, 2] = False
    p = np.round(np.clip(0.3 * gold + 0.6 * rng.random(gold.shape), 0, 1), 2)
    found = thresholds(gold, p)
    assert found[2] == 0.5
    for c in (0, 1):
        best = max(judge.f1_score(gold[:, c], p[:, c] >= t) for t in np.unique(p[:, c]))
        assert judge.f1_score(gold[:, c], p[:, c] >= found[c]) == pytest.approx(best)


def test_rows_without_any_label_have_no_average() -> None:
    nothing = MultilabelOutcome(["a", "b"], np.zeros((5, 2), bool), np.zeros((5, 2), bool), resamples=100)
    assert nothing.score("micro_f1").value is None and nothing.score("subset_accuracy").value == 1
