"""What is done about texts that say the same: drop them, or keep them on one side; no test row stays in train."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from wyrmling.config import Dedup
from wyrmling.core.log import warn
from wyrmling.data.dedup import Clusters, Shingles, digest
from wyrmling.data.rows import Row

# Below this many words two different texts share too few shingles to judge. For rows that are only kept together, and
# not dropped, a looser bound does no harm. (assumptions)
MIN_WORDS = {"document": 20, "labelled": 8, "tagged": 8, "conversation": 8}


def mark_duplicates(rows: Sequence[Row], settings: Dedup, sources: Sequence[str]) -> None:
    """Drop duplicates and name the clusters of what is left, in place.

    sources   names of the sources; those of `settings.prefer` come before all others
    Of equal rows the one of the preferred source, then the longest, then the first in the alphabet is kept, so the
    result does not depend on the order of the rows. Rows of an official validation or test source are always kept.
    """
    rank = {name: number for number, name in enumerate(dict.fromkeys([*settings.prefer, *sources]))}
    alive = [(rank[row.source], -len(row.body), row.body, row.repeat, row.row_id, row) for row in rows if row.alive]
    ranked = [row for *_, row in sorted(alive, key=lambda item: item[:-1])]
    clusters = Clusters(len(ranked))
    equal: dict[bytes, list[int]] = defaultdict(list)
    for number, row in enumerate(ranked):
        row.key = digest(row.body)
        equal[row.key].append(number)
    conflicts: list[Row] = []
    for numbers in equal.values():
        if len(numbers) > 1:
            same = [ranked[number] for number in numbers]
            _drop_held_out(same)
            if settings.exact:
                _drop_exact(same)
            conflicts += _conflicts(same)
            for number in numbers[1:]:
                clusters.unite(numbers[0], number)
    if settings.near:
        _drop_near(ranked, clusters, settings.threshold)
    for group in clusters.groups():
        name = min(ranked[number].row_id for number in group)
        for number in group:
            ranked[number].cluster = name
    _warn(ranked, conflicts)


def _drop_held_out(same: list[Row]) -> None:
    """Of equal rows, those that would be learned go when one is in an official test or validation source."""
    for split in ("test", "val"):
        held = next((row for row in same if row.fixed == split), None)
        if held is not None:
            for row in same:
                if row.alive and not row.held_out:
                    row.drop(f"in_{split}", kept_id=held.row_id)


def _drop_exact(same: list[Row]) -> None:
    """Of rows with equal text and equal label, tags or roles, the first stays."""
    first: dict[object, Row] = {}
    for row in same:
        if row.alive and not row.held_out:
            key = (row.kind, row.label, tuple(row.tags), tuple(message.role for message in row.messages))
            kept = first.setdefault(key, row)
            if kept is not row:
                row.drop("exact_duplicate", kept_id=kept.row_id)


def _conflicts(same: list[Row]) -> list[Row]:
    """Rows with equal text and different labels: all are kept, and named in the ledger."""
    rows = [row for row in same if row.alive and row.kind == "labelled" and not row.held_out]
    if len({row.label for row in rows}) < 2:
        return []
    for row in rows:
        row.change("label_conflict")
    return rows


def _drop_near(ranked: list[Row], clusters: Clusters, threshold: float) -> None:
    """Of documents that are nearly the same one stays, and none when a held-out row is nearly the same."""
    numbers = [n for n, row in enumerate(ranked) if row.alive and _long_enough(row)]
    shingles = Shingles(ranked[number].body for number in numbers)
    near = Clusters(len(numbers))
    for one, other in shingles.near_pairs(threshold):
        near.unite(one, other)
        clusters.unite(numbers[one], numbers[other])
    for group in near.groups():
        held = [k for k in group if ranked[numbers[k]].held_out]
        documents = [k for k in group if k not in held and _may_go(ranked[numbers[k]])]
        kept = held[0] if held else documents[0] if documents else None
        for k in documents:
            if k != kept and kept is not None:
                similarity = round(shingles.jaccard(kept, k), 3)
                keeper = ranked[numbers[kept]].row_id
                ranked[numbers[k]].drop(
                    "near_duplicate", value=similarity, threshold=f"< {threshold:g}", kept_id=keeper
                )


def _may_go(row: Row) -> bool:
    # An equal text that was restored is not to go as a nearly equal one.
    return row.kind == "document" and "restored_exact_duplicate" not in row.rules


def _long_enough(row: Row) -> bool:
    # Text without spaces (Chinese, Japanese) is counted by characters.
    return len(row.body.split()) >= MIN_WORDS[row.kind] or (
        not row.body.isascii() and len(row.body) >= 3 * MIN_WORDS[row.kind]
    )


def _warn(ranked: list[Row], conflicts: list[Row]) -> None:
    if conflicts:
        texts = len({row.key for row in conflicts})
        shown = ", ".join(f"{row.origin} ({row.label})" for row in conflicts[:4])
        warn(f"{texts} texts occur with more than one label; all are kept, see label_conflict in the ledger: {shown}")
    tests = {row.cluster for row in ranked if row.fixed == "test" and row.cluster}
    leaks = sum(row.alive and not row.held_out and row.cluster in tests for row in ranked)
    if leaks:
        warn(f"{leaks} rows to learn from are nearly the same as a row of the test source; see cluster in the ledger")
