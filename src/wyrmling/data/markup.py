"""Readers of marked-up text: XML, RSS and Atom, reStructuredText, notebooks."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from wyrmling.config import Source
from wyrmling.data.content import Unreadable
from wyrmling.data.hypertext import html_text
from wyrmling.data.tables import Found, FoundTables, Item, Problem, Table

DOCTYPE = re.compile(r"\ufeff?\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*<!DOCTYPE[^\[>]*(\[)?", re.DOTALL)
NAMED_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)([a-zA-Z][a-zA-Z0-9]*);")


def parse_xml(text: str) -> ElementTree.Element:
    """The root of an XML text. Raises Unreadable when it is not well-formed, or declares entities, which could grow."""
    declared = DOCTYPE.match(text)
    if declared is not None and declared[1]:
        raise Unreadable("the XML declares its own entities, which is refused; save it without a DOCTYPE")
    if declared is not None:
        import html

        # The external DTD that would define them is never fetched.
        text = NAMED_ENTITY.sub(lambda found: html.unescape(found[0]), text)
    try:
        return ElementTree.fromstring(text.lstrip("\ufeff \t\r\n"))
    except ElementTree.ParseError as error:
        raise Unreadable(f"not well-formed XML: {error}") from error


def tag_of(element: ElementTree.Element) -> str:
    """The element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


def read_xml(text: str, source: Source) -> FoundTables:
    """Entries of a feed; elements that have the named columns as children; repeated records; else all of its text.

    A record is {child or @attribute: text} of an element whose children hold text only.
    """
    root = parse_xml(text)
    if tag_of(root) in ("rss", "RDF", "feed"):
        yield from _entries(root)
        return
    named = [name for name in (source.text, source.label, source.prompt, source.response) if name is not None]
    if named:
        rows = [Item(f" {place}", record) for place, record in _records(root) if all(name in record for name in named)]
        if not rows:
            yield Problem("", f"no element has {' and '.join(named)} as children or attributes (@name)")
            return
        yield Table("", rows, list)
        return
    rows = [Item(f" {place}", record) for place, record in _repeated(root)]
    yield Table("", rows, lambda: [Item("", _blocks(root))])


def _records(root: ElementTree.Element) -> Iterator[tuple[str, dict[str, Any]]]:
    """Elements with children, each with its place "tag 3" and the texts of its children and attributes."""
    count: Counter[str] = Counter()
    for element in root.iter():
        if len(element) and isinstance(element.tag, str):
            count[tag_of(element)] += 1
            record: dict[str, Any] = {f"@{name}": value for name, value in element.attrib.items()}
            for child in element:
                record.setdefault(tag_of(child), " ".join("".join(child.itertext()).split()))
            yield f"{tag_of(element)} {count[tag_of(element)]}", record


def _repeated(root: ElementTree.Element) -> list[tuple[str, dict[str, Any]]]:
    """The records of the most frequent tag that has two or more different children, all of text only."""
    flat: Counter[str] = Counter()
    for parent in root.iter():
        tags = Counter(tag_of(child) for child in parent if _is_flat(child))
        # One alone counts when it is in an element named for more, as a QAPair in QAPairs.
        flat.update({tag: n for tag, n in tags.items() if n > 1 or tag_of(parent).lower().startswith(tag.lower())})
    if not flat:
        return []
    ((most, _),) = flat.most_common(1)
    return [(place, record) for place, record in _records(root) if place.rpartition(" ")[0] == most]


def _is_flat(element: ElementTree.Element) -> bool:
    return len({tag_of(child) for child in element}) > 1 and not any(len(child) for child in element)


def _blocks(root: ElementTree.Element) -> str:
    """All text, an element without child elements, or with text of its own around them, on a line of its own."""
    lines: list[str] = []

    def walk(element: ElementTree.Element) -> None:
        mixed = (element.text or "").strip() or any((child.tail or "").strip() for child in element)
        if mixed or not len(element):
            lines.append(" ".join("".join(element.itertext()).split()))
        else:
            for child in element:
                walk(child)

    walk(root)
    return "\n".join(line for line in lines if line)


def _entries(root: ElementTree.Element) -> Found:
    """Items of RSS and entries of Atom: title as heading, then the fullest text that there is."""
    entries = [element for element in root.iter() if tag_of(element) in ("item", "entry")]
    for number, entry in enumerate(entries, 1):
        parts: dict[str, str] = {}
        for child in entry:
            # An Atom text of type xhtml is made of elements, any other is a string.
            inner = "".join(child.itertext()) if not len(child) else _blocks(child)
            parts.setdefault(tag_of(child), inner.strip())
        body = max((parts.get(name, "") for name in ("encoded", "content", "description", "summary")), key=len)
        body = html_text(f"<body>{body}</body>", whole=True) if "<" in body or "&" in body else body
        title = " ".join(parts.get("title", "").split())
        yield Item(f" item {number}", "\n\n".join(part for part in (f"# {title}" if title else "", body) if part))
    if not entries:
        yield Problem("", "the feed has no items")


RST_RULE = re.compile(r"([=\-`:'\"~^_*+#<>.])\1*[ \t]*")
RST_COMMENT = re.compile(r"\.\.(?![ \t]+\S+::|[ \t]+[_|\[])(?:[ \t].*)?")


def rst_markdown(text: str) -> str:
    """reStructuredText with Markdown headings in place of underlined titles, and without comments."""
    lines = text.splitlines()
    levels: list[str] = []
    out: list[str] = []
    n = 0
    while n < len(lines):
        over = n + 2 < len(lines) and _is_rule(lines[n], lines[n + 1]) and lines[n].rstrip() == lines[n + 2].rstrip()
        under = not over and n + 1 < len(lines) and _is_rule(lines[n + 1], lines[n])
        if over or under:
            style = lines[n][0] * 2 if over else lines[n + 1][0]
            levels += [] if style in levels else [style]
            title = lines[n + 1] if over else lines[n]
            out.append(f"{'#' * min(levels.index(style) + 1, 6)} {title.strip()}")
            n += 3 if over else 2
        elif RST_COMMENT.fullmatch(lines[n]):
            n += 1
            while n < len(lines) and lines[n][:1] in (" ", "\t"):
                n += 1
        else:
            out.append(lines[n])
            n += 1
    return "\n".join(out) + "\n"


def _is_rule(line: str, title: str) -> bool:
    """True when `line` underlines `title`: one sign repeated, at least as long, beside a line of text."""
    rule = RST_RULE.fullmatch(line)
    words = title.strip()
    return rule is not None and bool(words) and not RST_RULE.fullmatch(words) and len(line.rstrip()) >= len(words)


def read_ipynb(text: str) -> Found:
    """A notebook as one document: its Markdown as it is, its code in fences; outputs are left out."""
    try:
        book = json.loads(text)
        cells = book["cells"] if "cells" in book else [cell for sheet in book["worksheets"] for cell in sheet["cells"]]
        language = str((book.get("metadata", {}).get("kernelspec") or {}).get("language", "python"))
        parts = [_cell(cell, language) for cell in cells]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(f"not a readable notebook ({error}); save it again with Jupyter") from error
    yield Item("", "\n\n".join(part for part in parts if part))


def _cell(cell: dict[str, Any], language: str) -> str:
    code = cell["cell_type"] == "code"
    content = cell.get("source", cell.get("input", ""))
    text = ("".join(content) if isinstance(content, list) else str(content)).strip("\n")
    return f"```{language}\n{text}\n```" if code and text.strip() else text
