"""Rows to learn from that give away a row to be scored on: found by runs of words, dropped by a named rule.

A held-out row is given away by a row that has 13 of its words in sequence (Brown et al. 2020, arXiv 2005.14165,
appendix C), or whose 8-word runs cover half of it. Running text is judged by the half alone: one shared sentence of a
book's many gives nothing away. In a short row a single run would be half of it, and "How long does it take to get my"
opens many questions; there 70 % of the 8-word runs must be shared (Chowdhery et al. 2022, arXiv 2204.02311, section 8).
Held-out rows are never touched.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from wyrmling.core.log import warn
from wyrmling.data.dedup import hash_words, mix_runs, split_words
from wyrmling.data.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

LONG_RUN, SHORT_RUN = 13, 8
SHORT_WORDS = 2 * LONG_RUN
COVERED, SHARED_RUNS = 0.5, 0.7
# assumption: a run of words in more than 5 % of the held-out rows (and in more than two) is a template of theirs.
TEMPLATE_SHARE, TEMPLATE_ROWS = 0.05, 2


def decontaminate(rows: Sequence[Row]) -> None:
    """Drop train rows that overlap with a validation or test row, by the rules "overlaps_val" and "overlaps_test".

    Rows below 8 words are compared as equal only, which the de-duplication did. `kept_id` names the held-out row.
    """
    alive = [row for row in rows if row.alive]
    held = sorted((row for row in alive if row.split in ("val", "test")), key=lambda row: (row.split, row.row_id))
    learned = [row for row in alive if row.split == "train"]
    if not held or not learned:
        return
    index = _Index(held)
    dropped: Counter[str] = Counter()
    for row in learned:
        if (found := index.find(row)) is not None:
            rule = f"overlaps_{found.item.split}"
            if row.drop(rule, value=found.value, threshold=found.threshold, kept_id=found.item.row_id):
                dropped[str(found.item.split)] += 1
    for split, count in dropped.items():
        warn(f"{count} rows to learn from were dropped: each shares long runs of words with a {split} row")


class Overlap(NamedTuple):
    """What a row shares with a held-out one: the share in [0, 1], and value and threshold for the ledger."""

    item: Row
    share: float
    value: str
    threshold: str


class _Index:
    """The 8-word and 13-word runs of held-out rows."""

    def __init__(self, items: Sequence[Row]) -> None:
        import numpy as np

        self._words: dict[str, int] = {}
        self._items = items
        self._sizes: list[int] = []
        self._long: dict[int, int] = {}
        self._short: dict[int, list[tuple[int, int]]] = defaultdict(list)
        longs, shorts = [], []
        for item in items:
            hashes = self._hash(item)
            self._sizes.append(len(hashes))
            longs.append(mix_runs(hashes, LONG_RUN) if item.kind != "document" else hashes[:0])
            shorts.append(mix_runs(hashes, SHORT_RUN))
        limit = max(TEMPLATE_ROWS, TEMPLATE_SHARE * len(items))
        templates = _in_more_than(limit, longs)
        for number, runs in enumerate(longs):
            self._long.update((run, number) for run in runs.tolist() if run not in templates)
        templates = _in_more_than(limit, shorts)
        for number, runs in enumerate(shorts):
            for place, run in enumerate(runs.tolist()):
                if run not in templates:
                    self._short[run].append((number, place))
        self._known = np.array(sorted(self._short), np.uint64)

    def _hash(self, row: Row) -> Hashes:
        return hash_words(split_words(row.body), self._words)

    def find(self, row: Row) -> Overlap | None:
        """The held-out row that `row` gives away; None when there is none."""
        import numpy as np

        hashes = self._hash(row)
        runs = np.unique(mix_runs(hashes, SHORT_RUN))
        if not len(runs) or not len(self._known):
            return None
        places = np.searchsorted(self._known, runs).clip(max=len(self._known) - 1)
        shared = runs[self._known[places] == runs].tolist()
        if not shared:
            return None
        for run in mix_runs(hashes, LONG_RUN).tolist():
            if (number := self._long.get(run)) is not None:
                return Overlap(self._items[number], 1.0, f"{LONG_RUN} words in sequence", f"< {LONG_RUN}")
        return self._covered(shared)

    def _covered(self, shared: Iterable[int]) -> Overlap | None:
        """The held-out row that these 8-word runs cover most, if that is enough."""
        places: dict[int, set[int]] = defaultdict(set)
        for run in shared:
            for number, place in self._short[run]:
                places[number].add(place)
        best: Overlap | None = None
        for number, of_item in sorted(places.items()):
            size = self._sizes[number]
            if size < SHORT_WORDS:
                share, least, what = len(of_item) / (size - SHORT_RUN + 1), SHARED_RUNS, "8-word runs"
            else:
                words = {word for place in of_item for word in range(place, place + SHORT_RUN)}
                share, least, what = len(words) / size, COVERED, "words"
            if share >= least and (best is None or share > best.share):
                best = Overlap(self._items[number], share, f"{share:.2f} of its {what}", f"< {least:g}")
        return best


def _in_more_than(limit: float, of_items: Iterable[Hashes]) -> set[int]:
    counts = Counter(run for runs in of_items for run in set(runs.tolist()))
    return {run for run, count in counts.items() if count > limit}
