from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrmling.config import Source
from wyrmling.data.content import Content
from wyrmling.data.documents import (
    LONG_TEXT_CHARS,
    PASSAGE_CHARS,
    looks_like_conll,
    read_conll,
    read_html,
    read_md,
    read_pdf,
    read_txt,
)
from wyrmling.data.tables import Item, Problem, Sentence

MakePdf = Callable[..., bytes]


def test_a_text_file_is_one_document_or_the_parts_between_separators() -> None:
    text = "one\ntwo\n<|end|>\n\nthree\n<|end|>\n"
    assert list(read_txt(text, Source(path="x"), alone=True)) == [Item("", text)]
    parts = list(read_txt(text, Source(path="x", separator="<|end|>"), alone=True))
    assert parts == [Item(":1", "one\ntwo", (1, 2)), Item(":5", "three", (5, 5))]


def test_a_long_text_that_is_alone_is_cut_at_blank_lines_and_nothing_is_lost() -> None:
    paragraph = "word " * 199 + "end"
    text = "\n\n".join(f"{n} {paragraph}" for n in range(100))
    assert len(text) > LONG_TEXT_CHARS
    (whole,) = read_txt(text, Source(path="x"), alone=False)
    assert whole == Item("", text)
    parts = [item.value for item in read_txt(text, Source(path="x"), alone=True) if isinstance(item, Item)]
    assert "\n\n".join(str(part) for part in parts) == text
    assert all(PASSAGE_CHARS <= len(str(part)) < PASSAGE_CHARS + 1100 for part in parts[:-1])


@given(st.lists(st.sampled_from(["a", "b " * 9000, "\n", "\n\n", "c\n" * 4000]), min_size=12, max_size=30))
def test_cutting_into_passages_keeps_every_word(pieces: list[str]) -> None:
    text = "".join(pieces)
    parts = [str(item.value) for item in read_txt(text, Source(path="x"), alone=True) if isinstance(item, Item)]
    assert " ".join(parts).split() == text.split() or len(text) <= LONG_TEXT_CHARS


def test_front_matter_of_markdown_is_not_text() -> None:
    (item,) = read_md("---\ntitle: x\n---\n# Head\n\n---\nbody\n", Source(path="x"), alone=True)
    assert item == Item("", "# Head\n\n---\nbody\n")


def test_html_gives_its_main_text_without_scripts_and_navigation() -> None:
    body = "<p>The card arrives within five working days after you have ordered it in the app.</p>" * 3
    head = "<html><head><script>x=1</script></head><body><nav><a>Home</a></nav>"
    page = f"{head}<main><h1>Cards</h1>{body}</main></body></html>"
    (item,) = read_html(page)
    assert isinstance(item, Item)
    assert "Cards" in str(item.value)
    assert str(item.value).count("five working days") == 3
    assert "x=1" not in str(item.value)
    assert "Home" not in str(item.value)


def test_a_page_of_short_list_items_is_not_lost() -> None:
    items = "".join(f"<li><a href='p{n}.html'>Term {n}</a></li>" for n in range(50))
    (item,) = read_html(f"<html><body><p>Index.</p><ul>{items}</ul></body></html>")
    assert isinstance(item, Item)
    assert "Term 49" in str(item.value)


def test_each_pdf_page_is_read_and_a_page_without_text_says_why(make_pdf: MakePdf, tmp_path: Path) -> None:
    path = tmp_path / "x.pdf"
    path.write_bytes(make_pdf(["First page\nof two lines", None, ""]))
    first, scan, blank = read_pdf(Content("x.pdf", path))
    assert isinstance(first, Item)
    assert str(first.value).split() == ["First", "page", "of", "two", "lines"]
    assert isinstance(scan, Problem)
    assert "needs_ocr" in scan.message
    assert (first.place, scan.place, blank) == (" page 1", " page 2", Item(" page 3", ""))


def test_a_locked_and_a_broken_pdf_say_what_is_wrong(make_pdf: MakePdf, tmp_path: Path) -> None:
    path = tmp_path / "x.pdf"
    path.write_bytes(make_pdf(["secret"], locked=True))
    (problem,) = read_pdf(Content("x.pdf", path))
    assert isinstance(problem, Problem)
    assert "protected by a password" in problem.message
    path.write_bytes(b"%PDF-1.4 nothing more")
    (problem,) = read_pdf(Content("x.pdf", path))
    assert isinstance(problem, Problem)
    assert "not a readable PDF" in problem.message


def test_conll_sentences_end_at_blank_lines_even_with_a_tab_in_them() -> None:
    text = "-DOCSTART- O\n\nEU\tB-ORG\nsaid\tO\n\t\nin\tO\nNew\tB-LOC\nYork\tI-LOC"
    assert list(read_conll(text)) == [
        Item(":3", Sentence(["EU", "said"], ["B-ORG", "O"]), (3, 4)),
        Item(":6", Sentence(["in", "New", "York"], ["O", "B-LOC", "I-LOC"]), (6, 8)),
    ]


def test_a_word_without_a_tag_is_a_problem_named_by_its_line() -> None:
    found = list(read_conll("a O\nb\n\nc O\n"))
    assert found == [
        Problem(":2", "a word and its tag are expected, found 1 column", (2, 2)),
        Item(":4", Sentence(["c"], ["O"]), (4, 4)),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\tO\nb\tB-x\n", True), ("text\tlabel\nhello\tO\n", False), ("Only prose.\nMore of it.\n", False), ("", False)],
)
def test_word_and_tag_files_are_told_from_tables_and_prose(text: str, expected: bool) -> None:
    assert looks_like_conll(text) is expected
