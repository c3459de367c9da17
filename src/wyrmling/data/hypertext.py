"""HTML to text in which headings and tables are Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# assumption: when less of the page is called its main part, the finder was wrong (it drops lists of short items).
MAIN_PART_SHARE = 0.1

# assumption: longer cells are paragraphs that a table only places on the page.
MAX_CELL_CHARS = 1_000

HEADING = re.compile(r"<h([1-6])(?:\s[^<>]*)?>", re.IGNORECASE)
EMPTY_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]*$\n?", re.MULTILINE)
LAYOUT = re.compile(r"<(?:table|p|ul|ol|h[1-6]|form)\b", re.IGNORECASE)
SPACES = re.compile(r"\s+")


def html_text(text: str, *, whole: bool = False) -> str:
    """The text of a page, with headings and tables in Markdown.

    whole  True for text that is no web page with navigation around it, such as a mail or a chapter
    """
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    # Signs in front of headings are put in before parsing: to look for them in the tree takes ten times as long.
    tree = HTMLTree.parse(HEADING.sub(lambda found: f"{found[0]}{'#' * int(found[1])} ", text))
    _mark_tables(tree)
    full: str = extract_plain_text(tree, preserve_formatting=True, alt_texts=False)
    if whole:
        return EMPTY_HEADING.sub("", full)
    main: str = extract_plain_text(tree, main_content=True, preserve_formatting=True, alt_texts=False)
    return EMPTY_HEADING.sub("", main if len(main) >= MAIN_PART_SHARE * len(full) else full)


def _mark_tables(tree: Any) -> None:
    """Put Markdown in place of tables of data. A table with tables, lists or long texts in it only makes a layout."""
    if tree.body is None:
        return
    for table in list(tree.body.get_elements_by_tag_name("table")):
        if LAYOUT.search(table.html, 6):
            continue
        rows = [
            [cell for cell in row.child_nodes if cell.tag in ("td", "th")]
            for row in table.get_elements_by_tag_name("tr")
        ]
        rows = [row for row in rows if row]
        if len(rows) < 2 or max(map(len, rows)) < 2:
            continue
        texts = [[" ".join(cell.text.split()) for cell in row] for row in rows]
        if max(len(text) for row in texts for text in row) > MAX_CELL_CHARS:
            continue
        kept = tree.create_element("pre")
        kept.text = f"\n{markdown_table(texts)}\n"
        table.parent.replace_child(kept, table)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a Markdown table, the first one as its head; empty columns at the end are left out."""
    cells = [[SPACES.sub(" ", cell).strip().replace("|", "\\|") for cell in row] for row in rows]
    width = max((n for row in cells for n, cell in enumerate(row, 1) if cell), default=0)
    if not width:
        return ""
    lines = ["| " + " | ".join((row + [""] * width)[:width]) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])
