"""The cheap rungs: right on cases with a known answer, and honest probabilities."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from wyrmling.core.errors import NothingToLearn
from wyrmling.evaluate import baselines


def test_majority_takes_the_first_of_equally_frequent_labels() -> None:
    assert baselines.majority(["b", "a", "b", "a", "c"], 3) == ["a", "a", "a"]
    assert baselines.majority([("b",), (), ("a", "b"), ()], 1) == [()]
    with pytest.raises(NothingToLearn, match="no labelled training row"):
        baselines.majority([], 3)


def test_tfidf_learns_two_labels_and_many() -> None:
    texts = [
        "my card is lost",
        "lost my card today",
        "where is my refund",
        "refund the money",
        "top up failed",
        "top up",
    ]
    labels = ["card", "card", "refund", "refund", "topup", "topup"]
    three = baselines.tfidf(texts, labels)(["card lost", "a refund please", "my top up"])
    assert three == ["card", "refund", "topup"]
    two = baselines.tfidf(texts[:4], labels[:4])(["card lost", "a refund please"])
    assert two == ["card", "refund"]


def test_tfidf_of_one_label_and_of_texts_without_words() -> None:
    assert baselines.tfidf(["a text", "more"], ["x", "x"])(["any"]) == ["x"]
    marks = baselines.tfidf(["?", "!", "? ?", "! !"], ["ask", "shout", "ask", "shout"])
    assert marks(["?", "!"]) == ["ask", "shout"]


def test_frequent_tag_knows_only_words_it_saw() -> None:
    words, tags = [["Rome", "is", "Rome"], ["Rome", "fell"]], [["B-LOC", "O", "B-LOC"], ["B-PER", "O"]]
    assert baselines.frequent_tag(words, tags)([["Rome", "Paris"]]) == [["B-LOC", "O"]]


def test_crf_generalises_from_context_and_shape() -> None:
    names = ["Anna", "Peter", "Maria", "Paul", "Laura", "Simon"]
    words = [["Mr", name, "came", "home"] for name in names] + [["the", "dog", "came", "home"]] * 3
    tags = [["O", "B-PER", "O", "O"]] * len(names) + [["O"] * 4] * 3
    assert baselines.crf(words, tags)([["Mr", "Karl", "came"]]) == [["O", "B-PER", "O"]]


def test_shape_collapses_repeats() -> None:
    assert baselines._shape("McX99!") == "XxXd!"
    assert baselines._shape("") == ""


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_ngram_probabilities_sum_to_one(order: int) -> None:
    model = baselines.ByteNgram(["abracadabra", "a cab", "Zürich"], order)
    for context in ("", "a", "abra", "zzz", "ü"):
        before = model.nats(context)
        total = 0.0
        for byte in range(256):
            try:
                text = (context.encode() + bytes([byte])).decode()
            except UnicodeDecodeError:
                continue
            total += math.exp(before - model.nats(text))
        # Bytes above 127 can't end a text on their own; nearly all of their mass is the uniform last resort.
        assert total <= 1 + 1e-9
        assert total > 0.45


def test_ngram_of_one_text_by_hand() -> None:
    model = baselines.ByteNgram(["aab"], 2)
    # Unigram: a twice, b once, two kinds of three: P(a) = (2 + 2 / 256) / 5, P(b) = (1 + 2 / 256) / 5.
    p_a, p_b = (2 + 2 / 256) / 5, (1 + 2 / 256) / 5
    # After a boundary: a once, one kind. After a: a once, b once, two kinds.
    expected = [(1 + p_a) / 2, (1 + 2 * p_b) / 4]
    assert model.nats("ab") == pytest.approx(-sum(math.log(p) for p in expected))


def test_longer_contexts_cost_fewer_bits_on_regular_text() -> None:
    train = ["".join(pair) for pair in itertools.product(("the cat ", "the dog "), ("sat down.", "ran off."))] * 20
    nats = [baselines.ngram(train, order)(["the dog sat down."])[0] for order in (1, 2, 5)]
    assert nats[0] > nats[1] > nats[2]
    assert np.isfinite(baselines.ngram(train, 5)(["", "\x00ü€"])).all()


def test_ngram_without_text_is_an_error() -> None:
    with pytest.raises(NothingToLearn, match="no training text"):
        baselines.ByteNgram(["", ""], 5)


def test_a_cut_of_the_training_text_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_TRAIN_BYTES", 10)
    assert baselines.read_share(["12345", "67890"]) is None
    assert baselines.read_share(["12345", "678901"]) == "fitted on the first 10 of 11 characters of training text"


def test_the_nearest_answer_is_that_of_the_question_with_the_same_rare_words() -> None:
    questions = ["How do I open the safe?", "How do I close the account?", "How do I pay?"]
    answer = baselines.nearest_answer(questions, ["with the key", "by letter", "in cash"])
    assert answer(["Please close my ACCOUNT", "pay how"]) == ["by letter", "in cash"]
    assert answer(["nothing alike"]) == ["with the key"]  # of equals the first
    with pytest.raises(NothingToLearn, match="no answered training row"):
        baselines.nearest_answer([], [])
