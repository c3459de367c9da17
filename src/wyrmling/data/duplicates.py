"""What is done about texts that say the same: drop them, or keep them on one side; no test row stays in train."""

from __future__ import annotations

from collections.abc import Sequence

from wyrmling.config import Dedup
from wyrmling.core.log import warn
from wyrmling.data.dedup import Clusters, jaccard, near_pairs
from wyrmling.data.rows import Row, equal_runs
from wyrmling.data.sketches import Sketches


def mark_duplicates(
    rows: Sequence[Row], settings: Dedup, sources: Sequence[str], sketches: Sketches | None = None
) -> None:
    """Drop duplicates and name the clusters of what is left, in place.

    rows      measured, see `tidy.measure`; their texts are not needed
    sources   names of the sources; those of `settings.prefer` come before all others
    sketches  of all rows, by their number in `rows`. None: near-duplicates are not looked for
    Of equal rows the one of the preferred source, then the longest, then the one with the lowest key is kept, so the
    result does not depend on the order of the rows. Rows of an official validation or test source are always kept.
    """
    rank = {name: number for number, name in enumerate(dict.fromkeys([*settings.prefer, *sources]))}

    def merit(number: int) -> tuple[object, ...]:
        row = rows[number]
        return rank[row.source], -row.size, row.key, row.repeat, row.row_id

    order = sorted((number for number, row in enumerate(rows) if row.alive), key=merit)
    ranked = [rows[number] for number in order]
    clusters = Clusters(len(ranked))
    conflicts: list[Row] = []
    for _, numbers in equal_runs([row.key for row in ranked]):
        if len(numbers) > 1:
            same = [ranked[number] for number in numbers]
            _drop_held_out(same)
            if settings.exact:
                _drop_exact(same)
            conflicts += _conflicts(same)
            for number in numbers[1:]:
                clusters.unite(numbers[0], number)
    if settings.near and sketches is not None:
        alive = [number for number, row in enumerate(ranked) if row.alive]
        _drop_near(ranked, alive, [order[number] for number in alive], clusters, settings.threshold, sketches)
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
            kept = first.setdefault((row.kind, row.label, tuple(row.tags), row.roles), row)
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


def _drop_near(
    ranked: Sequence[Row],
    alive: Sequence[int],
    numbers: Sequence[int],
    clusters: Clusters,
    threshold: float,
    sketches: Sketches,
) -> None:
    """Of documents that are nearly the same one stays, and none when a held-out row is nearly the same.

    alive, numbers   where those still alive stand among `ranked`, and their numbers in `sketches`
    """
    near = Clusters(len(alive))
    for one, other in near_pairs(sketches.ranked(numbers), lambda k: sketches.hashes(numbers[k]), threshold):
        near.unite(one, other)
        clusters.unite(alive[one], alive[other])
    for group in near.groups():
        held = [k for k in group if ranked[alive[k]].held_out]
        documents = [k for k in group if k not in held and _may_go(ranked[alive[k]])]
        kept = held[0] if held else documents[0] if documents else None
        for k in documents:
            if k != kept and kept is not None:
                similarity = round(jaccard(sketches.hashes(numbers[kept]), sketches.hashes(numbers[k])), 3)
                keeper = ranked[alive[kept]].row_id
                ranked[alive[k]].drop("near_duplicate", value=similarity, threshold=f"< {threshold:g}", kept_id=keeper)


def _may_go(row: Row) -> bool:
    # An equal text that was restored is not to go as a nearly equal one.
    return row.kind == "document" and "restored_exact_duplicate" not in row.rules


def _warn(ranked: Sequence[Row], conflicts: list[Row]) -> None:
    if conflicts:
        texts = len({row.key for row in conflicts})
        shown = ", ".join(f"{row.origin} ({', '.join(row.names)})" for row in conflicts[:4])
        warn(f"{texts} texts occur with more than one label; all are kept, see label_conflict in the ledger: {shown}")
    tests = {row.cluster for row in ranked if row.fixed == "test" and row.cluster}
    leaks = sum(row.alive and not row.held_out and row.cluster in tests for row in ranked)
    if leaks:
        warn(f"{leaks} rows to learn from are nearly the same as a row of the test source; see cluster in the ledger")
