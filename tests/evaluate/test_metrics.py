"""Metrics against scikit-learn and seqeval on random cases, and the published golden values."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from seqeval.metrics import classification_report
from seqeval.metrics import f1_score as seqeval_f1
from sklearn import metrics as judge

from wyrmling.evaluate import calibration, entities, metrics
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.evaluate.outcomes import scores
from wyrmling.evaluate.tag_outcome import TagOutcome
from wyrmling.evaluate.text_outcome import TextOutcome

GOLD = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
PREDICTED = np.array([0, 1, 0, 1, 1, 2, 0, 2, 4, 2])


def values(outcome: ClassOutcome | TagOutcome | TextOutcome) -> dict[str, float]:
    return {name: score.value for name, score in scores(outcome).items() if score.value is not None}


def test_golden_values_of_a_small_case() -> None:
    found = values(ClassOutcome(list("abcdef"), GOLD, PREDICTED, resamples=100))
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["macro_f1"] == pytest.approx(0.509524, abs=1e-6)
    assert found["weighted_f1"] == pytest.approx(0.588571, abs=1e-6)
    assert found["balanced_accuracy"] == pytest.approx(0.541667, abs=1e-6)
    assert found["mcc"] == pytest.approx(0.464835, abs=1e-6)


def test_a_label_without_test_rows_is_not_averaged() -> None:
    few = values(ClassOutcome(list("abcde"), GOLD, PREDICTED, resamples=100))
    many = values(ClassOutcome([str(i) for i in range(50)], GOLD, PREDICTED, resamples=100))
    assert few["macro_f1"] == many["macro_f1"]


@pytest.mark.parametrize("seed", range(40))
def test_classification_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, n = int(rng.integers(2, 12)), int(rng.integers(1, 80))
    gold, predicted = rng.integers(0, classes, n), rng.integers(0, classes, n)
    found = values(ClassOutcome([str(i) for i in range(classes)], gold, predicted, resamples=100))
    labels = sorted(set(gold.tolist()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for average in ("macro", "weighted"):
            for name in ("precision", "recall", "f1"):
                expected = getattr(judge, f"{name}_score")(
                    gold, predicted, labels=labels, average=average, zero_division=0
                )
                assert found[f"{average}_{name}"] == pytest.approx(expected, abs=1e-12)
        assert found["balanced_accuracy"] == pytest.approx(judge.balanced_accuracy_score(gold, predicted), abs=1e-12)
        assert found["mcc"] == pytest.approx(judge.matthews_corrcoef(gold, predicted), abs=1e-12)
    assert found["micro_f1"] == found["accuracy"] == pytest.approx(judge.accuracy_score(gold, predicted))


@pytest.mark.parametrize("seed", range(20))
def test_scores_of_probabilities_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, n = int(rng.integers(2, 8)), int(rng.integers(1, 60))
    gold, p = rng.integers(0, classes, n), rng.dirichlet(np.ones(classes), n)
    found = values(ClassOutcome([str(i) for i in range(classes)], gold, p.argmax(1), p, resamples=100))
    assert found["log_loss"] == pytest.approx(judge.log_loss(gold, p, labels=range(classes)), abs=1e-12)
    onehot = np.eye(classes)[gold]
    assert found["brier"] == pytest.approx(((p - onehot) ** 2).sum(1).mean(), abs=1e-12)


def test_golden_log_loss_and_brier() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.2, 0.5, 0.3]])
    gold = np.array([0, 1, 2, 2])
    assert calibration.log_losses(gold, p).mean() == pytest.approx(0.675021, abs=1e-6)
    assert calibration.brier_scores(gold, p).mean() == pytest.approx(0.38)
    assert calibration.log_losses(np.array([1]), np.array([[1.0, 0.0]]))[0] == pytest.approx(36.04, abs=0.01)


def test_a_missing_prediction_is_wrong_and_counted() -> None:
    outcome = ClassOutcome(["a", "b"], np.array([0, 0, 1, 1]), np.array([0, -1, 1, -1]), resamples=100)
    found = values(outcome)
    assert found["accuracy"] == 0.5
    assert found["micro_precision"] == 1.0
    assert found["micro_recall"] == 0.5
    assert found["mcc"] == pytest.approx(judge.matthews_corrcoef([0, 0, 1, 1], [0, 2, 1, 2]))


def test_calibration_bins_hold_equal_numbers_of_rows_and_sum_to_the_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.beta(6, 1, 1003)
    right = rng.random(1003) < confidence
    bins = calibration.reliability(confidence, right)
    assert bins.rows.sum() == 1003
    assert bins.rows.max() - bins.rows.min() <= 1
    by_hand = sum(abs(confidence[bins.bin_N == b].sum() - right[bins.bin_N == b].sum()) for b in range(10)) / 1003
    gaps = np.bincount(bins.bin_N, confidence - right)
    assert float(calibration.ece(gaps, 1003)) == pytest.approx(by_hand)


def test_a_calibrated_model_shows_the_error_that_the_null_predicts() -> None:
    confidence = np.random.default_rng(1).beta(6, 1, 300)
    mean, high = calibration.ece_by_chance(
        confidence, calibration.reliability(confidence, confidence > 0).bin_N, 400, 0
    )
    # 0.044 and 0.063 were measured for this case by another program.
    assert mean == pytest.approx(0.044, abs=0.006)
    assert high == pytest.approx(0.063, abs=0.010)


def random_tags(rng: np.random.Generator, n: int) -> list[str]:
    choices = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "LOC", "ORG"))]
    return [choices[i] for i in rng.integers(0, len(choices), n)]


@pytest.mark.parametrize("seed", range(60))
def test_entities_equal_seqeval_on_any_tags(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 15, int(rng.integers(1, 8)))
    gold, predicted = ([random_tags(rng, int(n)) for n in lengths] for _ in range(2))
    types = entities.entity_types(gold, predicted)
    outcome = TagOutcome(gold, predicted, types, resamples=100)
    found = values(outcome)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = classification_report(gold, predicted, output_dict=True, zero_division=0)
    assert found["entity_f1"] == pytest.approx(expected["micro avg"]["f1-score"], abs=1e-12)
    assert found["entity_precision"] == pytest.approx(expected["micro avg"]["precision"], abs=1e-12)
    assert found["entity_recall"] == pytest.approx(expected["micro avg"]["recall"], abs=1e-12)
    for kind, of_type in outcome.per_class().items():
        assert of_type["f1"].value == pytest.approx(expected[kind]["f1-score"], abs=1e-12)
        assert of_type["precision"].value == pytest.approx(expected[kind]["precision"], abs=1e-12)


def test_golden_entities() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC", "O", "B-ORG", "I-ORG", "O"], ["B-LOC", "O", "B-PER", "O"]]
    predicted = [["B-PER", "O", "O", "B-LOC", "O", "B-PER", "I-PER", "O"], ["O", "O", "B-PER", "B-ORG"]]
    found = values(TagOutcome(gold, predicted, ["LOC", "ORG", "PER"], resamples=100))
    assert found["entity_f1"] == pytest.approx(0.4) == pytest.approx(seqeval_f1(gold, predicted))
    assert found["macro_entity_f1"] == pytest.approx(0.3556, abs=1e-4)


def test_without_entities_the_score_is_undefined_not_zero() -> None:
    found = scores(TagOutcome([["O", "O"]], [["O", "O"]], ["PER"], resamples=100))
    assert found["entity_f1"].value is None
    assert found["entity_f1"].note == "the test rows have no entities"
    assert found["token_accuracy"].value == 1.0


def test_a_sentence_with_too_few_tags_is_refused() -> None:
    with pytest.raises(ValueError, match="sentence 0: 1 predicted tags for 2 words"):
        entities.entity_counts([["O", "O"]], [["O"]], ["PER"])


def test_uniform_bytes_cost_eight_bits() -> None:
    assert metrics.bits_per_byte(100 * math.log(256), 100) == pytest.approx(8.0)
    with pytest.raises(ValueError, match="nothing was scored"):
        metrics.bits_per_byte(1.0, 0)


def test_text_scores_follow_from_sums_over_documents() -> None:
    nll, targets, size = np.array([30.0, 10.0]), np.array([10.0, 5.0]), np.array([40.0, 20.0])
    found = values(TextOutcome(nll - 1, size, nll, targets, np.array([3.0, 2.0])))
    assert found["loss"] == pytest.approx(40 / 15)
    assert found["perplexity"] == pytest.approx(math.exp(40 / 15))
    assert found["bpb"] == pytest.approx(38 / 60 / math.log(2))
    assert found["token_accuracy"] == pytest.approx(5 / 15)


def test_signatures_tell_variants_apart() -> None:
    found = scores(ClassOutcome(list("abcd"), GOLD, np.minimum(PREDICTED, 3), resamples=100))
    assert found["macro_f1"].signature == "macro_f1|labels:4|avg:macro|zero:0|v:1"
    signatures = [score.signature for score in found.values()]
    assert len(set(signatures)) == len(signatures)
