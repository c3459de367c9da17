"""Unicode and whitespace: mojibake repaired, NFC, no control characters, tidy line ends; PDF line breaks undone."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from wyrmling.data.rows import Row

# C0 and C1 but tab and newline; soft hyphen, zero-width space, word joiner, inner byte order mark, noncharacters.
# Zero-width joiner and non-joiner (U+200C, U+200D) carry meaning in Persian, Indic scripts and emoji: they stay.
INVISIBLE = "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ufffe\uffff"
NEWLINES = "\x0b\x0c\x85\u2028\u2029"
SPACES = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f"
ODD = re.compile(f"[{INVISIBLE}{NEWLINES}{SPACES}]")
PLAIN_FOR = dict.fromkeys(NEWLINES, "\n") | dict.fromkeys(SPACES, " ")
TERMINAL = re.compile(r"\x1b\[[\d;]*[A-Za-z]")  # colours and the like, as programs print them
NUMBER = re.compile(r"\d+")
LINE_END = re.compile(r"[ \t]+(?=\n)")
BLANK_LINES = re.compile(r"\n{3,}")
PLAIN = re.compile(r"[\t\n\x20-\x25\x27-\x7e]*")  # ASCII without control characters and without &
TYPOGRAPHY = re.compile("[\x00-\x7f‘’“”–—…]*")
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
    if "\x1b" in text:
        text = TERMINAL.sub("", text)
    text = _fix(text, entities)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return ODD.sub(lambda odd: PLAIN_FOR.get(odd[0], ""), text)


def tidy_space(text: str, *, indented: bool = False) -> str:
    """The text without spaces at line ends, with at most one blank line in a row, and no outer white space.

    indented  True keeps the spaces before the first word
    """
    # To look for the plain string first is twenty times as fast as the pattern.
    if " \n" in text or "\t\n" in text:
        text = LINE_END.sub("", text)
    if "\n\n\n" in text:
        text = BLANK_LINES.sub("\n\n", text)
    return text.strip("\n").rstrip() if indented else text.strip()


def clean_word(word: str) -> str:
    """The word cleaned; one that is nothing but invisible characters becomes U+FFFD, so that it keeps its tag."""
    cleaned = repair_characters(word, entities=False)
    return "".join(cleaned.split()) or "\ufffd"


def _fix(text: str, entities: bool) -> str:
    """ftfy on each line that could need it; it is slow, and few lines do."""
    entities = entities and "&" in text and "<" not in text
    if not entities and TYPOGRAPHY.fullmatch(text):
        return text
    width = CJK.search(text) is None
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if (entities and "&" in line) or not (line.isascii() or TYPOGRAPHY.fullmatch(line) or _is_whole(line, width)):
            lines[number] = _fix_line(line, entities, width)
    return "\n".join(lines)


def _is_whole(line: str, width: bool) -> bool:
    start, suspect = _suspects(width)
    return (start.search(line) is None or suspect.search(line) is None) and unicodedata.is_normalized("NFC", line)


@lru_cache
def _suspects(width: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What ftfy may change in a line: UTF-8 read in another encoding, control characters, ligatures, full width.

    The first pattern says quickly for most lines that the second has nothing to find.

    The first byte of a sequence can only be followed by continuation bytes, or by what is left of one: a space for a
    no-break space, a replacement character, a question mark (`ALTERED_UTF8_RE` and `LOSSY_UTF8_RE` of ftfy.chardata).
    """
    from ftfy import chardata

    def chars(*numbers: int) -> str:
        raw = bytes(numbers)
        found = {char for name in chardata.CHARMAP_ENCODINGS for char in raw.decode(name, "ignore")}
        return "".join(map(re.escape, sorted(found)))

    two, three, four = chars(*range(0xC0, 0xE0)), chars(*range(0xE0, 0xF0)), chars(*range(0xF0, 0xF5))
    rest = chars(*range(0x80, 0xC0)) + "\x1a\ufffd"
    altered = chars(0xC2, 0xC3, 0xC5, 0xCE, 0xD0, 0xD9)
    wide = chardata.WIDTH_MAP if width else ()
    single = "".join(re.escape(chr(code)) for code in [*chardata.LIGATURES, *wide]) + "\x1a\x7f-\x9f"
    return re.compile(f"[{two}{three}{four}{single}]"), re.compile(
        f"[{two}][{rest}]|[{altered}][ ?]|[{three}][{rest} ?]{{2}}|[{four}][{rest} ?]{{3}}|[{single}]"
    )


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
        seen.update({line_form(line) for line in _edges(page.text.split("\n"))})
    repeated = {form for form, count in seen.items() if form and count > EDGE_SHARE * len(pages)}
    if repeated:
        for page in pages:
            page.rewrite("running_head", lambda text: _without(text, repeated))


def _edges(lines: list[str]) -> list[str]:
    lines = [line for line in lines if line.strip()]
    return lines[:EDGE_LINES] + lines[EDGE_LINES:][-EDGE_LINES:]


def line_form(line: str) -> str:
    """The form in which lines of several pages count as the same: numbers as #."""
    return NUMBER.sub("#", line.strip())


def _without(text: str, repeated: set[str]) -> str:
    lines = text.split("\n")
    filled = [n for n, line in enumerate(lines) if line.strip()]
    edges = {*filled[:EDGE_LINES], *filled[EDGE_LINES:][-EDGE_LINES:]}
    return "\n".join(line for n, line in enumerate(lines) if n not in edges or line_form(line) not in repeated).strip()
