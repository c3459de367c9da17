from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.data import run
from wyrmling.data.clean import (
    clean_row,
    clean_text,
    drop_boilerplate,
    drop_running_heads,
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


def pages(texts: list[str], family: str = "html") -> list[Row]:
    return [Row("s", f"{n}.html", family, "document", text=text) for n, text in enumerate(texts)]


def texts_without_shared_lines(texts: list[str]) -> list[str]:
    rows = pages(texts)
    drop_boilerplate(rows)
    return [row.text for row in rows]


BODY = "The body of page {} tells about something else,\nand its second line about {} too."


def test_lines_that_many_pages_share_go_and_the_body_stays() -> None:
    bodies = [BODY.format(word, word) for word in ("cards", "fees", "loans", "rates", "homes", "cars")]
    shared = [
        f"Home | Products | Contact us\n\n{body}\n\nCopyright 20{n}, all rights reserved"
        for n, body in enumerate(bodies)
    ]
    assert texts_without_shared_lines(shared) == bodies
    rows = pages(shared)
    drop_boilerplate(rows)
    assert all(row.rules == ["boilerplate"] for row in rows)


def test_headings_marks_and_single_words_stay() -> None:
    bodies = [
        f"## See also\n{BODY.format(n, n)}\n---\n```\nOverview\n<div class='x y z'>"
        for n in ("ab", "cd", "ef", "gh", "ij")
    ]
    assert texts_without_shared_lines(bodies) == bodies


def test_a_few_pages_or_a_few_of_many_share_nothing() -> None:
    line = "Home | Products | Contact us"
    few = [f"{line}\n{BODY.format(n, n)}" for n in ("ab", "cd", "ef", "gh")]
    assert texts_without_shared_lines(few) == few
    many = few[:3] + [BODY.format(*[f"x{chr(97 + n)}"] * 2) for n in range(9)]
    assert texts_without_shared_lines(many) == many


def test_versions_of_one_text_are_no_boilerplate() -> None:
    text = "\n".join(f"Article {word} of the constitution says {word}" for word in ("ab", "cd", "ef", "gh"))
    versions = [f"{text}\nChanged in version {n}" for n in range(4)]
    others = [BODY.format(*[f"x{chr(97 + n)}"] * 2) for n in range(5)]
    assert texts_without_shared_lines(versions + others) == versions + others


def test_shared_lines_are_removed_by_source_and_only_when_asked(
    make_project: Callable[..., Project], examples: Callable[[Artifact], list[dict[str, Any]]]
) -> None:
    files = {
        f"{n}.md": f"Read this with care please\n\n{BODY.format(n, n)}" for n in ("ab", "cd", "ef", "gh", "ij", "kl")
    }
    project = make_project(files, '[data.sources.a]\npath = "*.md"\n')
    assert not any("with care" in row["text"] for row in examples(run.run(project)))
    kept = run.run(config.load(project.root, ["data.clean.boilerplate=false"]))
    assert all("with care" in row["text"] for row in examples(kept))
