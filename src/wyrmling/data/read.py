"""Files to rows: tell what the columns are, read each record, and never lose one silently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

from wyrmling.config import Source
from wyrmling.core.errors import BadInput
from wyrmling.core.log import say, warn
from wyrmling.data.archives import Allowance, members
from wyrmling.data.content import MAX_BYTES, Content, Lines, Unreadable
from wyrmling.data.decode import Undecodable
from wyrmling.data.formats import archive_of, format_of
from wyrmling.data.origins import Origin
from wyrmling.data.parts import Parts, parts_of
from wyrmling.data.rows import Row, failed, identify
from wyrmling.data.shapes import AMBIGUOUS, Misfit, Shape, cell, fill, find_shape, to_bio
from wyrmling.data.tables import Item, Problem, Sentence, Table

# Formats with any number of records, and how many of them tell what the columns are.
LONG = ("txt", "code", "md", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "conll", "mbox")
SHAPE_RECORDS = 10_000

TABLES = ("csv", "tsv", "json", "jsonl", "parquet", "arrow", "xlsx", "xls", "ods", "xml", "sql")


class Columns(NamedTuple):
    """Columns beside those to learn from, where they are there: what the split needs, and what is kept."""

    group: str | None = None
    date: str | None = None
    keep: tuple[str, ...] = ()


NO_COLUMNS = Columns()


def read_source(origin: Origin, columns: Columns = NO_COLUMNS) -> list[Row]:
    """All records of a source as rows, problems included, in the order of files and records.

    Raises   BadInput when a column is missing or unclear, or when no record at all can be read.
    """
    rows = list(read_rows(origin, columns))
    identify(rows)
    check_source(origin, rows)
    return rows


def read_rows(origin: Origin, columns: Columns = NO_COLUMNS) -> Iterator[Row]:
    """The records of a source one by one; a record that can't be read is a row that says why.

    Raises   BadInput when a column is missing or unclear, or when a file changes while it is read
    """
    if origin.source.url is not None:
        shape = find_shape(origin.name, origin.source, origin.columns, f"the query of data.sources.{origin.name}")
        for number, cells in enumerate(origin.rows, 1):
            yield _row(origin, "query", "sql", Item(f" row {number}", cells), shape, columns)
    for path, shown in origin.files:
        before = path.stat()
        yield from _read(_Reading(origin, columns, Allowance()), Content(shown, path, alone=origin.alone))
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise BadInput("the file changed while it was read", where=shown, fix="run the same command again")
    for shown, message in origin.refused:
        yield failed(origin.name, shown, "", message)


def check_source(origin: Origin, rows: Sequence[Row]) -> None:
    """Warn of what can't be read in a source. Raises BadInput when that is all, or when columns are named in vain."""
    _report(origin.name, rows)
    named = _named_columns(origin.source)
    if named and not any(row.family in TABLES for row in rows):
        family = next(row.family for row in rows if row.alive)
        where = f"data.sources.{origin.name}.{named}"
        raise BadInput(f"a {family} file has no columns", where=where, fix=f"leave {named} out")


def _report(name: str, rows: Sequence[Row]) -> None:
    bad = [row for row in rows if row.verdict == "error"]
    if len(bad) == len(rows):
        what = f"{bad[0].origin}: {bad[0].value}" if bad else "the files hold no record"
        raise BadInput(
            what, where=f"data.sources.{name}", fix="mend or replace the input; nothing in this source can be read"
        )
    for row in bad[:3]:
        warn(f"{row.origin}: {row.value}")
    if len(bad) > 3:
        warn(f"data.sources.{name}: {len(bad)} of {len(rows)} records can't be read; all are in ledger.parquet")


@dataclass(frozen=True)
class _Reading:
    """What stays the same while one file of a source is read, with all that lies in it."""

    origin: Origin
    columns: Columns
    allowance: Allowance

    @property
    def source(self) -> Source:
        return self.origin.source


def _read(reading: _Reading, content: Content) -> Iterator[Row]:
    """The rows of a file, and of the files in it. What breaks off keeps the rows before the break."""
    family = ""
    try:
        if content.size <= MAX_BYTES and not content.head().strip() and not content.read().strip():
            raise Unreadable("the file is empty")
        family = archive_of(content) or ""
        if family:
            yield from _archive(reading, content, family)
        else:
            family = reading.source.format or format_of(content)
            yield from _records(reading, content, family)
        return
    except RecursionError:
        message = "nested too deeply to be read"
    except (Undecodable, Unreadable) as error:
        message = str(error)
    except OSError as error:
        message = f"the file can't be read: {error.strerror or error}"
    yield failed(reading.origin.name, content.name, family, message)


def _archive(reading: _Reading, content: Content, family: str) -> Iterator[Row]:
    part = None
    for part in members(content, family, reading.allowance):
        if isinstance(part, Content):
            yield from _read(reading, part)
        else:
            yield failed(reading.origin.name, f"{content.name}{part.place}", family, part.message)
    if part is None:
        raise Unreadable("the archive holds no file")


def _records(reading: _Reading, content: Content, family: str) -> Iterator[Row]:
    parts = _to_the_break(parts_of(content, family, reading.source, reading.allowance))
    head = list(islice(parts, SHAPE_RECORDS if family in LONG else None))
    if not head:
        raise Unreadable("the file holds no record")
    records = [part for part in head if isinstance(part, Item) and isinstance(part.value, dict)]
    shape = _shape(reading, content, content.name, records) if records else None
    if isinstance(shape, str):
        yield failed(reading.origin.name, content.name, family, shape)
        return
    fitting = _fitting(reading, content, [part for part in head if isinstance(part, Table)])
    lines = Lines(content)
    for part in chain(head, parts):
        if isinstance(part, Content):
            yield from _read(reading, part)
        elif isinstance(part, Table):
            yield from _table(reading, content, family, part, fitting)
        elif isinstance(part, Item) and isinstance(part.value, dict) and shape is None:
            yield failed(reading.origin.name, f"{content.name}{part.place}", family, "no record before it has columns")
        else:
            row = _row(reading.origin, content.name, family, part, shape, reading.columns)
            row.span = lines.span(part.lines)
            yield row


def _to_the_break(parts: Parts) -> Parts:
    """What is in a file, and as the last part why it breaks off. Raises the error of a file that has nothing."""
    some = False
    try:
        for part in parts:
            some = True
            yield part
    except (Undecodable, Unreadable) as error:
        if not some:
            raise
        yield Problem("", str(error))


def _shape(reading: _Reading, content: Content, where: str, records: list[Item]) -> Shape | str:
    """The shape of records; else why there is none, when one file among many must not stop the others."""
    try:
        return find_shape(reading.origin.name, reading.source, _columns(records), where)
    except BadInput as error:
        if content.alone or (_named_columns(reading.source) and content.depth == 0):
            raise
        return f"{error.what}; {error.fix}"


def _columns(items: list[Item]) -> list[str]:
    return list(dict.fromkeys(column for item in items if isinstance(item.value, dict) for column in item.value))


def _fitting(reading: _Reading, content: Content, tables: list[Table]) -> dict[str, Shape]:
    """The shapes of those tables of a file whose columns say what to learn from, by place.

    Raises BadInput when columns are named and no table has them, or when the only table can be read in two ways.
    """
    shapes: dict[str, Shape] = {}
    first: BadInput | None = None
    for table in tables:
        try:
            shapes[table.place] = find_shape(
                reading.origin.name, reading.source, _columns(table.rows), content.name + table.place
            )
        except BadInput as error:
            if _named_columns(reading.source) or (error.what == AMBIGUOUS and content.alone and len(tables) == 1):
                first = first or error
    if first is not None and not shapes and (content.alone or content.depth == 0):
        raise first
    return shapes


def _table(reading: _Reading, content: Content, family: str, table: Table, shapes: dict[str, Shape]) -> list[Row]:
    if (shape := shapes.get(table.place)) is not None:
        return [_row(reading.origin, content.name, family, item, shape, reading.columns) for item in table.rows]
    if named := _named_columns(reading.source):
        message = f"no column {getattr(reading.source, named)!r} in this table"
        return [failed(reading.origin.name, content.name + table.place, family, message)]
    say(f"{content.name}{table.place}: no column says what to learn from, so it is read as a document")
    return [_row(reading.origin, content.name, family, item, None, NO_COLUMNS) for item in table.documents()]


def _named_columns(source: Source) -> str | None:
    names = ("text", "label", "prompt", "response", "messages", "chosen", "rejected", "rating", "words", "tags", "keep")
    return next((name for name in names if getattr(source, name)), None)


def _there(cells: dict[str, Any], column: str | None) -> str | None:
    return cell(cells, column) if column is not None and column in cells else None


def _row(origin: Origin, place: str, family: str, item: Item | Problem, shape: Shape | None, columns: Columns) -> Row:
    where = f"{place}{item.place}"
    if isinstance(item, Problem):
        return failed(origin.name, where, family, item.message)
    row = Row(origin.name, where, family, "document", fixed=origin.source.split)
    if isinstance(item.value, str):
        row.text = item.value
    elif isinstance(item.value, Sentence):
        row.kind, row.words, row.tags = "tagged", list(item.value.words), list(item.value.tags)
    else:
        assert shape is not None
        try:
            fill(row, shape, item.value)
            row.group, row.date = (_there(item.value, name) for name in (columns.group, columns.date))
            row.kept = {
                name: value
                for name in (*origin.source.keep, *columns.keep)
                if (value := (_there(item.value, name) or "").strip())
            }
        except Misfit as error:
            return failed(origin.name, where, family, str(error))
    if row.kind == "tagged" and (tags := to_bio(row.tags)) != row.tags:
        row.tags = tags
        row.change("bio")
    return row
