"""Several labels a row: equal to scikit-learn, paired, in parts, and read back from what was kept."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as judge

from wyrmling.evaluate import kept, remote
from wyrmling.evaluate.label_set_outcome import LabelSetOutcome
from wyrmling.evaluate.outcomes import scores
from wyrmling.evaluate.tasks import Rows


def random_outcome(seed: int, rows: int, classes: int) -> LabelSetOutcome:
    rng = np.random.default_rng(seed)
    gold, said = (rng.random((rows, classes)) < share for share in rng.random(2))
    gold[0, 0] = True
    return LabelSetOutcome([str(i) for i in range(classes)], gold, said, resamples=100)


@pytest.mark.parametrize("seed", range(40))
def test_every_average_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outcome = random_outcome(seed, int(rng.integers(1, 40)), int(rng.integers(2, 8)))
    gold, said, found = outcome.gold_NC, outcome.predicted_NC, scores(outcome)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for average in ("micro", "macro", "weighted", "samples"):
            labels = np.flatnonzero(gold.any(0)) if average in ("macro", "weighted") else None
            for name in ("precision", "recall", "f1"):
                of = getattr(judge, f"{name}_score")
                expected = of(gold, said, average=average, labels=labels, zero_division=0)
                assert found[f"{average}_{name}"].value == pytest.approx(expected, abs=1e-12)
        for label, of_label in outcome.per_class().items():
            for name, score in of_label.items():
                of = getattr(judge, f"{name}_score")
                expected = of(gold[:, int(label)], said[:, int(label)], zero_division=0)
                assert score.value == pytest.approx(expected, abs=1e-12)
    assert found["accuracy"].value == pytest.approx(judge.accuracy_score(gold, said))
    assert found["hamming_loss"].value == pytest.approx(judge.hamming_loss(gold, said))


def test_intervals_hold_the_value_and_narrow_with_more_rows() -> None:
    few, many = (scores(random_outcome(5, rows, 4)) for rows in (60, 600))
    for name, score in many.items():
        assert score.value is not None and score.low is not None and score.high is not None
        assert score.low < score.value < score.high
        assert (few[name].se or 0) > 2 * (score.se or 0)


def test_a_better_system_is_better_in_every_metric_and_a_part_is_an_outcome_too() -> None:
    rng = np.random.default_rng(0)
    gold = rng.random((300, 6)) < 0.3
    new, old = (LabelSetOutcome(list("abcdef"), gold, gold ^ (rng.random(gold.shape) < e)) for e in (0.02, 0.15))
    for name in new.names:
        change = new.difference(old, name)
        assert (change.value < 0) == (name == "hamming_loss") and change.p < 1e-3
        assert new.difference(new, name).value == 0
    assert new.take(np.arange(50)).score("micro_f1").n == 50


def test_rows_without_any_label_have_no_average() -> None:
    nothing = LabelSetOutcome(["a", "b"], np.zeros((5, 2), bool), np.zeros((5, 2), bool), resamples=100)
    assert nothing.score("micro_f1").value is None and nothing.score("accuracy").value == 1


def test_a_row_without_an_answer_is_wrong_even_when_it_has_no_label() -> None:
    test: list[dict[str, Any]] = [{"labels": names, "cluster": None} for names in (["a, b"], ["a", "b"], [], [])]
    said: list[list[str] | None] = [["a, b"], ["b", "a"], [], None]
    columns = {"all": {"predicted": [*said[:3], []]}, "one": {"predicted": said}}
    found = kept.outcomes("classify", Rows(test, [], []), columns, ["a", "a, b", "b"], 100)
    assert found["all"].score("accuracy").value == 1 and found["all"].score("hamming_loss").value == 0
    assert found["one"].score("accuracy").value == 0.75 and found["one"].score("hamming_loss").value == 0.25
    assert found["one"].take(np.array([2, 3])).score("accuracy").value == 0.5


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("refund, Lost card.", ["lost_card", "refund"]),
        ("card and lost card", ["card", "lost_card"]),
        ("lost card lost card", ["lost_card"]),
        ("None.", []),
        ("none of them, refund", ["refund"]),
        ("discard", None),
        ("", None),
    ],
)
def test_the_labels_in_an_answer(text: str, labels: list[str] | None) -> None:
    assert remote.labels_in(text, ["card", "lost_card", "refund"]) == labels
