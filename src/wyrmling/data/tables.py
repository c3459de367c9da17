"""Readers of rows with columns: CSV and TSV, JSON, JSON Lines, Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from wyrmling.config import Source

# The default of 131,072 characters breaks on long documents in a cell.
csv.field_size_limit(2**31 - 1)


class Sentence(NamedTuple):
    """Words with one tag each."""

    words: list[str]
    tags: list[str]


class Item(NamedTuple):
    """One record of a file. `place` completes the file's name to an origin: ":12", " page 3", "" """

    place: str
    value: str | dict[str, Any] | Sentence


class Problem(NamedTuple):
    """A record that can't be read, and why."""

    place: str
    message: str


Found = Iterator[Item | Problem]


def read_csv(text: str, source: Source, *, tabs: bool = False) -> Found:
    """Rows of a CSV or TSV text as {column: cell}; place is the line where the row starts.

    When all named columns are numbers ("1", "2"), the text has no header line and columns are counted from 1.
    """
    delimiter = source.delimiter or ("\t" if tabs else _delimiter(text))
    quoting = _tsv_quoting(text) if delimiter == "\t" else csv.QUOTE_MINIMAL
    lines = io.StringIO(text, newline="").readlines()
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)
    header: list[str] | None = None
    line = 0
    cells: list[str] = []
    while True:
        start = line + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Problem(f":{start}", str(error))
            line = reader.line_num
            continue
        line = reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = _header(cells, source)
            if not _headerless(source):
                continue
        if line > start and line == len(lines) and _never_closed(lines[start - 1 :], delimiter):
            yield Problem(f":{start}", f"a quote opened here is never closed; it takes in lines {start} to {line}")
        elif len(cells) > len(header) and any(cells[len(header) :]):
            yield Problem(f":{start}", f"{len(cells)} cells, but the header has {len(header)} columns")
        else:
            yield Item(f":{start}", dict(zip(header, cells, strict=False)))


def _headerless(source: Source) -> bool:
    named = [name for name in (source.text, source.label, source.prompt, source.response) if name is not None]
    return bool(named) and all(name.isdecimal() for name in named)


def _header(cells: list[str], source: Source) -> list[str]:
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
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _parse(line, f":{number}")


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
        arrays = [
            item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], (dict, str))
        ]
        value = arrays[0] if len(arrays) == 1 and not _is_conversation(arrays[0]) else [value]
    if not isinstance(value, list):
        value = [value]
    for number, item in enumerate(value, 1):
        yield _record(item, f" item {number}")


def _is_conversation(items: list[Any]) -> bool:
    return isinstance(items[0], dict) and bool({"role", "from"} & items[0].keys())


def read_parquet(path: Path) -> Found:
    """Rows of a Parquet file, batch by batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for value in batch.to_pylist():
                    number += 1
                    yield Item(f" row {number}", value)
    except (pa.ArrowException, OSError) as error:
        yield Problem("", f"not a readable Parquet file: {str(error).splitlines()[0]}")
