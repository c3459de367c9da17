from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyrmling.data import clean
from wyrmling.data.clean import (
    clean_row,
    clean_text,
    drop_running_heads,
    repair_characters,
    repair_surrogates,
)
from wyrmling.data.rows import Row

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def row(text: str, family: str = "csv") -> Row:
    return Row("s", "x", family, "document", text=text)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("schÃ¶n â€œgutâ€\x9d", "schön “gut”"),
        ("cafe\u0301", "café"),
        ("a\r\nb\rc\u2028d\x0ce", "a\nb\nc\nd\ne"),
        ("  a  \n\n\n\n b\t\n", "a\n\n b"),
        ("a\u00a0b\u200b\u00adc\x00\x07", "a bc"),
        ("Tom &amp; Ann", "Tom & Ann"),
        ("<b>Tom &amp; Ann</b>", "<b>Tom &amp; Ann</b>"),
        ("ﬁne ‘quotes’", "fine ‘quotes’"),
        ("می‌خواهم 👩‍💻", "می‌خواهم 👩‍💻"),
        ("ＡＢＣ 漢字", "ＡＢＣ 漢字"),
        ("”Även så” ‘été’", "”Även så” ‘été’"),
        ("”Även", "”Även"),
        ("ordinary text, as it is.", "ordinary text, as it is."),
    ],
)
def test_text_is_repaired_without_losing_what_is_meant(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@given(TEXT)
def test_cleaned_text_is_nfc_without_control_characters_or_outer_space(text: str) -> None:
    cleaned = clean_text(text)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert cleaned == cleaned.strip()
    assert not any(unicodedata.category(char) == "Cc" and char not in "\t\n" for char in cleaned)
    assert "\n\n\n" not in cleaned


@settings(max_examples=300)
@given(
    st.text(st.sampled_from("aé“’—…ж Ωß漢🎉Ãâ€œ©\u00a0\x92\x85?\x1a\ufffdﬁＡ\u0301&;lt\n"), max_size=12),
    st.sampled_from(["latin-1", "cp1252", "cp1251", "cp437", "mac_roman", "utf-8"]),
    st.booleans(),
)
def test_lines_that_are_not_shown_to_ftfy_would_not_be_changed_by_it(text: str, encoding: str, entities: bool) -> None:
    text = text.encode().decode(encoding, "replace")
    cleaned = repair_characters(text, entities=entities)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "TYPOGRAPHY", re.compile("(?!)"))
        patch.setattr(clean, "_is_whole", lambda line, width: False)
        assert repair_characters(text, entities=entities) == cleaned


def test_colours_of_a_terminal_are_not_text() -> None:
    assert clean_text("\x1b[31mError\x1b[0m: – done") == "Error: – done"


@given(st.text(st.sampled_from("ab .,\n\té“”&;<漢\u00a0\u200b\r"), max_size=60))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean_text(clean_text(text)) == clean_text(text)


def test_entities_in_markup_and_indentation_in_code_are_meant() -> None:
    page, code = row("Write &lt;b&gt;", "md"), row("\n    if a &lt; b:\n        x  \n", "txt")
    clean_row(page)
    clean_row(code, code=True)
    assert page.text == "Write &lt;b&gt;"
    assert page.verdict == "kept"
    assert code.text == "    if a &lt; b:\n        x"
    assert code.rules == ["whitespace"]


def test_words_cut_at_the_line_ends_of_a_pdf_are_joined() -> None:
    page = row("docu\ufffe\r\nmentation and\r\nmore", "pdf")
    clean_row(page)
    assert page.text == "documentation and\nmore"
    assert page.rules == ["hyphens", "unicode"]


def test_a_tagged_word_stays_one_word() -> None:
    tagged = Row("s", "x", "conll", "tagged", words=["a\u00a0b", "\u200b", "&gt;", "é"], tags=["O"] * 4)
    clean_row(tagged)
    assert tagged.words == ["ab", "\ufffd", "&gt;", "é"]


@given(st.text(max_size=30))
def test_text_with_lone_surrogates_becomes_writable(text: str) -> None:
    broken = "\ud800" + text
    assert repair_surrogates(broken).encode("utf-8")
    assert repair_surrogates(text.encode("utf-8", "ignore").decode()) == text.encode("utf-8", "ignore").decode()
    assert repair_surrogates("\ud83d\ude00") == "😀"


def test_heads_feet_and_page_numbers_go_but_repeated_content_stays() -> None:
    pages = [
        row(f"Handbook\nPart {n}\n" + "same line\n" * 8 + f"text {'abcdef'[n]}\nPage {n} of 6", "pdf") for n in range(6)
    ]
    pages[3].text = "Handbook\nshort"
    drop_running_heads(pages)
    assert pages[0].text.endswith("text a")
    assert "same line" in pages[0].text
    assert "Page" not in pages[0].text
    assert pages[3].text == "short"
    few = [row("Handbook\ntext", "pdf") for _ in range(4)]
    drop_running_heads(few)
    assert few[0].text == "Handbook\ntext"
