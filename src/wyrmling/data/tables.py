"""Readers of rows with columns: CSV and TSV, JSON, JSON Lines, Parquet, Arrow."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

from wyrmling.config import Source
from wyrmling.data.content import MAX_LINE_BYTES, Content, Unreadable

# The default of 131,072 characters breaks on long documents in a cell.
csv.field_size_limit(2**31 - 1)


class Sentence(NamedTuple):
    """Words with one tag each."""

    words: list[str]
    tags: list[str]


class Item(NamedTuple):
    """One record of a file. `place` completes the file's name to an origin: ":12", " page 3", ""

    lines   the first and the last line that hold it, from 1; None when it is no stretch of lines
    """

    place: str
    value: str | dict[str, Any] | Sentence
    lines: tuple[int, int] | None = None


class Problem(NamedTuple):
    """A record that can't be read, and why. `lines` as of an `Item`."""

    place: str
    message: str
    lines: tuple[int, int] | None = None


class Table(NamedTuple):
    """Rows that become records when their columns say what to learn from, and the document that they are otherwise."""

    place: str
    rows: list[Item]
    documents: Callable[[], list[Item]]


Found = Iterator[Item | Problem]
FoundTables = Iterator[Item | Problem | Table]


def read_csv(text: str, source: Source, *, tabs: bool = False) -> Found:
    """Rows of a CSV or TSV text as {column: cell}; place is the line where the row starts.

    When all named columns are numbers ("1", "2"), the text has no header line and columns are counted from 1.
    """
    yield from csv_rows(io.StringIO(text, newline=""), text, source, tabs=tabs)


def csv_rows(lines: Iterable[str], sample: str, source: Source, *, tabs: bool = False) -> Found:
    """As `read_csv`, line by line; `sample` is the text, or its start, from which delimiter and quoting are told."""
    delimiter = source.delimiter or ("\t" if tabs else _delimiter(sample))
    quoting = _tsv_quoting(sample) if delimiter == "\t" else csv.QUOTE_MINIMAL
    feed = _Feed(lines)
    reader = csv.reader(feed, delimiter=delimiter, quoting=quoting)
    header: list[str] | None = None
    line = 0
    while True:
        start = line + 1
        feed.recent.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            line = reader.line_num
            yield Problem(f":{start}", str(error), (start, line))
            continue
        line = reader.line_num
        place, held = f":{start}", (start, line)
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = column_names(cells, source)
            if not _headerless(source):
                continue
        if line > start and feed.ended and _never_closed(feed.recent, delimiter):
            yield Problem(place, f"a quote opened here is never closed; it takes in lines {start} to {line}", held)
        elif len(cells) > len(header) and any(cells[len(header) :]):
            yield Problem(place, f"{len(cells)} cells, but the header has {len(header)} columns", held)
        else:
            yield Item(place, dict(zip(header, cells, strict=False)), held)


class _Feed:
    """Lines one by one, with those given since `recent` was cleared, and whether there are more."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._broken: Unreadable | None = None
        self.recent: list[str] = []
        self._next = self._look()

    @property
    def ended(self) -> bool:
        return self._next is None and self._broken is None

    def _look(self) -> str | None:
        """The next line. What is wrong with it is said when its turn comes, not when it is looked at."""
        try:
            return next(self._lines, None)
        except Unreadable as error:
            self._broken = error
            return None

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self._next is None:
            raise self._broken or StopIteration
        line, self._next = self._next, self._look()
        self.recent.append(line)
        return line


def _headerless(source: Source) -> bool:
    named = [name for name in (source.text, source.label, source.prompt, source.response) if name is not None]
    return bool(named) and all(name.isdecimal() for name in named)


def column_names(cells: list[str], source: Source) -> list[str]:
    """The names in a header row; one that comes again is "name (3)" by its place, an empty one "column 3"."""
    if _headerless(source):
        return [str(n) for n in range(1, len(cells) + 1)]
    names: list[str] = []
    for n, cell in enumerate(cells, 1):
        name = cell.strip().removeprefix("\ufeff") or f"column {n}"
        names.append(name if name not in names else f"{name} ({n})")
    return names


def _delimiter(text: str) -> str:
    """The candidate that cuts the first rows into the most cells while their number stays the same."""
    sample = text[:20_000]
    best, best_score = ",", (0.0, 0)
    for candidate in ",;\t|":
        rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=candidate) if row][:20]
        if len(text) > len(sample) and len(rows) > 1:
            rows = rows[:-1]
        width = len(rows[0]) if rows else 1
        steady = sum(len(row) == width for row in rows) / max(len(rows), 1)
        if width > 1 and (steady, width) > best_score:
            best, best_score = candidate, (steady, width)
    return best


def _tsv_quoting(text: str) -> Literal[0, 3]:
    """Free text with tabs often has stray quotes; they count as quotes only when no line is swallowed by one."""
    tabs = [line.count("\t") for line in text.split("\n") if line.strip()]
    quoted = sum(1 for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t") if any(c.strip() for c in row))
    return csv.QUOTE_NONE if len(set(tabs)) == 1 and quoted < len(tabs) else csv.QUOTE_MINIMAL


def _never_closed(lines: list[str], delimiter: str) -> bool:
    """True when the record in these last lines of a file ends inside a quote."""
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False


def read_jsonl(text: str) -> Found:
    """One JSON value per line; place is the line. Blank lines are no records."""
    # Only \n: a JSON string may hold U+2028, which splitlines would cut at.
    yield from jsonl_rows(text.split("\n"))


def jsonl_rows(lines: Iterable[str | None]) -> Found:
    """As `read_jsonl`, line by line; None stands for a line that is too long to be held."""
    for number, line in enumerate(lines, 1):
        if line is None:
            message = f"a line of more than {MAX_LINE_BYTES // 2**20} MB; it is not read"
            yield Problem(f":{number}", message, (number, number))
        elif line.strip():
            yield _parse(line, f":{number}")._replace(lines=(number, number))


def _parse(line: str, place: str) -> Item | Problem:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return Problem(place, f"not valid JSON: {error.msg} at character {error.colno}")
    except (ValueError, RecursionError) as error:
        return Problem(place, f"not readable JSON: {error}")
    return _record(value, place)


def _record(value: Any, place: str) -> Item | Problem:
    if isinstance(value, (str, dict)):
        return Item(place, value)
    return Problem(place, f"a JSON {type(value).__name__}, where an object or a string is expected")


def read_json(text: str) -> Found:
    """The objects of a JSON array, or of the only array in an object, or of JSON Lines; place is the item's number."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            yield from read_jsonl(text)
        else:
            yield Problem(
                f":{error.lineno}", f"not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
            )
        return
    except (ValueError, RecursionError) as error:
        yield Problem("", f"not readable JSON: {error}")
        return
    if isinstance(value, dict):
        arrays = [item for item in value.values() if isinstance(item, list) and item and _are_records(item, value)]
        value = arrays[0] if len(arrays) == 1 and not _is_conversation(arrays[0]) else [value]
    if not isinstance(value, list):
        value = [value]
    for number, item in enumerate(value, 1):
        yield _record(item, f" item {number}")


def _are_records(items: list[Any], holder: dict[str, Any]) -> bool:
    """A list of strings beside other values is one property of the object among others."""
    return isinstance(items[0], dict) or (isinstance(items[0], str) and len(holder) == 1)


def _is_conversation(items: list[Any]) -> bool:
    return isinstance(items[0], dict) and bool({"role", "from"} & items[0].keys())


def read_parquet(content: Content) -> Found:
    """Rows of a Parquet file, batch by batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with content.open() as handle, pq.ParquetFile(handle) as file:
            number = 0
            for batch in file.iter_batches():
                for value in batch.to_pylist():
                    number += 1
                    yield Item(f" row {number}", value)
    except (pa.ArrowException, OSError) as error:
        yield Problem("", f"not a readable Parquet file: {str(error).splitlines()[0]}")


def read_arrow(content: Content) -> Found:
    """Rows of an Arrow IPC file (also called Feather 2) or stream, batch by batch."""
    import pyarrow as pa

    try:
        with content.open() as handle:
            file = content.head(6) == b"ARROW1"
            number = 0
            for batch in _batches(pa.ipc.open_file(handle)) if file else pa.ipc.open_stream(handle):
                for value in batch.to_pylist():
                    number += 1
                    yield Item(f" row {number}", value)
    except (pa.ArrowException, OSError) as error:
        yield Problem("", f"not a readable Arrow file: {str(error).splitlines()[0]}")


def _batches(file: Any) -> Iterator[Any]:
    for number in range(file.num_record_batches):
        yield file.get_batch(number)
