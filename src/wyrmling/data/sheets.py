"""Spreadsheets, the old and the new of Excel and those of OpenDocument, through calamine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from itertools import islice
from typing import Any

from wyrmling.config import Source
from wyrmling.data.archives import Allowance, open_zip, read_part
from wyrmling.data.content import Content, Unreadable
from wyrmling.data.hypertext import markdown_table
from wyrmling.data.tables import FoundTables, Item, Problem, Table, column_names

MISSING = 'reading {} needs an extra: pip install "wyrmling[office]"'
# assumption: as Markdown, a long sheet is read in pieces of this many rows, each with the head of the table.
PIECE_ROWS = 200

MAX_CELLS = 20_000_000
CELL_COLUMN = re.compile(rb"""\br=["']([A-Z]{1,3})\d""")
ROW_NUMBER = re.compile(rb"""\br=["'][A-Z]{0,3}(\d{1,9})["']""")


def read_sheets(content: Content, source: Source, allowance: Allowance) -> FoundTables:
    """Each sheet as a table, its first row that is not empty being the head; numbers without a fraction are whole.

    Hidden sheets are read too and marked in their place. Raises Unreadable.
    """
    try:
        import python_calamine as calamine
    except ImportError as error:
        raise Unreadable(MISSING.format("spreadsheets")) from error

    _measure(content, allowance)
    try:
        with content.open() as file:
            book = calamine.load_workbook(file)
    except calamine.PasswordError as error:
        raise Unreadable("protected by a password; save a copy without one") from error
    except (calamine.CalamineError, OSError, ValueError) as error:
        raise Unreadable(f"not a readable spreadsheet ({error}); save it again") from error
    for sheet in book.sheets_metadata:
        hidden = "" if sheet.visible == calamine.SheetVisibleEnum.Visible else " (hidden)"
        place = f" sheet {sheet.name}{hidden}"
        if sheet.typ != calamine.SheetTypeEnum.WorkSheet:
            continue
        try:
            cells = book.get_sheet_by_name(sheet.name)
            rows = [[_cell(value) for value in row] for row in cells.to_python()]
        except (calamine.CalamineError, ValueError) as error:
            yield Problem(place, f"the sheet can't be read: {error}")
            continue
        # Empty rows above the first cell are left out by calamine, but they count for a person.
        first = (cells.start[0] if cells.start else 0) + 1
        numbered = enumerate(rows, first)
        filled = [(number, row) for number, row in numbered if any(cell not in ("", None) for cell in row)]
        if filled:
            yield _table(place, filled, source)


def _measure(content: Content, allowance: Allowance) -> None:
    """Refuse a workbook that would take far more memory than its file: calamine holds every cell, empty ones too."""
    if not content.head(4).startswith(b"PK"):
        return
    with open_zip(content) as archive:
        for info in archive.infolist():
            raw = read_part(archive, info, allowance)
            if not info.filename.startswith("xl/worksheets/"):
                continue
            columns = {found[1] for found in CELL_COLUMN.finditer(raw)}
            row = max((int(found[1]) for found in ROW_NUMBER.finditer(raw)), default=1)
            widest = max(columns, key=lambda name: (len(name), name), default=b"A")
            width = sum((sign - 64) * 26**place for place, sign in enumerate(reversed(widest)))
            if width * row > MAX_CELLS:
                raise Unreadable(
                    f"{info.filename} reaches to cell {widest.decode()}{row}, with too many empty cells to hold; "
                    "delete the cells far out and save it again"
                )


def _cell(value: Any) -> Any:
    """Excel knows only floats; dates as ISO 8601."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, datetime) and value.time() == time.min:
        return value.date().isoformat()
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    return value


def _table(place: str, filled: Sequence[tuple[int, list[Any]]], source: Source) -> Table:
    texts = [[str(cell) for cell in row] for _, row in filled]
    names = column_names(texts[0], source)
    body = filled if names == [str(n) for n in range(1, len(names) + 1)] else filled[1:]
    items = [Item(f"{place} row {number}", dict(zip(names, row, strict=False))) for number, row in body]

    def documents() -> list[Item]:
        if len(texts) <= PIECE_ROWS:
            return [Item(place, markdown_table(texts))]
        pieces: list[Item] = []
        rest = iter(zip(filled[1:], texts[1:], strict=True))
        while piece := list(islice(rest, PIECE_ROWS)):
            span = f"rows {piece[0][0][0]} to {piece[-1][0][0]}"
            pieces.append(Item(f"{place} {span}", markdown_table([texts[0], *(row for _, row in piece)])))
        return pieces

    return Table(place, items, documents)
