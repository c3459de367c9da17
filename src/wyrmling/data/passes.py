"""The passes over all rows that the data stage makes, each as a function of one unit of work.

A pass reads and writes files of the work folder only, so its units may run in any process and in any order; decisions
that need all rows are made between the passes, in run.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wyrmling.config import Clean
from wyrmling.data import contamination, tidy
from wyrmling.data.boilerplate import Boilerplate, Pages, find_pages
from wyrmling.data.contamination import Overlap
from wyrmling.data.origins import Origin
from wyrmling.data.read import Columns, read_rows
from wyrmling.data.rows import Row, content_hash
from wyrmling.data.sketches import InMemory
from wyrmling.data.stored import SHARD_CHARS, SHARD_ROWS, load_shard, save_shard

# Files of one source are read together up to so much, in bytes and in number.
UNIT_BYTES, UNIT_FILES = 32 * 2**20, 1_000


@dataclass(frozen=True)
class Reading:
    """Files of one source to read into shards `<path>-<k>.parquet`."""

    path: Path
    origin: Origin
    columns: Columns
    clean: Clean


def units_of(origins: Sequence[Origin], columns: Columns, clean: Clean, folder: Path) -> list[Reading]:
    """The files of all sources, in order, in units."""
    parts = [part for origin in origins for part in _parts(origin)]
    return [Reading(folder / f"{number:05}", part, columns, clean) for number, part in enumerate(parts)]


def _parts(origin: Origin) -> Iterator[Origin]:
    held: list[tuple[Path, str]] = []
    size = 0
    for file in origin.files:
        size += file[0].stat().st_size
        if held and (size > UNIT_BYTES or len(held) == UNIT_FILES):
            yield replace(origin, files=tuple(held), digests=(), refused=())
            held, size = [], file[0].stat().st_size
        held.append(file)
    yield replace(origin, files=tuple(held), digests=())


def read(unit: Reading) -> int:
    """Read the files of a unit; the number of shards it gives. Rows are whole, and their content is hashed."""
    shards = 0
    for rows in _shards(read_rows(unit.origin, unit.columns)):
        for row in rows:
            row.identity = content_hash(row)
        tidy.make_whole(rows, unit.clean)
        path = shard(unit.path, shards)
        if tidy.removes_boilerplate(unit.clean) and (pages := find_pages(rows).get(unit.origin.name)) is not None:
            np.savez(path.with_suffix(".pages.npz"), **pages._asdict())
        save_shard(path, rows)
        shards += 1
    return shards


def shard(unit: Path, number: int) -> Path:
    return unit.with_name(f"{unit.name}-{number:05}.parquet")


def _shards(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows in shards of bounded size; the pages of one PDF stay together, as they share running heads."""
    held: list[Row] = []
    size = 0
    for row in rows:
        full = size >= SHARD_CHARS or len(held) >= SHARD_ROWS
        if full and not (row.family == held[-1].family == "pdf" and _file(row) == _file(held[-1])):
            yield held
            held, size = [], 0
        held.append(row)
        size += len(row.body)
    if held:
        yield held


def _file(row: Row) -> str:
    return row.origin.rpartition(" page ")[0]


def load_pages(path: Path) -> Pages:
    """The pages that `read` found in a shard."""
    with np.load(path, allow_pickle=False) as arrays:
        return Pages(**arrays)


@dataclass(frozen=True)
class Tidying:
    """A shard to clean, judge, mask and measure, and where the result goes."""

    path: Path
    to: Path
    clean: Clean
    shared: Boilerplate
    sketch: bool


def finish(unit: Tidying) -> None:
    """Tidy the rows of a shard, and sketch them when near-duplicates are looked for."""
    rows = load_shard(unit.path)
    tidy.finish(rows, unit.clean, unit.shared)
    if unit.sketch:
        InMemory(rows).write(unit.to)
    save_shard(unit.to, rows)


@dataclass(frozen=True)
class Checking:
    """Rows of a shard, by their places in it, to be compared with the held-out rows."""

    path: Path
    places: tuple[int, ...]
    index: Path


def find_overlaps(unit: Checking) -> list[tuple[int, int, str, str]]:
    """Place, and `Overlap`, of the rows that give a held-out row away."""
    index = _index(unit.index, unit.index.stat().st_mtime_ns)
    rows = load_shard(unit.path)
    found = [(place, index.find(rows[place].body)) for place in unit.places]
    return [(place, *overlap) for place, overlap in found if overlap is not None]


@lru_cache(maxsize=1)
def _index(path: Path, written: int) -> contamination.Index:
    """The index, read once by each process; `written` tells it from an earlier one of that name."""
    return contamination.Index.load(path)


def overlaps(rows: Sequence[Row], answer: Sequence[Sequence[Any]]) -> Iterator[tuple[Row, Overlap]]:
    """What `find_overlaps` answered for a shard, with its rows in memory."""
    for place, *overlap in answer:
        yield rows[place], Overlap(*overlap)
