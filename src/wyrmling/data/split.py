"""Which rows are learned from, watched and tested on: by a hash of the text, so that new rows never move old ones."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from wyrmling.config import Split, Task
from wyrmling.core.log import warn
from wyrmling.core.records import Kind, SplitName
from wyrmling.data.dedup import Clusters
from wyrmling.data.rows import Row

SHARE = 0.1
MAX_VAL_ROWS = 2_000

# Rows that the task is scored on: only they are held out for the test, all others are there to learn from.
SCORED: dict[Task, Kind] = {
    "classify": "labelled",
    "tag": "tagged",
    "chat": "conversation",
    "answer": "conversation",
    "summarize": "conversation",
    "complete": "document",
}


@dataclass
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
    for unit in units:
        test_share = test if scored is None or unit.has(scored) else 0.0
        unit.split = "test" if unit.place < test_share else "val" if unit.place < test_share + val else "train"
    fixed_train = any(row.fixed == "train" for row in kept)
    for kind in sorted({row.kind for row in free}):
        of_kind = [unit for unit in units if unit.has(kind)]
        _fill(of_kind, val=val > 0, test=test > 0 and scored in (kind, None), train=not fixed_train)
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
        test = 0.0 if "test" in fixed else SHARE
    return val, test


def _units(rows: list[Row], seed: int) -> list[Unit]:
    """Rows joined by cluster or group, with a place from the smallest of their keys."""
    together = Clusters(len(rows))
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        for name in (f"cluster {row.cluster}" if row.cluster else None, f"group {row.group}" if row.group else None):
            if name is not None:
                together.unite(first.setdefault(name, number), number)
    members: dict[int, list[Row]] = defaultdict(list)
    for number, row in enumerate(rows):
        members[together.root(number)].append(row)
    return sorted((Unit(group, _place(group, seed)) for group in members.values()), key=lambda unit: unit.place)


def _place(rows: list[Row], seed: int) -> float:
    key = min(f"group {row.group}".encode() if row.group else row.key for row in rows)
    hashed = hashlib.blake2b(key, digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(hashed, "little") / 2**64


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
    present = {row.label for row in kept if row.fixed == "train"}
    present |= {row.label for unit in units if unit.split == "train" for row in unit.rows}
    for unit in sorted(units, key=lambda unit: unit.place, reverse=True):
        labels = {row.label for row in unit.rows if row.label is not None}
        if unit.split != "train" and not labels <= present:
            unit.split = "train"
            present |= labels


def _warn_labels(kept: list[Row]) -> None:
    learned = [row.label for row in kept if row.split == "train" and row.label is not None]
    everywhere = Counter(row.label for row in kept if row.fixed != "test")
    once = sorted({label for label in learned if everywhere[label] == 1})
    if once:
        warn(f"seen only once, so learned but never scored: {_names(once)}; add rows with these labels")
    unknown = sorted({row.label for row in kept if row.label is not None and row.split == "test"} - set(learned))
    if unknown and learned:
        warn(f"labels of the test rows that no train row has: {_names(unknown)}")


def _names(labels: list[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:8])
    return shown + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
