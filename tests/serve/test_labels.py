"""Words, passes and entities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from wyrmling.serve.labels import Row, entities, passes, split_words

TAGS = ["O", "B-person", "I-person", "B-place", "I-place"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world!", ["Hello", ",", "world", "!"]),
        ("@ann you're in #Oslo: https://t.co/x1?", ["@ann", "you're", "in", "#Oslo", ":", "https://t.co/x1?"]),
        ("a state-of-the-art v1.2 (beta)", ["a", "state-of-the-art", "v1.2", "(", "beta", ")"]),
        ("  \n ", []),
        ("Zürich 日本", ["Zürich", "日本"]),
    ],
)
def test_words_stand_alone_and_punctuation_too(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(st.text())
def test_splitting_loses_nothing_but_space(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.split())


@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_entities_are_those_of_seqeval(tags: list[str]) -> None:
    found = entities([f"w{at}" for at in range(len(tags))], tags, [0.5] * len(tags))
    # seqeval counts the last word in, we count up to it.
    assert [(e.label, e.start, e.end - 1) for e in found] == get_entities(tags)
    assert all(e.text == " ".join(f"w{at}" for at in range(e.start, e.end)) for e in found)


def test_an_entity_is_as_sure_as_its_least_sure_word() -> None:
    found = entities(["New", "York"], ["B-place", "I-place"], [0.9, 0.6])
    assert [(e.text, e.probability) for e in found] == [("New York", 0.6)]


@given(st.lists(st.integers(1, 40), max_size=30))
def test_every_row_is_in_one_pass_and_no_pass_is_too_large(lengths: list[int]) -> None:
    rows = [Row([0] * length) for length in lengths]
    chosen = list(passes(rows, tokens_per_pass=64))
    assert sorted(index for indices in chosen for index in indices) == list(range(len(rows)))
    assert all(len(indices) == 1 or sum(lengths[i] for i in indices) <= 64 for indices in chosen)
