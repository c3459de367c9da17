from __future__ import annotations

import pytest

from wyrmling.data.filters import PROFILES, Profile, judge

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
