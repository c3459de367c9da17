"""Written answers scored as sacrebleu, rouge-score and the SQuAD script score them, on any text."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from wyrmling.core.errors import BadSetting
from wyrmling.evaluate import answers
from wyrmling.evaluate.answer_outcome import AnswerOutcome, WithAnswers
from wyrmling.evaluate.text_outcome import TextOutcome

VOCABULARY = ["the", "a", "cat", "sat", "on", "mat.", "Running", "runs,", "12", "%"]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=12).map(" ".join)
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6)
QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(PAIRS)
def test_bleu_and_chrf_of_a_corpus_equal_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    expected, given_ = ([pair[i] for pair in pairs] for i in (0, 1))
    for name, judge in (("bleu", BLEU()), ("chrf", CHRF())):
        metric = answers.CORPUS[name]
        value = metric.of(metric.counts(expected, given_).sum(0))
        assert value == pytest.approx(judge.corpus_score(given_, [expected]).score, abs=1e-9)


@QUICK
@given(PAIRS)
def test_rouge_equals_rouge_score_on_plain_english(pairs: list[tuple[str, str]]) -> None:
    expected, given_ = ([pair[i] for pair in pairs] for i in (0, 1))
    judge = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name in ("rouge1", "rouge2", "rougeL"):
        values = [judge.score(a, b)[name].fmeasure for a, b in pairs]
        assert AnswerOutcome(expected, given_).score(name).value == pytest.approx(np.mean(values), abs=1e-12)


def test_rouge_knows_letters_outside_english() -> None:
    assert AnswerOutcome(["Привет мир"], ["привет мир"]).score("rouge1").value == 1.0
    assert RougeScorer(["rouge1"]).score("Привет мир", "привет мир")["rouge1"].fmeasure == 0.0


@pytest.mark.parametrize(
    ("expected", "said", "exact", "f1"),
    [
        ("The Eiffel Tower", "eiffel tower!", 1, 1),
        ("in 1889", "It was in 1889", 0, 2 / 3),
        ("red red blue", "red blue blue", 0, 2 / 3),
        ("", "", 1, 1),
        ("the", "", 1, 1),
        ("cat", "", 0, 0),
        ("cat", "dog", 0, 0),
    ],
)
def test_exact_match_and_token_f1_follow_the_squad_script(expected: str, said: str, exact: float, f1: float) -> None:
    assert answers.exact_match([expected], [said])[0] == exact
    assert answers.token_f1([expected], [said])[0] == pytest.approx(f1)


def test_signatures_name_options_and_versions() -> None:
    outcome = AnswerOutcome(["a cat"], ["a dog"])
    assert outcome.score("bleu").signature == (
        "bleu|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|range:0-100|sacrebleu:2.6.0|v:1"
    )
    assert "rouge-score:0.1.2" in outcome.score("rougeL").signature


def test_a_better_system_is_better_in_every_metric_and_paired() -> None:
    expected = [f"the order number {i} was sent on day {i % 7}" for i in range(60)]
    worse = [text.replace("sent", "lost") if i % 3 else text for i, text in enumerate(expected)]
    new, old = AnswerOutcome(expected, expected), AnswerOutcome(expected, worse)
    for name in new.names:
        change = new.difference(old, name)
        assert change.value == pytest.approx((new.score(name).value or 0) - (old.score(name).value or 0))
        assert change.value > 0 and change.p < 0.01 and change.low is not None and change.low > 0
        score = old.score(name)
        assert score.low is not None and score.high is not None and score.low < (score.value or 0) < score.high


def test_answers_to_some_rows_stand_beside_the_scores_of_all() -> None:
    text = TextOutcome(np.full(6, 10.0), np.full(6, 8.0))
    both = WithAnswers(text, AnswerOutcome(["a", "b", "c"], ["a", "x", "c"]), np.array([1, 3, 5]))
    assert both.score("bpb").n == 6
    assert both.score("exact_match").n == 3
    part = both.take(np.array([3, 4, 5]))
    assert part.answers.expected == ["b", "c"]
    assert part.answered_N.tolist() == [0, 2]
    assert part.score("exact_match").value == 0.5
    with pytest.raises(KeyError):
        both.difference(text, "exact_match")
    assert both.difference(text, "bpb").value == 0


def test_a_missing_package_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    answers._sacrebleu.cache_clear()
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(BadSetting, match="sacrebleu is not installed") as caught:
        answers.CORPUS["bleu"].counts(["a"], ["a"])
    assert caught.value.fix == 'pip install "wyrmling[text-metrics]"'
