"""PowerPoint slides to Markdown, in the order of the show: titles, text in groups, tables, charts and notes."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from wyrmling.data.archives import Allowance
from wyrmling.data.content import Content, Unreadable
from wyrmling.data.hypertext import markdown_table
from wyrmling.data.markup import tag_of
from wyrmling.data.office import Package, attribute, child
from wyrmling.data.tables import Found, Item, Problem

TITLES = ("title", "ctrTitle")
# Repeated on each slide: date, footer, number of the slide, picture of the slide above its notes.
FURNITURE = ("dt", "ftr", "sldNum", "sldImg", "hdr")


def read_pptx(content: Content, allowance: Allowance) -> Found:
    """Each slide as a document, hidden ones marked in their place; notes follow under a heading of their own."""
    with Package(content, allowance) as package:
        main = package.main()
        targets = package.targets(main)
        listed = child(package.xml(main), "sldIdLst")
        for number, entry in enumerate(() if listed is None else listed, 1):
            # Of the attributes id and r:id, the one with a namespace names the relation.
            relation = next((value for key, value in entry.attrib.items() if key.endswith("}id")), "")
            try:
                name = targets[relation][1]
                slide = package.xml(name)
                place = f" slide {number}" + (" (hidden)" if slide.get("show") in ("0", "false") else "")
                text = "\n\n".join([*_shapes(child(slide, "cSld", "spTree"), package, name), *_notes(package, name)])
            except (KeyError, Unreadable) as error:
                yield Problem(f" slide {number}", f"the slide can't be read: {error}")
            else:
                yield Item(place, text)


def _notes(package: Package, slide: str) -> list[str]:
    part = package.of_type(slide, "/notesSlide")
    if part is None:
        return []
    texts = list(_shapes(child(package.xml(part), "cSld", "spTree"), package, part))
    return ["### Notes", *texts] if texts else []


def _shapes(parent: Element | None, package: Package, slide: str) -> Iterator[str]:
    for shape in () if parent is None else parent:
        name = tag_of(shape)
        if name == "sp":
            holder = child(shape, "nvSpPr", "nvPr", "ph")
            kind = holder.get("type") if holder is not None else None
            text = "" if kind in FURNITURE else _text(child(shape, "txBody"), title=kind in TITLES)
            if text:
                yield text
        elif name == "grpSp":
            yield from _shapes(shape, package, slide)
        elif name == "graphicFrame":
            yield from _graphic(child(shape, "graphic", "graphicData"), package, slide)
        elif name == "AlternateContent":
            chosen = child(shape, "Choice")
            yield from _shapes(chosen if chosen is not None else child(shape, "Fallback"), package, slide)


def _text(body: Element | None, *, title: bool = False) -> str:
    paragraphs = [] if body is None else [p for p in body if tag_of(p) == "p"]
    lines = ["".join(_runs(paragraph)).strip() for paragraph in paragraphs]
    if title:
        words = " ".join(" ".join(lines).split())
        return f"# {words}" if words else ""
    return "\n".join(line for line in lines if line)


def _runs(paragraph: Element) -> Iterator[str]:
    for part in paragraph:
        if tag_of(part) == "t":
            yield (part.text or "").replace("\x0b", "\n")
        elif tag_of(part) == "br":
            yield "\n"
        elif tag_of(part) != "Fallback":
            yield from _runs(part)


def _graphic(data: Element | None, package: Package, slide: str) -> Iterator[str]:
    """A table, or the values of a chart as a table."""
    for part in () if data is None else data:
        rows: list[list[str]] = []
        if tag_of(part) == "tbl":
            for row in (element for element in part if tag_of(element) == "tr"):
                # Merged cells are there once with text; the cells that they cover are empty.
                rows.append([_text(child(cell, "txBody")) for cell in row if tag_of(cell) == "tc"])
        elif tag_of(part) == "chart":
            _, chart = package.targets(slide).get(attribute(part, "id") or "", ("", ""))
            rows = _chart(package.xml(chart)) if chart in package.names else []
        if text := markdown_table(rows):
            yield text


def _chart(root: Element) -> list[list[str]]:
    columns: list[tuple[str, list[str]]] = []
    for series in (element for element in root.iter() if tag_of(element) == "ser"):
        names = child(series, "tx")
        values = child(series, "val") if child(series, "val") is not None else child(series, "yVal")
        categories = child(series, "cat") if child(series, "cat") is not None else child(series, "xVal")
        if not columns:
            columns.append(("", _points(categories)))
        columns.append((" ".join(_points(names)), _points(values)))
    height = max((len(values) for _, values in columns), default=0)
    rows = [[values[n] if n < len(values) else "" for _, values in columns] for n in range(height)]
    return [[name for name, _ in columns], *rows] if rows else []


def _points(element: Element | None) -> list[str]:
    return [] if element is None else [part.text or "" for part in element.iter() if tag_of(part) == "v"]
