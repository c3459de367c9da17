"""Word documents to Markdown: headings, lists, tables and notes survive; deleted text, comments and running heads go.

The package is read as what it is, XML in a ZIP, because insertions, content controls and text boxes are text too.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element
from zipfile import ZipFile

from wyrmling.data.archives import Allowance, open_zip, read_part
from wyrmling.data.content import Content, Unreadable
from wyrmling.data.decode import decode
from wyrmling.data.hypertext import markdown_table
from wyrmling.data.markup import parse_xml, tag_of

# Deleted or moved text, the second copy of a drawing, field codes, properties.
NOT_TEXT = {"del", "moveFrom", "Fallback", "instrText", "delText", "rPr", "pPr", "sectPr", "sdtPr", "tblPr", "rt"}
BREAKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "ptab": "\t"}
HEADING = re.compile(r"(?:heading|überschrift|titre|título|titolo) ?([1-9])", re.IGNORECASE)
# Parts of an equation whose meaning is in their place.
EQUATION = {"f": "({})/({})", "sSup": "{}^({})", "sSub": "{}_({})", "sSubSup": "{}_({})^({})"}
OPERANDS = ("num", "den", "e", "sup", "sub")
OFFICE_DOCUMENT = "/officeDocument"


class Package:
    """The parts of an Office file, and how they point to each other."""

    def __init__(self, content: Content, allowance: Allowance) -> None:
        self._zip: ZipFile = open_zip(content)
        self._allowance = allowance
        self.names = set(self._zip.namelist())

    def close(self) -> None:
        self._zip.close()

    def __enter__(self) -> Package:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bytes(self, name: str) -> bytes:
        return read_part(self._zip, name, self._allowance)

    def xml(self, name: str) -> Element:
        """The root of a part. Raises Unreadable."""
        return parse_xml(decode(self.bytes(name), html=True).text)

    def targets(self, name: str) -> dict[str, tuple[str, str]]:
        """Relations of a part: id -> (type, name of the part it points to). Links out of the file are left out."""
        folder, file = posixpath.split(name)
        relations = f"{folder}/_rels/{file}.rels".lstrip("/")
        if relations not in self.names:
            return {}
        found: dict[str, tuple[str, str]] = {}
        for relation in self.xml(relations):
            if relation.get("TargetMode") != "External":
                target = posixpath.normpath(posixpath.join("/", folder, relation.get("Target", "")))
                found[relation.get("Id", "")] = (relation.get("Type", ""), target.lstrip("/"))
        return found

    def main(self) -> str:
        """The name of the main part, such as word/document.xml."""
        for kind, target in self.targets("").values():
            if kind.endswith(OFFICE_DOCUMENT):
                return target
        raise Unreadable("an Office file without a main part; save it again")

    def of_type(self, name: str, kind: str) -> str | None:
        """The part of a type, such as "/styles", that `name` points to; None when there is none."""
        return next((t for k, t in self.targets(name).values() if k.endswith(kind) and t in self.names), None)


def attribute(element: Element | None, name: str) -> str | None:
    """An attribute whatever its namespace; None without the element or the attribute."""
    if element is None:
        return None
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)


def child(element: Element | None, *names: str) -> Element | None:
    """The element at a path of children, whatever their namespaces."""
    for name in names:
        element = None if element is None else next((c for c in element if tag_of(c) == name), None)
    return element


@dataclass
class _Style:
    """What a paragraph style means: a heading of this level, or an item of this list."""

    level: int | None = None
    list_id: str | None = None


@dataclass
class _Word:
    """The parts of one document while it is turned into Markdown."""

    styles: dict[str, _Style]
    numbered: dict[tuple[str, int], bool]
    boxes: list[str] = field(default_factory=list)


def read_docx(content: Content, allowance: Allowance) -> str:
    """The document as Markdown, with its footnotes and endnotes at the end.

    Insertions, content controls and text boxes are kept, merged cells and copies of drawings come once; deletions,
    comments, headers and footers are left out. Raises Unreadable.
    """
    with Package(content, allowance) as package:
        main = package.main()
        word = _Word(_styles(package, main), _numbering(package, main))
        body = child(package.xml(main), "body")
        blocks = [] if body is None else list(_blocks(body, word))
        for kind in ("footnotes", "endnotes"):
            part = package.of_type(main, f"/{kind}")
            if part is not None:
                blocks += _notes(package.xml(part), word, kind[0])
    return _join(blocks)


def _join(blocks: list[str]) -> str:
    """Blocks between blank lines; items of a list on neighbouring lines."""
    out: list[str] = []
    for block in blocks:
        item = block.lstrip().startswith(("- ", "1. "))
        if out:
            out.append("\n" if item and out[-1].lstrip().startswith(("- ", "1. ")) else "\n\n")
        out.append(block)
    return "".join(out)


def _styles(package: Package, main: str) -> dict[str, _Style]:
    part = package.of_type(main, "/styles")
    if part is None:
        return {}
    elements = {attribute(style, "styleId") or "": style for style in package.xml(part) if tag_of(style) == "style"}
    return {name: _style(name, elements) for name in elements}


def _style(name: str, elements: dict[str, Element]) -> _Style:
    """A style with what it inherits."""
    style, seen = _Style(), set()
    while name in elements and name not in seen:
        seen.add(name)
        element = elements[name]
        called = attribute(child(element, "name"), "val") or ""
        outline = attribute(child(element, "pPr", "outlineLvl"), "val")
        if style.level is None and called.lower() == "title":
            style.level = 1
        elif style.level is None and (heading := HEADING.fullmatch(called)):
            style.level = int(heading[1])
        elif style.level is None and outline is not None and outline.isdecimal() and int(outline) < 9:
            style.level = int(outline) + 1
        style.list_id = style.list_id or attribute(child(element, "pPr", "numPr", "numId"), "val")
        name = attribute(child(element, "basedOn"), "val") or ""
    return style


def _numbering(package: Package, main: str) -> dict[tuple[str, int], bool]:
    """(list, level) -> True when its items are counted, False for bullets."""
    part = package.of_type(main, "/numbering")
    if part is None:
        return {}
    root = package.xml(part)
    kinds: dict[tuple[str | None, int], bool] = {}
    for abstract in (element for element in root if tag_of(element) == "abstractNum"):
        for level in (element for element in abstract if tag_of(element) == "lvl"):
            kind = attribute(child(level, "numFmt"), "val")
            number = int(attribute(level, "ilvl") or 0)
            kinds[attribute(abstract, "abstractNumId"), number] = kind not in ("bullet", "none")
    numbered: dict[tuple[str, int], bool] = {}
    for num in (element for element in root if tag_of(element) == "num"):
        abstract_id = attribute(child(num, "abstractNumId"), "val")
        for (owner, number), counted in kinds.items():
            if owner == abstract_id:
                numbered[attribute(num, "numId") or "", number] = counted
    return numbered


def _blocks(parent: Element, word: _Word) -> Iterator[str]:
    """Paragraphs and tables in order, through content controls and insertions."""
    for element in parent:
        name = tag_of(element)
        if name == "p":
            text = _paragraph(element, word)
            if text:
                yield text
            boxes, word.boxes = word.boxes, []
            yield from boxes
        elif name == "tbl":
            yield from _table(element, word)
        elif name == "AlternateContent":
            chosen = child(element, "Choice")
            yield from _blocks(chosen if chosen is not None else element, word)
        elif name not in NOT_TEXT:
            yield from _blocks(element, word)


def _paragraph(element: Element, word: _Word) -> str:
    text = "".join(_runs(element, word)).strip("\n")
    if not text.strip():
        return ""
    properties = child(element, "pPr")
    style = word.styles.get(attribute(child(properties, "pStyle"), "val") or "", _Style())
    outline = attribute(child(properties, "outlineLvl"), "val")
    level = int(outline) + 1 if outline is not None and outline.isdecimal() and int(outline) < 9 else style.level
    if level is not None:
        return f"{'#' * min(level, 6)} {' '.join(text.split())}"
    list_id = attribute(child(properties, "numPr", "numId"), "val") or style.list_id
    if list_id is not None and list_id != "0":
        depth = int(attribute(child(properties, "numPr", "ilvl"), "val") or 0)
        mark = "1." if word.numbered.get((list_id, depth), False) else "-"
        return f"{'  ' * depth}{mark} {text.strip()}"
    return text


def _runs(element: Element, word: _Word) -> Iterator[str]:
    """Text of a paragraph; text boxes are put aside, they are paragraphs of their own."""
    for part in element:
        name = tag_of(part)
        if name == "t":
            # m:t is the text of an equation, w:t that of a run.
            yield part.text or ""
        elif name in BREAKS:
            yield BREAKS[name]
        elif name in ("footnoteReference", "endnoteReference"):
            yield f"[^{name[0]}{attribute(part, 'id')}]"
        elif name in EQUATION:
            yield EQUATION[name].format(*("".join(_runs(inner, word)) for inner in part if tag_of(inner) in OPERANDS))
        elif name == "txbxContent":
            word.boxes += list(_blocks(part, word))
        elif name == "AlternateContent" and child(part, "Choice") is not None:
            chosen = child(part, "Choice")
            assert chosen is not None
            yield from _runs(chosen, word)
        elif name not in NOT_TEXT or (name == "Fallback" and tag_of(element) == "AlternateContent"):
            yield from _runs(part, word)


def _table(table: Element, word: _Word) -> list[str]:
    """A Markdown table. A table of one cell is only a frame: its blocks are given as they are."""
    rows = [list(_inner(row, "tc")) for row in _inner(table, "tr")]
    if [len(row) for row in rows] == [1]:
        return list(_blocks(rows[0][0], word))
    cells: list[list[str]] = []
    for row in rows:
        texts: list[str] = []
        for cell in row:
            merge = child(cell, "tcPr", "vMerge")
            above = merge is not None and attribute(merge, "val") in (None, "continue")
            span = attribute(child(cell, "tcPr", "gridSpan"), "val") or "1"
            texts.append("" if above else _cell(cell, word))
            texts += [""] * (min(int(span), 100) - 1 if span.isdecimal() else 0)
        cells.append(texts)
    text = markdown_table(cells)
    return [text] if text else []


def _inner(element: Element, name: str) -> Iterator[Element]:
    """Rows of a table or cells of a row, through content controls, but not those of a table inside."""
    for part in element:
        if tag_of(part) == name:
            yield part
        elif tag_of(part) in ("sdt", "sdtContent", "ins", "customXml", "smartTag"):
            yield from _inner(part, name)


def _cell(cell: Element, word: _Word) -> str:
    """The text of a cell on one line; the rows of a table inside it are parted by semicolons."""
    parts: list[str] = []
    for element in cell:
        if tag_of(element) == "tbl":
            rows = [[_cell(inner, word) for inner in _inner(row, "tc")] for row in _inner(element, "tr")]
            parts.append("; ".join(", ".join(text for text in row if text) for row in rows))
        elif tag_of(element) == "p":
            parts.append("".join(_runs(element, word)))
            boxes, word.boxes = word.boxes, []
            parts += boxes
        elif tag_of(element) not in NOT_TEXT and tag_of(element) != "tcPr":
            parts.append(_cell(element, word))
    return " ".join(" ".join(parts).split())


def _notes(root: Element, word: _Word, letter: str) -> Iterator[str]:
    for note in root:
        # Notes of a type are the lines that part them from the page.
        if attribute(note, "type") in (None, "normal"):
            text = " ".join(" ".join(_blocks(note, word)).split())
            if text:
                yield f"[^{letter}{attribute(note, 'id')}]: {text}"
