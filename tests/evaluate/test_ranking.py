"""Ranking metrics, temperature, strict and partial entities, multiple choice: against outside judges and by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from sklearn import metrics as judge

from wyrmling.evaluate import calibration, choice, entities, ranking
from wyrmling.evaluate.choice import Question
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.evaluate.tag_outcome import TagOutcome

QUICK = settings(max_examples=100, deadline=None)
SCORES = st.integers(0, 5).map(lambda i: i / 5)  # many ties
CASES = st.lists(st.tuples(st.booleans(), SCORES), min_size=2, max_size=40)
TAGS = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
SENTENCES = st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=12), min_size=1, max_size=6)


@QUICK
@given(CASES)
def test_auroc_and_average_precision_equal_scikit_learn(cases: list[tuple[bool, float]]) -> None:
    positive, scores = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])
    weights = np.ones((1, len(cases)))
    if positive.any() and not positive.all():
        assert ranking.auroc(weights, positive, scores)[0] == pytest.approx(judge.roc_auc_score(positive, scores))
    if positive.any():
        expected = judge.average_precision_score(positive, scores)
        assert ranking.average_precision(weights, positive, scores)[0] == pytest.approx(expected)


@QUICK
@given(CASES, st.integers(0, 1000))
def test_weights_count_a_row_several_times(cases: list[tuple[bool, float]], seed: int) -> None:
    weights = np.random.default_rng(seed).integers(0, 4, len(cases))
    positive, scores = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])
    repeated = np.repeat(positive, weights), np.repeat(scores, weights)
    if repeated[0].any() and not repeated[0].all():
        for name, of in ranking.RANKING.items():
            once = of(weights[None].astype(float), positive, scores)[0]
            assert once == pytest.approx(of(np.ones((1, len(repeated[0]))), *repeated)[0]), name


def test_golden_ranking_values() -> None:
    gold = np.array([1, 0, 1, 1, 0, 0, 1, 0])
    s = np.array([0.9, 0.8, 0.7, 0.6, 0.6, 0.3, 0.2, 0.1])
    outcome = ClassOutcome(["no", "yes"], gold, (s > 0.5).astype(int), np.stack([1 - s, s], axis=1))
    assert outcome.score("auroc").value == pytest.approx(0.65625)
    assert outcome.score("average_precision").value == pytest.approx(0.709524, abs=1e-6)


def test_many_labels_are_judged_one_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    gold, p = rng.integers(0, 5, 200), rng.dirichlet(np.ones(5), 200)
    outcome = ClassOutcome([str(i) for i in range(5)], gold, p.argmax(1), p)
    assert outcome.score("auroc").value == pytest.approx(judge.roc_auc_score(gold, p, multi_class="ovr"))
    score = outcome.score("average_precision")
    assert score.value == pytest.approx(judge.average_precision_score(np.eye(5)[gold], p))
    assert score.low is not None and score.low < score.value < (score.high or 0)


def test_a_test_of_one_label_has_no_ranking() -> None:
    p = np.array([[0.9, 0.1], [0.4, 0.6]])
    score = ClassOutcome(["a", "b"], np.array([0, 0]), p.argmax(1), p).score("auroc")
    assert score.value is None
    assert score.note == "all test rows have one label"


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_that_spoiled_probabilities_is_found_again(true: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.dirichlet(np.full(4, 0.6), 6000)
    gold = (rng.random(6000)[:, None] > honest.cumsum(1)).sum(1).clip(max=3)
    spoiled = calibration.sharpened(honest, 1 / true)
    found = calibration.temperature(gold, spoiled)
    assert found == pytest.approx(true, rel=0.06)
    mended = calibration.sharpened(spoiled, found)
    assert (mended.argmax(1) == spoiled.argmax(1)).all()
    assert calibration.log_losses(gold, mended).mean() <= calibration.log_losses(gold, spoiled).mean()


def test_a_temperature_needs_rows() -> None:
    with pytest.raises(ValueError, match="without rows"):
        calibration.temperature(np.array([], dtype=np.int64), np.empty((0, 3)))


@QUICK
@given(SENTENCES)
def test_strict_entities_equal_seqeval_in_iob2(sentences: list[list[tuple[str, str]]]) -> None:
    gold, said = ([[pair[i] for pair in sentence] for sentence in sentences] for i in (0, 1))
    outcome = TagOutcome(gold, said, ["LOC", "PER"], resamples=2)
    if not any(entities.strict_entities(tags) for tags in gold):
        assert outcome.score("strict_entity_f1").value is None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, of in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            expected = of(gold, said, mode="strict", scheme=IOB2, zero_division=0)
            assert outcome.score(f"strict_entity_{name}").value == pytest.approx(expected)


def test_golden_partial_entities() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC", "O", "B-ORG", "I-ORG", "O"], ["B-LOC", "O", "B-PER", "O"]]
    said = [["B-PER", "O", "O", "B-LOC", "O", "B-PER", "I-PER", "O"], ["O", "O", "B-PER", "B-ORG"]]
    outcome = TagOutcome(gold, said, ["LOC", "ORG", "PER"], resamples=100)
    assert outcome.score("partial_entity_f1").value == pytest.approx(0.7)
    assert outcome.score("strict_entity_f1").value == pytest.approx(0.4)


@QUICK
@given(SENTENCES)
def test_partial_scores_lie_between_strictness_and_one(sentences: list[list[tuple[str, str]]]) -> None:
    gold, said = ([[pair[i] for pair in sentence] for sentence in sentences] for i in (0, 1))
    exact = entities.entity_counts(gold, said, ["LOC", "PER"]).sum(axis=(0, 2))
    partial = entities.partial_counts(gold, said).sum(axis=(0, 2))
    assert exact[0] <= partial[0] <= min(partial[1], partial[2])
    assert (exact[1], exact[2]) == (partial[1], partial[2])


def test_the_likeliest_choice_is_taken_as_it_stands_per_character_and_per_byte() -> None:
    question = Question("2 + 2 =", ("four", "an umbrella", "ö"), 0, (-4.0, -5.5, -1.2))
    assert choice.credits([question], "choice").tolist() == [0.0]  # ö at -1.2
    assert choice.credits([question], "choice_norm").tolist() == [0.0]  # umbrella at -0.5 a character
    assert choice.credits([question._replace(gold=1)], "choice_bytes").tolist() == [1.0]  # -0.5 a byte, ö -0.6


def test_a_model_without_opinion_scores_as_if_it_guessed() -> None:
    questions = [Question("", ("aa", "bb", "cc"), gold, (-1.0, -1.0, -1.0)) for gold in (0, 1, 2)]
    assert choice.credits(questions, "choice_norm").tolist() == pytest.approx([1 / 3] * 3)
    with pytest.raises(ValueError, match="2 log-likelihoods for 3 choices"):
        choice.credits([questions[0]._replace(nats=(-1.0, -2.0))], "choice")
    with pytest.raises(ValueError, match="a choice without text"):
        choice.credits([Question("", ("", "b"), 0, (-1.0, -1.0))], "choice_norm")
