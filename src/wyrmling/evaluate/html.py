"""Pieces of the report's page. Everything that comes from rows is escaped here: rows are untrusted."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from wyrmling.evaluate.tasks import Example, text_of

SHOWN_CHARACTERS = 600

Score = Mapping[str, Any]


def document(title: str, sections: Iterable[str], *, script: str = "") -> str:
    """One HTML file that needs no network; its policy allows nothing but its own style sheet and script."""
    style = own("report.css")
    policy = f"default-src 'none'; style-src '{_hash(style)}'" + (f"; script-src '{_hash(script)}'" if script else "")
    body = "\n".join(part for part in sections if part)
    scripted = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n{scripted}</body>\n</html>\n"
    )


def own(name: str) -> str:
    """A file that lies beside this one."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = (), running: int | None = None
) -> str:
    """A table of cells that are escaped already. numbers: columns set right; running: the column of running text."""

    def kind(i: int) -> str:
        return ' class="n"' if i in numbers else ' class="text"' if i == running else ""

    head = "".join(f"<th{kind(i) if i in numbers else ''}>{name}</th>" for i, name in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{kind(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def shown(row: Example) -> str:
    """The row's text as far as there is room for it, not escaped."""
    if row["kind"] == "conversation":
        said = "\n".join(f"{message['role']}: {message['content']}" for message in row["messages"])
    else:
        said = text_of(row)
    return said if len(said) <= SHOWN_CHARACTERS else said[:SHOWN_CHARACTERS] + " …"


def text(row: Example) -> str:
    """The row's text, escaped."""
    return escape(shown(row))


def notes(lines: Iterable[str | None]) -> str:
    """A paragraph for each line there is."""
    return "".join(f'<p class="soft">{escape(line)}</p>' for line in lines if line)


def more(title: str, body: str) -> str:
    """Something behind a fold."""
    return f"<details><summary>{title}</summary>{body}</details>"


def place(row: Example) -> str:
    return small(row["origin"])


def small(text: str) -> str:
    return f"<small>{escape(text)}</small>"


def figure(score: Score) -> str:
    value = score["value"]
    if value is None:
        return "undefined"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def interval(score: Score) -> str:
    if score["low"] is None and score["high"] is None:
        return ""
    ends = ["…" if x is None else f"{x:.4f}" if abs(x) < 100 else f"{x:,.1f}" for x in (score["low"], score["high"])]
    return f"{ends[0]} to {ends[1]}"


def p_value(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"
