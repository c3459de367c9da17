"""Readers of running text: plain text, Markdown, HTML, PDF; and of CoNLL files, one word and its tag per line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from wyrmling.config import Source
from wyrmling.data.content import MAX_BYTES, Content, Unreadable
from wyrmling.data.hypertext import html_text
from wyrmling.data.tables import Found, Item, Problem, Sentence

FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
BIO_TAG = re.compile(r"O|[BIESLU]-\S+")

# PDFium's FPDF_ERR_FORMAT and FPDF_ERR_PASSWORD (fpdfview.h).
PDF_FORMAT_ERROR, PDF_PASSWORD_ERROR = 3, 4


# assumption: a text this long is a book or a whole corpus in one file; a passage is several contexts long.
LONG_TEXT_CHARS, PASSAGE_CHARS = 50_000, 10_000
PASSAGE_END = re.compile(r"\n\s*\n|\Z")


def read_txt(text: str, source: Source, *, alone: bool, line: int = 1) -> Found:
    """The whole text, or its parts between `separator`; then place is the line where a part starts.

    line   where the text starts in its file
    alone  True when the file is all that its source has: a long text is cut into passages at blank lines, because
           from a single document nothing could be held out
    """
    if source.separator is not None:
        yield from _parts(text.split(source.separator), source.separator.count("\n"), line)
    elif alone and len(text) > LONG_TEXT_CHARS:
        yield from _parts(_passages(text), 0, line)
    else:
        yield Item("", text)


def _parts(parts: Iterable[str], between: int, line: int) -> Found:
    for part in parts:
        if text := part.strip():
            start = line + part.count("\n", 0, len(part) - len(part.lstrip()))
            yield Item(f":{start}", text, (start, start + text.count("\n")))
        line += part.count("\n") + between


def _passages(text: str) -> Iterator[str]:
    """The text cut at the first blank line after each PASSAGE_CHARS; at a line end when none comes soon."""
    start = 0
    while start < len(text):
        least = start + PASSAGE_CHARS
        blank = PASSAGE_END.search(text, least)
        end = blank.end() if blank else len(text)
        if end > least + PASSAGE_CHARS:
            end = text.find("\n", least) + 1 or len(text)
        yield text[start:end]
        start = end


def long_txt(lines: Iterable[str], source: Source) -> Found:
    """As `read_txt` for a text that is too large to be held: the parts between lines with `separator`, or passages.

    Raises Unreadable when a part is larger than a document may be.
    """
    separator = source.separator.strip("\n") if source.separator else None
    held: list[str] = []
    size, start = 0, 1
    for number, line in enumerate(lines, 1):
        ends = separator in line if separator else size >= PASSAGE_CHARS and not line.strip()
        if ends or (separator is None and size >= 2 * PASSAGE_CHARS):
            before, _, line = line.partition(separator) if separator else ("", "", line)
            if text := "".join([*held, before]).strip():
                yield Item(f":{start}", text, (start, number if separator else number - 1))
            held, size, start = [], 0, number
        held.append(line)
        size += len(line)
        if size > MAX_BYTES:
            raise Unreadable(f"the part from line {start} on is larger than {MAX_BYTES // 2**20} MB")
    if text := "".join(held).strip():
        yield Item(f":{start}", text, (start, start + len(held) - 1))


def read_md(text: str, source: Source, *, alone: bool) -> Found:
    """Markdown as it is, read like plain text, without a YAML front matter: that is metadata."""
    text = text.replace("\r\n", "\n")
    front = FRONT_MATTER.match(text)
    start = front.end() if front else 0
    return read_txt(text[start:], source, alone=alone, line=1 + text.count("\n", 0, start))


def read_html(text: str) -> Found:
    """The main text of the page, without navigation; all of its text when hardly any is found to be the main part."""
    yield Item("", html_text(text))


def read_pages(pages: Iterable[str]) -> Found:
    """Each text as a document with its number; for files that give their parts in order, such as chapters."""
    for number, text in enumerate(pages, 1):
        if text.strip():
            yield Item(f" part {number}", text)


def in_parts(text: str, *, alone: bool) -> Found:
    """The text of a document without line numbers, in passages when it is long and all that its source has."""
    if not text.strip():
        yield Problem("", "the document has no text; if it holds pictures of text (needs_ocr), run OCR first")
    elif alone and len(text) > LONG_TEXT_CHARS:
        yield from read_pages(_passages(text))
    else:
        yield Item("", text)


def read_pdf(content: Content) -> Found:
    """The text of each page. A page of images only is a problem: it needs OCR, which wyrmling does not do."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(content.path or content.raw)
    except pypdfium2.PdfiumError as error:
        code = getattr(error, "err_code", None)
        if code == PDF_PASSWORD_ERROR:
            yield Problem("", "the PDF is protected by a password; save a copy without one")
        else:
            yield Problem("", "not a readable PDF" if code == PDF_FORMAT_ERROR else f"the PDF can't be opened: {error}")
        return
    try:
        for number in range(len(document)):
            yield _page(document, number)
    finally:
        document.close()


def _page(document: Any, number: int) -> Item | Problem:
    import pypdfium2

    place = f" page {number + 1}"
    try:
        page = document[number]
        words = page.get_textpage().get_text_range()
        if not words.strip() and any(True for _ in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE])):
            return Problem(place, "the page is a picture without text (needs_ocr); run OCR first")
    except pypdfium2.PdfiumError as error:
        return Problem(place, f"the page can't be read: {error}")
    return Item(place, words)


def read_conll(text: str) -> Found:
    """Sentences of one word per line, tag in the last column, separated by blank lines; place is the first line."""
    words: list[str] = []
    tags: list[str] = []
    start, problem = 0, None
    for number, line in enumerate([*text.split("\n"), ""], 1):
        # WNUT-17 separates sentences by a line that holds one tab.
        if not line.strip() or line.startswith("-DOCSTART-"):
            if problem is not None:
                yield problem
            elif words:
                yield Item(f":{start}", Sentence(words, tags), (start, number - 1))
            words, tags, problem = [], [], None
            continue
        start = start if words else number
        cells = line.rstrip("\r").split("\t") if "\t" in line else line.split()
        cells = [cell.strip() for cell in cells if cell.strip()]
        if len(cells) < 2:
            problem = problem or Problem(
                f":{number}", f"a word and its tag are expected, found {len(cells)} column", (number, number)
            )
        words.append(cells[0])
        tags.append(cells[-1])


def looks_like_conll(text: str) -> bool:
    """True when the first 50 lines that are not blank all end in a BIO tag after the word, and some tag is not O."""
    lines = [line for line in text[:20_000].split("\n")[:-1] if line.strip()][:50]
    tags = [line.split()[-1] for line in lines]
    return (
        len(lines) >= 2
        and all(len(line.split()) >= 2 for line in lines)
        and all(BIO_TAG.fullmatch(tag) for tag in tags)
        and "O" in tags
    )
