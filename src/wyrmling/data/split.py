"""Which rows are learned from, watched and tested on: by a hash of the text, so that new rows never move old ones.

With a date column the newest rows are tested on instead; with stratify each label gets its share of every split.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

from wyrmling.config import Split, Task
from wyrmling.core.errors import BadInput
from wyrmling.core.log import warn
from wyrmling.core.records import Kind, SplitName
from wyrmling.data.dedup import Clusters
from wyrmling.data.rows import Row

SHARE = 0.1
MAX_VAL_ROWS, MAX_TEST_ROWS = 2_000, 10_000

# Rows that the task is scored on: only they are held out for the test, all others are there to learn from.
SCORED: dict[Task, Kind] = {
    "classify": "labelled",
    "tag": "tagged",
    "chat": "conversation",
    "answer": "conversation",
    "summarize": "conversation",
    "complete": "document",
}


@dataclass(slots=True)
class Unit:
    """Rows that stay together. `place` in [0, 1) is their hash: the lowest are test, the next val, the rest train."""

    rows: list[Row]
    place: float
    split: SplitName = "train"

    def has(self, kind: Kind) -> bool:
        return any(row.kind == kind for row in self.rows)


def assign(rows: Sequence[Row], settings: Split, *, seed: int, task: Task) -> None:
    """Set `split` of every kept row, in place. Warns of labels that can't be scored or can't be learned."""
    kept = [row for row in rows if row.alive]
    free = [row for row in kept if row.fixed is None]
    for row in kept:
        row.split = row.fixed
    units = _units(free, seed)
    val, test = _shares(settings, kept, len(free))
    scored = SCORED[task] if any(row.kind == SCORED[task] for row in kept) else None
    if settings.date is not None:
        _place_by_date(units, scored)
    elif settings.stratify:
        _place_by_label(units, seed)
    units.sort(key=lambda unit: unit.place)
    for unit in units:
        test_share = test if scored is None or unit.has(scored) else 0.0
        unit.split = "test" if unit.place < test_share else "val" if unit.place < test_share + val else "train"
    fixed_train = any(row.fixed == "train" for row in kept)
    for kind in sorted({row.kind for row in free}):
        of_kind = [unit for unit in units if unit.has(kind)]
        _fill(of_kind, val=val > 0, test=test > 0 and scored in (kind, None), train=not fixed_train)
    if settings.date is None:
        _keep_labels_in_train(units, kept)
    for unit in units:
        for row in unit.rows:
            row.split = unit.split
    _warn_labels(kept)


def _shares(settings: Split, kept: list[Row], free: int) -> tuple[float, float]:
    """Shares of the rows without an official split that go to val and test."""
    fixed = {row.fixed for row in kept}
    val, test = settings.val, settings.test
    if val is None:
        val = 0.0 if "val" in fixed else min(SHARE, MAX_VAL_ROWS / max(free, 1))
    if test is None:
        test = 0.0 if "test" in fixed else min(SHARE, MAX_TEST_ROWS / max(free, 1))
    return val, test


def _units(rows: list[Row], seed: int) -> list[Unit]:
    """Rows joined by cluster or group, with a place from the smallest of their keys."""
    together = Clusters(len(rows))
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        for name in (f"cluster {row.cluster}" if row.cluster else None, f"group {row.group}" if row.group else None):
            if name is not None:
                together.unite(first.setdefault(name, number), number)
    groups = list(together.groups())
    joined = {number for group in groups for number in group}
    apart = ([row] for number, row in enumerate(rows) if number not in joined)
    whole = chain(([rows[number] for number in group] for group in groups), apart)
    return sorted((Unit(one, _place(one, seed)) for one in whole), key=lambda unit: unit.place)


def _place(rows: list[Row], seed: int) -> float:
    return _hash(min(f"group {row.group}".encode() if row.group else row.key for row in rows), seed)


def _hash(key: bytes, seed: int) -> float:
    hashed = hashlib.blake2b(key, digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(hashed, "little") / 2**64


def _place_by_date(units: list[Unit], scored: Kind | None) -> None:
    """The newest units come first; those of the scored kind that have no date are learned from."""
    if not any(row.date for unit in units for row in unit.rows):
        return
    dated: list[tuple[float, float, Unit]] = []
    undated = 0
    for unit in units:
        times = [_timestamp(row) for row in unit.rows if row.date is not None]
        if times:
            dated.append((-max(times), unit.place, unit))
        elif scored is not None and unit.has(scored):
            undated += len(unit.rows)
            unit.place = 1.0
    total = sum(len(unit.rows) for *_, unit in dated)
    before = 0
    for *_, unit in sorted(dated, key=lambda item: item[:2]):
        unit.place = (before + len(unit.rows) / 2) / total
        before += len(unit.rows)
    if undated:
        warn(f"{undated} {scored} rows have no date in data.split.date; they are learned from")


def _timestamp(row: Row) -> float:
    """Seconds since 1970 of an ISO 8601 date or of a number of seconds; without a time zone it is UTC."""
    text = (row.date or "").strip()
    try:
        if text.lstrip("-").replace(".", "", 1).isdecimal() and len(text.partition(".")[0]) > 8:
            return float(text)
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(
            f"{text!r} is no date",
            where=f"{row.origin}, data.split.date",
            fix="write dates as 2024-05-31 or 2024-05-31T12:00:00 (ISO 8601), or as seconds since 1970",
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _place_by_label(units: list[Unit], seed: int) -> None:
    """Spread the units of each label evenly over [0, 1), in the order of their hashes: each label gets its share."""
    by_label: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        labels = [name for row in unit.rows for name in row.names]
        if labels:
            by_label[min(labels)].append(unit)
    for label, of_label in by_label.items():
        start = _hash(f"label {label}".encode(), seed)
        for number, unit in enumerate(sorted(of_label, key=lambda unit: unit.place)):
            unit.place = (number + start) / len(of_label)


def _fill(units: list[Unit], *, val: bool, test: bool, train: bool) -> None:
    """With few units the hash may leave a wanted split empty: a unit moves in: to train first, then test, val."""
    flags: list[tuple[SplitName, bool]] = [("train", train), ("test", test), ("val", val)]
    wanted = [name for name, flag in flags if flag][: len(units)]
    for name in wanted:
        counts = Counter(unit.split for unit in units)
        if not counts[name]:
            donors = [unit for unit in units if counts[unit.split] > (unit.split in wanted)]
            donors.sort(key=lambda unit: unit.place, reverse=name == "train")
            donors[0].split = name


def _keep_labels_in_train(units: list[Unit], kept: list[Row]) -> None:
    """A label that train would lack moves there, with the unit nearest to train that has it."""
    present = {name for row in kept if row.fixed == "train" for name in row.names}
    present |= {name for unit in units if unit.split == "train" for row in unit.rows for name in row.names}
    for unit in sorted(units, key=lambda unit: unit.place, reverse=True):
        labels = {name for row in unit.rows for name in row.names}
        if unit.split != "train" and not labels <= present:
            unit.split = "train"
            present |= labels


def _warn_labels(kept: list[Row]) -> None:
    learned = [name for row in kept if row.split == "train" for name in row.names]
    everywhere = Counter(name for row in kept if row.fixed != "test" for name in row.names)
    once = sorted({label for label in learned if everywhere[label] == 1})
    if once:
        warn(f"seen only once, so learned but never scored: {_names(once)}; add rows with these labels")
    unknown = sorted({name for row in kept if row.split == "test" for name in row.names} - set(learned))
    if unknown and learned:
        warn(f"labels of the test rows that no train row has: {_names(unknown)}")


def _names(labels: list[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:8])
    return shown + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
