"""How text is cut into words: the named patterns as their owners publish them, digits, white space, and one's own."""

from __future__ import annotations

from typing import Any

import pytest
import regex
from tokenizers import pre_tokenizers

from tokenizer.samples import ODD_TEXTS
from wyrmling.config import Tokenizer as Settings
from wyrmling.core.errors import BadSetting
from wyrmling.tokenizer import bpe
from wyrmling.tokenizer.patterns import NAMED, grouped, word_pattern

TEXT = "I'll pay 1234567 in  2 DAYS\n\n  ok?"


def words(text: str, vocab_size: int = 50_000, **settings: Any) -> list[str]:
    return regex.findall(word_pattern(Settings(**settings), vocab_size), text)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pattern": "gpt2"}, ["1234567"]),
        ({"pattern": "cl100k"}, ["123", "456", "7"]),
        ({"pattern": "llama3"}, ["123", "456", "7"]),
        ({"pattern": "o200k"}, ["123", "456", "7"]),
        ({"pattern": "qwen2"}, [*"1234567"]),
        ({"pattern": "qwen2", "digits": 4}, ["1234", "567"]),
        ({"pattern": "gpt2", "digits": 1}, [*"1234567"]),
        ({"digits": 5}, ["12345", "67"]),
        ({}, ["123", "456", "7"]),
    ],
)
def test_digits_come_in_the_groups_asked_for(settings: dict[str, Any], expected: list[str]) -> None:
    assert [word.strip() for word in words(" 1234567", **settings) if word.strip()] == expected


def test_without_settings_small_vocabularies_take_two_digits() -> None:
    assert words("12345", 32_768) == ["12", "34", "5"]
    assert words("12345", 32_769) == ["123", "45"]


@pytest.mark.parametrize("name", NAMED)
def test_a_pattern_leaves_nothing_out(name: str) -> None:
    for whitespace in ("joined", "apart", "single"):
        for text in ODD_TEXTS:
            assert "".join(words(text, pattern=name, whitespace=whitespace)) == text


@pytest.mark.parametrize("name", NAMED)
def test_white_space_stands_with_the_word_apart_or_alone(name: str) -> None:
    def spaces(whitespace: str) -> list[str]:
        return [word for word in words("a  b c\n\n d", pattern=name, whitespace=whitespace) if word != word.strip()]

    assert " c" in spaces("joined")
    assert spaces("apart") == ["  ", " ", "\n\n "]
    assert spaces("single") == [" ", " ", " ", "\n", "\n", " "]


def test_gpt2s_pattern_cuts_as_gpt2_does() -> None:
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in ODD_TEXTS:
        ours = [bpe.to_byte_level(word.encode()) for word in words(text, pattern="gpt2")]
        assert ours == [word for word, _ in theirs.pre_tokenize_str(text)]


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("whitespace", ["joined", "apart", "single"])
def test_the_faster_form_for_the_trainer_cuts_alike(name: str, whitespace: str) -> None:
    pattern = word_pattern(Settings(pattern=name, whitespace=whitespace), 50_000)
    assert grouped(pattern) != pattern
    for text in (TEXT, *ODD_TEXTS):
        assert regex.findall(grouped(pattern), text) == regex.findall(pattern, text)


@pytest.mark.parametrize("pattern", [r"[a-z]+|[^a-z]+", r"|\s+(?!\S)|\s+", r"\S+\|\s+(?!\S)|\s+", "x*"])
def test_other_patterns_are_left_as_they_are(pattern: str) -> None:
    assert grouped(pattern) == pattern


def test_a_pattern_of_ones_own_is_taken_as_it_is() -> None:
    assert words("ab-cd", pattern=r"[a-z]+|[^a-z]+") == ["ab", "-", "cd"]


def test_a_wrong_pattern_is_named_with_the_choices() -> None:
    with pytest.raises(BadSetting, match=r"'\(gpt' is neither a named pattern nor a valid regular expression") as error:
        words("x", pattern="(gpt")
    assert error.value.fix is not None and "cl100k" in error.value.fix
    for setting in ({"digits": 2}, {"whitespace": "apart"}):
        with pytest.raises(BadSetting, match="shape the named patterns"):
            words("x", pattern=r"\w+|\W", **setting)


@pytest.mark.parametrize("pattern", [r"\d+", r"x*", r"(?<!a)b+|\S"])
def test_a_pattern_that_leaves_text_out_still_gives_a_vocabulary_for_any_text(corpus: list[str], pattern: str) -> None:
    vocabulary = bpe.train(corpus[:200], 400, word_pattern(Settings(pattern=pattern), 400))
    hf = bpe.build(vocabulary)
    hf.encode_special_tokens = True
    for text in ODD_TEXTS:
        assert hf.decode(hf.encode(text, add_special_tokens=False).ids) == text
