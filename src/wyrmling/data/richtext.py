"""Rich text files to Markdown, through striprtf."""

from __future__ import annotations

from collections.abc import Callable

from wyrmling.data.content import Content, Unreadable
from wyrmling.data.hypertext import markdown_table
from wyrmling.data.sheets import MISSING


def rtf_markdown(content: Content) -> str:
    """The text, with rows of tables as Markdown. Raises Unreadable."""
    try:
        from striprtf import striprtf
    except ImportError as error:
        raise Unreadable(MISSING.format("rich text")) from error

    # What is not ASCII is escaped by the format; a stray byte must not stop the rest.
    source = content.read().decode("cp1252", "replace")
    try:
        to_text: Callable[..., str] = striprtf.rtf_to_text
        text = to_text(source, errors="replace")
    except (ValueError, LookupError, RecursionError, IndexError) as error:
        raise Unreadable(f"not a readable rich text file ({error}); save it again") from error
    return "\n".join(_lines(text))


def _lines(text: str) -> list[str]:
    """Lines; a run of lines that end in a bar, which stands between cells, is a table."""
    out: list[str] = []
    rows: list[list[str]] = []
    for line in [*text.split("\n"), ""]:
        if line.rstrip().endswith("|"):
            rows.append(line.rstrip()[:-1].split("|"))
            continue
        if rows:
            out += ["", markdown_table(rows), ""]
            rows = []
        out.append(line)
    return out[:-1]
