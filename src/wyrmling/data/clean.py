"""Unicode and whitespace: mojibake repaired, NFC, no control characters, tidy line ends; PDF line breaks undone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from wyrmling.data.rows import Row

# C0 and C1 but tab and newline; soft hyphen, zero-width space, word joiner, inner byte order mark, noncharacters.
# Zero-width joiner and non-joiner (U+200C, U+200D) carry meaning in Persian, Indic scripts and emoji: they stay.
INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff\ufffe\uffff]")
NEWLINES = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")
LINE_END = re.compile(r"[ \t]+(?=\n)")
BLANK_LINES = re.compile(r"\n{3,}")
PLAIN = re.compile(r"[\t\n\x20-\x25\x27-\x7e]*")  # ASCII without control characters and without &
CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")

# PDFium gives U+FFFE for a hyphen at a line end, with or without the break after it; a plain "-" there never came up.
SOFT_BREAK = re.compile("\ufffe[ \t]*\r?\n?")

# Families whose text is markup or was decoded from it: an entity in it is meant.
NO_ENTITIES = (
    "html", "md", "pdf", "docx", "pptx", "odt", "rtf", "epub", "eml", "mbox", "msg", "ipynb", "xml", "rst", "code",
)  # fmt: skip


def clean_row(row: Row, *, code: bool = False) -> None:
    """Clean every text of a row in place, by the rules "hyphens" (PDF), "unicode" and "whitespace".

    code   True for source code: indentation and entities are left alone
    """
    if row.kind == "tagged":
        # A word must stay one word: its tag belongs to it.
        row.rewrite("unicode", clean_word)
        return
    if row.family == "pdf":
        row.rewrite("hyphens", join_hyphens)
    entities = not code and row.family not in NO_ENTITIES
    row.rewrite("unicode", lambda text: repair_characters(text, entities=entities))
    row.rewrite("whitespace", lambda text: tidy_space(text, indented=code))


def clean_text(text: str) -> str:
    """The text with its characters repaired and its white space tidied."""
    return tidy_space(repair_characters(text))


def repair_characters(text: str, *, entities: bool = True) -> str:
    """The text in NFC with mojibake undone, \\n line ends, plain spaces and nothing invisible.

    entities  True also decodes HTML entities, where the text has no "<"
    """
    if PLAIN.fullmatch(text):
        return text
    text = _fix(text, entities)
    text = NEWLINES.sub("\n", text)
    text = INVISIBLE.sub("", text)
    return SPACES.sub(" ", text)


def tidy_space(text: str, *, indented: bool = False) -> str:
    """The text without spaces at line ends, with at most one blank line in a row, and no outer white space.

    indented  True keeps the spaces before the first word
    """
    text = LINE_END.sub("", text)
    text = BLANK_LINES.sub("\n\n", text)
    return text.strip("\n").rstrip() if indented else text.strip()


def clean_word(word: str) -> str:
    """The word cleaned; one that is nothing but invisible characters becomes U+FFFD, so that it keeps its tag."""
    cleaned = repair_characters(word, entities=False)
    return "".join(cleaned.split()) or "\ufffd"


def _fix(text: str, entities: bool) -> str:
    """ftfy on each line that could need it; it is slow, and most lines of most languages' files are plain."""
    entities = entities and "&" in text and "<" not in text
    if text.isascii() and not entities:
        return text
    width = CJK.search(text) is None
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not line.isascii() or (entities and "&" in line):
            lines[number] = _fix_line(line, entities, width)
    return "\n".join(lines)


def _fix_line(line: str, entities: bool, width: bool) -> str:
    import ftfy

    fixed, steps = ftfy.fix_and_explain(line, _config(entities, width, True))
    # Read as Mac Roman, a closing quote before a letter, as Swedish opens with one, is a valid but wrong "ӎ".
    if any(step.parameter == "macroman" for step in steps or ()):
        fixed, _ = ftfy.fix_and_explain(line, _config(entities, width, False))
    return str(fixed)


@lru_cache
def _config(entities: bool, width: bool, encoding: bool) -> Any:
    import ftfy

    # Curly quotes are the author's; full-width letters belong in Chinese, Japanese and Korean text.
    return ftfy.TextFixerConfig(
        uncurl_quotes=False,
        fix_character_width=width,
        unescape_html=entities,
        fix_encoding=encoding,
        remove_control_chars=False,
    )


def repair_surrogates(text: str) -> str:
    """The text without lone surrogates, which no file can hold: pairs joined, others U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def join_hyphens(text: str) -> str:
    """A PDF page's text with words that were cut at line ends in one piece again."""
    return SOFT_BREAK.sub("", text)


# assumption: a running head or foot is within the first or last 3 lines, on more than 30 % of at least 5 pages.
EDGE_LINES, EDGE_SHARE, EDGE_MIN_PAGES = 3, 0.3, 5


def drop_running_heads(pages: Sequence[Row]) -> None:
    """Remove headers, footers and page numbers from the pages of one PDF, in place, by the rule "running_head"."""
    if len(pages) < EDGE_MIN_PAGES:
        return
    seen: Counter[str] = Counter()
    for page in pages:
        seen.update({_line_form(line) for line in _edges(page.text.split("\n"))})
    repeated = {form for form, count in seen.items() if form and count > EDGE_SHARE * len(pages)}
    if repeated:
        for page in pages:
            page.rewrite("running_head", lambda text: _without(text, repeated))


def _edges(lines: list[str]) -> list[str]:
    lines = [line for line in lines if line.strip()]
    return lines[:EDGE_LINES] + lines[EDGE_LINES:][-EDGE_LINES:]


def _line_form(line: str) -> str:
    return re.sub(r"\d+", "#", line.strip())


def _without(text: str, repeated: set[str]) -> str:
    lines = text.split("\n")
    filled = [n for n, line in enumerate(lines) if line.strip()]
    edges = {*filled[:EDGE_LINES], *filled[EDGE_LINES:][-EDGE_LINES:]}
    return "\n".join(line for n, line in enumerate(lines) if n not in edges or _line_form(line) not in repeated).strip()


# assumption: boilerplate is a line of two words or more on over 30 % of at least 5 pages of a source.
PAGED = frozenset({"html", "pdf", "md", "docx", "pptx", "odt", "rtf", "epub", "eml", "mbox", "msg"})
COPY_SHARE = 0.5
TWO_WORDS = re.compile(r"[^\W\d_]{2,}.*\s\W*[^\W\d_]{2,}")
MARKUP = ("#", "<", "|", "`", "~")


def drop_boilerplate(pages: Sequence[Row]) -> None:
    """Remove lines that many pages of one source share, in place, by the rule "boilerplate".

    Headings and other marks of Markdown and HTML stay. Pages that consist of shared lines are versions of one another,
    which is for the de-duplication to judge: they don't count and are not touched.
    """
    forms = [{_line_form(line) for line in page.text.split("\n") if _may_be_boilerplate(line)} for page in pages]
    repeated = _repeated_forms(forms)
    if not repeated:
        return
    own = [n for n, page in enumerate(pages) if not _is_copy(page.text, repeated)]
    repeated = _repeated_forms([forms[n] for n in own])
    for n in own if repeated else ():
        pages[n].rewrite("boilerplate", lambda text: _without_lines(text, repeated))


def _may_be_boilerplate(line: str) -> bool:
    return TWO_WORDS.search(line) is not None and not line.lstrip().startswith(MARKUP)


def _repeated_forms(forms: Sequence[set[str]]) -> set[str]:
    if len(forms) < EDGE_MIN_PAGES:
        return set()
    seen = Counter(form for of_page in forms for form in of_page)
    return {form for form, count in seen.items() if count > EDGE_SHARE * len(forms)}


def _is_copy(text: str, repeated: set[str]) -> bool:
    shared = sum(len(line) for line in text.split("\n") if _line_form(line) in repeated)
    return shared > COPY_SHARE * len(text)


def _without_lines(text: str, repeated: set[str]) -> str:
    return BLANK_LINES.sub(
        "\n\n", "\n".join(line for line in text.split("\n") if _line_form(line) not in repeated)
    ).strip()
