from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyrmling.data import filters
from wyrmling.data.filters import PROFILES, Page, Profile, judge

PROSE = (
    "The handbook explains how a member of the team can ask for leave and to whom the request goes. "
    "Every request is read by two people, and an answer comes within a week of the day it was sent. "
    "Those who have questions should write to the office, which keeps a list of the answers it gave. "
)
PAGES = "\n\n".join(PROSE.replace("handbook", word) for word in ("handbook", "manual", "guide"))


def rule(text: str, profile: Profile) -> str | None:
    verdict = judge(text, profile)
    return verdict.rule if verdict else None


@pytest.mark.parametrize("profile", ["manuals", "chat", "table"])
def test_ordinary_prose_with_paragraphs_passes(profile: Profile) -> None:
    assert judge(PAGES, profile) is None


def test_prose_passes_the_web_profile_once_and_not_when_it_repeats_itself() -> None:
    assert judge(PROSE, "web") is None
    assert rule(PROSE * 3, "web") == "repeated_5_grams"
    assert rule(PROSE[:100], "web") == "words"


@pytest.mark.parametrize(
    ("text", "profile", "broken"),
    [
        ("too few words", "manuals", "words"),
        ("# " * 40 + PROSE, "web", "mean_word_length"),
        (PROSE + "... " * 30, "web", "symbols"),
        ("".join(f"- item number {n} belongs on the list and to others\n" for n in range(20)), "web", "bullets"),
        ("".join("12 34\n" for _ in range(40)), "manuals", "letters"),
        ("the same line of text\n" * 20, "manuals", "repeated_lines"),
        (PAGES + " lorem ipsum dolor", "manuals", "placeholder_text"),
        ("x = 1\n" * 5, "code", "lines"),
        ("value = [" + "one, " * 500 + "]\n" * 12, "code", "mean_line_length"),
    ],
)
def test_each_rule_drops_what_it_is_for(text: str, profile: Profile, broken: str) -> None:
    assert rule(text, profile) == broken


def test_a_verdict_has_the_value_and_the_bound_that_it_broke() -> None:
    verdict = judge("one two three", "manuals")
    assert verdict is not None
    assert verdict == ("words", 3, ">= 20")


def test_blank_lines_are_no_repeated_lines() -> None:
    text = "\n\n\n\n".join(f"{n} {PROSE}" for n in range(8))
    assert judge(text.replace("the", "a"), "manuals") is None


def test_one_line_articles_are_not_judged_by_their_lines() -> None:
    line_rules = {"unpunctuated_lines", "short_lines"}
    assert rule(" ".join(f"w{n}" for n in range(400)) + " the and", "web") not in line_rules


def test_rule_names_are_unique_in_each_profile() -> None:
    for rules in PROFILES.values():
        names = [item.name for item in rules]
        assert len(names) == len(set(names))


TEXT = st.text(st.sampled_from("ab cd ÄЖ9漢 .\n\n\t-…“\u00a0"), max_size=80)


def plain_top(words: list[str], n: int) -> float:
    """The judge of top_ngram: tuples in a Counter."""
    counts = Counter(zip(*(words[k:] for k in range(n)), strict=False))
    most = max(counts.values(), default=0)
    longest = max((len("".join(gram)) for gram, count in counts.items() if count == most), default=0)
    return most * longest / len("".join(words)) if most > 1 else 0.0


def plain_repeated(words: list[str], n: int) -> float:
    """The judge of repeated_ngrams: each word is marked when a gram over it was seen before."""
    grams = [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]
    inside = {at for k, gram in enumerate(grams) if gram in grams[:k] for at in range(k, k + n)}
    return sum(len(words[at]) for at in inside) / max(len("".join(words)), 1)


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=40))
def test_measures_of_ngrams_are_those_of_plain_python(words: list[str]) -> None:
    page = Page(" ".join(words))
    for n in range(2, 11):
        assert filters.top_ngram(n)(page) == pytest.approx(plain_top(words, n), abs=1e-12)
        assert filters.repeated_ngrams(n)(page) == pytest.approx(plain_repeated(words, n), abs=1e-12)


@settings(max_examples=200)
@given(TEXT)
def test_measures_of_words_and_letters_are_those_of_plain_python(text: str) -> None:
    page, words = Page(text), text.split()
    characters = len("".join(words))
    assert filters.words(page) == len(words)
    assert filters.mean_word_length(page) == characters / max(len(words), 1)
    assert filters.letters(page) == sum(map(str.isalpha, text)) / max(characters, 1)
    assert filters.words_with_letters(page) == sum(any(map(str.isalpha, word)) for word in words) / max(len(words), 1)
    assert page.lines == [line for line in text.split("\n") if line.strip()]
    parts = [part for part in re.split(r"\n{2,}", text) if part.strip()]
    assert [part.lstrip("\n") for part in page.paragraphs] == [part.lstrip("\n") for part in parts]
