"""The data card as a page: one HTML file that needs no network, made from card.md and the manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from wyrmling.core.artifact import Artifact, write_durably

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #8884; padding: .25rem .75rem; text-align: left; font-variant-numeric: tabular-nums }
td.number { text-align: right }
code { font-size: .85em; overflow-wrap: anywhere }
"""


def write(data: Artifact) -> None:
    """Write card.html into the artifact, unless it is there.

    It holds time and energy, which differ from run to run: like the manifest, it is not one of the hashed files.
    """
    path = data.path / "card.html"
    if not path.exists():
        text = (data.path / "card.md").read_text(encoding="utf-8")
        write_durably(path, render(text, cost(data)).encode())


def cost(data: Artifact) -> str:
    """What making the artifact took, in one sentence."""
    spent = data.cost
    return f"Made {data.manifest['created']} in {spent['seconds']:.1f} s with {spent['wh']:.3f} Wh."


def render(markdown: str, note: str) -> str:
    """The page for a card; `note` stands below the title."""
    title = markdown.split("\n", 1)[0].lstrip("# ")
    body = "\n".join(_blocks(markdown, note))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n{body}\n</html>\n"
    )


def _blocks(markdown: str, note: str) -> Iterator[str]:
    for block in re.split(r"\n{2,}", markdown.strip()):
        if block.startswith("# "):
            yield f"<h1>{_inline(block[2:])}</h1>\n<p>{escape(note)}</p>"
        elif block.startswith("## "):
            yield f"<h2>{_inline(block[3:])}</h2>"
        elif block.startswith("| "):
            yield from _table(block.split("\n"))
        elif block.startswith("- "):
            yield "<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in block.split("\n")) + "</ul>"
        else:
            yield f"<p>{_inline(block)}</p>"


def _table(lines: list[str]) -> Iterator[str]:
    header, _, *rows = [_cells(line) for line in lines]
    yield "<table>\n<tr>" + "".join(f"<th>{_inline(cell)}</th>" for cell in header) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(_cell(cell) for cell in row) + "</tr>"
    yield "</table>"


def _cells(line: str) -> list[str]:
    """Cells of a table line; a bar inside a cell is written with a backslash before it."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _cell(cell: str) -> str:
    number = ' class="number"' if re.fullmatch(r"[\d.,]+ ?%?", cell) else ""
    return f"<td{number}>{_inline(cell)}</td>"


def _inline(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(text))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)
