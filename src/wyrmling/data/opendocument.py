"""OpenDocument texts and presentations, and EPUB books, to Markdown: markup in a ZIP."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from wyrmling.data.archives import Allowance
from wyrmling.data.content import Content, Unreadable
from wyrmling.data.decode import decode
from wyrmling.data.hypertext import html_text, markdown_table
from wyrmling.data.markup import tag_of
from wyrmling.data.office import Package, attribute, child
from wyrmling.data.tables import Found, Item, Problem

LOCKED = "protected by a password; save a copy without one"
# What was deleted, notes of reviewers, entries that a program fills in, what is drawn and not written.
NOT_TEXT = {"tracked-changes", "annotation", "sequence-decls", "variable-decls", "forms", "desc", "title", "image"}


def read_odf(content: Content, allowance: Allowance) -> str:
    """The text or the slides as Markdown: headings, lists, tables, notes. Raises Unreadable."""
    with Package(content, allowance) as package:
        manifest = "META-INF/manifest.xml"
        if manifest in package.names and b"encryption-data" in package.bytes(manifest):
            raise Unreadable(LOCKED)
        root = package.xml("content.xml")
    body = child(root, "body")
    return "\n\n".join(_blocks(body, 0)) if body is not None else ""


def _blocks(parent: Element, depth: int) -> Iterator[str]:
    for element in parent:
        name = tag_of(element)
        if name in NOT_TEXT:
            continue
        if name == "h":
            level = attribute(element, "outline-level") or "1"
            words = " ".join("".join(_runs(element)).split())
            if words:
                yield f"{'#' * min(int(level) if level.isdecimal() else 1, 6)} {words}"
        elif name == "p":
            text = "".join(_runs(element)).strip("\n")
            if text.strip():
                yield text
        elif name == "list":
            items = [item for item in element if tag_of(item) in ("list-item", "list-header")]
            if lines := [line for item in items for line in _item(item, depth)]:
                yield "\n".join(lines)
        elif name == "table":
            if text := markdown_table(_rows(element)):
                yield text
        else:
            yield from _blocks(element, depth)


def _item(item: Element, depth: int) -> Iterator[str]:
    for n, block in enumerate(_blocks(item, depth + 1)):
        # A list in the item comes with its own marks.
        inner = block.lstrip().startswith("- ")
        yield block if inner else f"{'  ' * depth}{'- ' if n == 0 else '  '}{block}"


def _rows(table: Element) -> list[list[str]]:
    rows: list[list[str]] = []
    for part in table:
        if tag_of(part) == "table-row":
            cells: list[str] = []
            for cell in part:
                if tag_of(cell) in ("table-cell", "covered-table-cell"):
                    text = " ".join(" ".join(_blocks(cell, 0)).split())
                    times = attribute(cell, "number-columns-repeated") or "1"
                    cells += [text] * (min(int(times), 100) if times.isdecimal() and text else 1)
            rows.append(cells)
        elif tag_of(part) in ("table-header-rows", "table-rows", "table-row-group"):
            rows += _rows(part)
    return rows


def _runs(element: Element) -> Iterator[str]:
    """Text in the order it is read; a note comes in brackets where it is called."""
    yield element.text or ""
    for part in element:
        name = tag_of(part)
        if name == "s":
            count = attribute(part, "c") or "1"
            yield " " * (min(int(count), 100) if count.isdecimal() else 1)
        elif name == "tab":
            yield "\t"
        elif name == "line-break":
            yield "\n"
        elif name == "note":
            body = child(part, "note-body")
            yield f" [{' '.join(' '.join(_blocks(body, 0)).split())}]" if body is not None else ""
        elif name in ("frame", "text-box", "custom-shape"):
            yield "\n" + "\n".join(_blocks(part, 0))
        elif name not in NOT_TEXT:
            yield from _runs(part)
        yield part.tail or ""


def read_epub(content: Content, allowance: Allowance) -> Found:
    """Each chapter as a document, in the order of reading; the table of contents is left out. Raises Unreadable."""
    with Package(content, allowance) as package:
        if "META-INF/encryption.xml" in package.names and b"EncryptedKey" in package.bytes("META-INF/encryption.xml"):
            raise Unreadable("the book is protected (DRM); a copy without protection is needed")
        container = package.xml("META-INF/container.xml")
        rootfile = next((e for e in container.iter() if tag_of(e) == "rootfile"), None)
        name = rootfile.get("full-path", "") if rootfile is not None else ""
        book = package.xml(name)
        items = {e.get("id"): e for e in book.iter() if tag_of(e) == "item"}
        spine = [items.get(e.get("idref")) for e in book.iter() if tag_of(e) == "itemref"]
        for number, item in enumerate(spine, 1):
            if item is None or "nav" in item.get("properties", "").split():
                continue
            part = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(item.get("href", ""))))
            try:
                text = html_text(decode(package.bytes(part), html=True).text, whole=True)
            except Unreadable as error:
                yield Problem(f" chapter {number}", str(error))
                continue
            if text.strip():
                yield Item(f" chapter {number}", text)
