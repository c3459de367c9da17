"""Rows on disk between the passes of the data stage. Their texts stay there; what decisions need is held in memory."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wyrmling.data.rows import Message, Row

# Text per shard, in characters: what a worker holds at once, several times over.
SHARD_CHARS = 8_000_000
SHARD_ROWS = 50_000

TEXTS = ("text", "words", "messages", "span", "kept")
"""The fields of a row that stay on disk."""
LISTS = ("tags", "rules")
JSON = ("redactions", "kept")
NAMES = ("source", "family", "kind", "label", "verdict", "fixed", "language", "roles", "value", "threshold")
"""Fields with few different values, each held in memory once."""
NOTHING: list[Any] = []
NO_ENTRIES: dict[str, Any] = {}


def _schema() -> Any:
    import pyarrow as pa

    strings = dict.fromkeys((*NAMES, "origin", "text", "group", "date"), pa.string())
    lists = dict.fromkeys((*LISTS, "words"), pa.list_(pa.string()))
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    others = {"messages": turns, "identity": pa.binary(), "key": pa.binary(), "size": pa.int64()}
    others["span"] = pa.list_(pa.int64())
    return pa.schema({**strings, **lists, **others, **dict.fromkeys(JSON, pa.string())})


def save_shard(path: Path, rows: Sequence[Row]) -> None:
    """Write a shard whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in _schema().names}
    columns["messages"] = [[message._asdict() for message in row.messages] for row in rows]
    for name in JSON:
        columns[name] = [json.dumps(value) if (value := getattr(row, name)) else None for row in rows]
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    pq.write_table(pa.table(columns, schema=_schema()), temporary, compression="zstd", compression_level=1)
    os.replace(temporary, path)


def load_shard(path: Path, *, texts: bool = True) -> list[Row]:
    """The rows of a shard; without `texts` they have everything but what is in TEXTS."""
    import pyarrow.parquet as pq

    names = [name for name in _schema().names if texts or name not in TEXTS]
    table = pq.read_table(path, columns=names)
    columns = [_interned(name, table[name].to_pylist()) for name in names]
    return [_row(dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def _interned(name: str, values: list[Any]) -> list[Any]:
    if name in NAMES:
        return [value and sys.intern(value) for value in values]
    if name in LISTS:
        return [[sys.intern(item) for item in value] if value else NOTHING for value in values]
    return values


def _row(fields: dict[str, Any]) -> Row:
    for name in JSON:
        fields[name] = json.loads(fields[name]) if fields.get(name) else NO_ENTRIES
    for name in ("words", "messages"):
        fields[name] = fields.get(name) or NOTHING
    fields.setdefault("text", "")
    if fields["messages"]:
        fields["messages"] = [Message(**message) for message in fields["messages"]]
    if fields.get("span"):
        fields["span"] = tuple(fields["span"])
    return Row(**fields)


@dataclass(frozen=True)
class Stored:
    """All rows of a project, in the order of sources and records, and the shards that hold their texts.

    rows    what is decided about a row is decided here; a row's texts are empty
    shards  files and the number of rows in each
    """

    rows: list[Row]
    shards: list[tuple[Path, int]]

    @classmethod
    def open(cls, paths: Iterable[Path], *, spared: frozenset[str]) -> Stored:
        """The rows of some shards; `spared` are rules that must not drop them."""
        rows: list[Row] = []
        shards = []
        for path in paths:
            found = load_shard(path, texts=False)
            for row in found:
                row.spared = spared
            rows += found
            shards.append((path, len(found)))
        return cls(rows, shards)

    def by_shard(self) -> Iterator[tuple[Path, list[Row]]]:
        """Each shard with the rows in memory that stand for those in it."""
        start = 0
        for path, count in self.shards:
            yield path, self.rows[start : start + count]
            start += count

    def whole(self, wanted: Iterable[Row]) -> Iterator[tuple[Row, Row]]:
        """Pairs of a wanted row and the same row with its texts, shard by shard."""
        chosen = {id(row) for row in wanted}
        for path, held in self.by_shard():
            if any(id(row) in chosen for row in held):
                for row, full in zip(held, load_shard(path), strict=True):
                    if id(row) in chosen:
                        yield row, full

    def bodies(self, wanted: Iterable[Row]) -> dict[str, str]:
        """Row id -> all text of the row."""
        return {row.row_id: full.body for row, full in self.whole(wanted)}
