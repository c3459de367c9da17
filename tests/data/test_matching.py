from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyrmling.data import matching
from wyrmling.data.matching import matching_form, word_hashes

TEXT = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("aAbBzZ09 \t\n.,-_…“’ßİéЖж欢迎กお٣१𝟘\u00a0\u2028\x1c\x85🎉"),
    ),
    max_size=80,
)


def plain_form(text: str) -> str:
    """The judge: character by character."""
    spaced = "".join(" " if unicodedata.category(char).startswith("P") else char for char in text.casefold())
    return " ".join(spaced.split()) or " ".join(text.split())


def plain_words(text: str) -> list[str]:
    unspaced = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
    spaced = "".join(" " if unicodedata.category(char).startswith("P") else char for char in text.casefold())
    # A sign that is punctuation in such a script is a space; what is left of the script stands alone.
    return re.sub(r"\d+", "0", unspaced.sub(r" \1 ", spaced)).split()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Where is my card?", "where is MY card", True),
        ("Straße", "STRASSE", True),
        ("pay 5", "pay 50", False),
        ("great 😀", "great 😡", False),
        (":)", ":(", False),
        ("कि", "की", False),
        ("“Yes” – no…", "yes no", True),
    ],
)
def test_the_matching_form_ignores_case_and_punctuation_only(one: str, other: str, same: bool) -> None:
    assert (matching_form(one) == matching_form(other)) is same


@settings(max_examples=500)
@given(TEXT)
def test_the_matching_form_is_that_of_plain_python(text: str) -> None:
    assert matching_form(text) == plain_form(text)


@settings(max_examples=500)
@given(TEXT, TEXT)
def test_words_have_equal_hashes_just_when_they_are_equal(one: str, other: str) -> None:
    words = plain_words(one) + plain_words(other)
    hashes = [*word_hashes(one).tolist(), *word_hashes(other).tolist()]
    assert len(hashes) == len(words)
    pairs = set(zip(words, hashes, strict=True))
    assert len(pairs) == len(set(words)) == len(set(hashes))


def test_a_long_text_has_the_hashes_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"word{chr(97 + n % 26)} {n}, été{n % 7}\n" for n in range(3000))
    whole = word_hashes(text)
    monkeypatch.setattr(matching, "BLOCK_CHARS", 1000)
    assert (word_hashes(text) == whole).all()
    assert len(whole) == len(text.replace(",", " ").split())
