"""Rows to learn from that give away a row to be scored on: found by runs of words, dropped by a named rule.

A held-out row is given away by a row that has 13 of its words in sequence (Brown et al. 2020, arXiv 2005.14165,
appendix C), or whose 8-word runs cover half of it. Running text is judged by the half alone: one shared sentence of a
book's many gives nothing away. In a short row a single run would be half of it, and "How long does it take to get my"
opens many questions; there 70 % of the 8-word runs must be shared (Chowdhery et al. 2022, arXiv 2204.02311, section 8).
Held-out rows are never touched.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wyrmling.core.log import warn
from wyrmling.data.dedup import distinct, mix_runs
from wyrmling.data.matching import word_hashes
from wyrmling.data.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Numbers = NDArray[np.int64] | NDArray[np.int32]

LONG_RUN, SHORT_RUN = 13, 8
SHORT_WORDS = 2 * LONG_RUN
COVERED, SHARED_RUNS = 0.5, 0.7
# assumption: a run of words in more than 5 % of the held-out rows (and in more than two) is a template of theirs.
TEMPLATE_SHARE, TEMPLATE_ROWS = 0.05, 2


def held_out(rows: Sequence[Row]) -> list[Row]:
    """The rows to be scored on, in the order in which an index numbers them; none when there is nothing to learn."""
    alive = [row for row in rows if row.alive]
    if not any(row.split == "train" for row in alive):
        return []
    return sorted((row for row in alive if row.split in ("val", "test")), key=lambda row: (row.split, row.row_id))


class Overlap(NamedTuple):
    """What a row shares with a held-out one: that one's number, and value and threshold for the ledger."""

    item: int
    value: str
    threshold: str


def drop_overlaps(held: Sequence[Row], found: Iterable[tuple[Row, Overlap]]) -> None:
    """Drop train rows by the rules "overlaps_val" and "overlaps_test"; `kept_id` names the held-out row."""
    dropped: Counter[str] = Counter()
    for row, overlap in found:
        item = held[overlap.item]
        rule = f"overlaps_{item.split}"
        if row.drop(rule, value=overlap.value, threshold=overlap.threshold, kept_id=item.row_id):
            dropped[str(item.split)] += 1
    for split, count in sorted(dropped.items()):
        warn(f"{count} rows to learn from were dropped: each shares long runs of words with a {split} row")


@dataclass(frozen=True)
class Index:
    """The runs of words of held-out rows, ascending, with the number of the row that each stands in.

    sizes                       words of each row
    long_runs, long_items       13-word runs, of rows that are no running text
    short_runs, short_items     8-word runs; short_places counts the words before each
    """

    sizes: Numbers
    long_runs: Hashes
    long_items: Numbers
    short_runs: Hashes
    short_items: Numbers
    short_places: Numbers

    @classmethod
    def build(cls, texts: Iterable[tuple[str, bool]]) -> Index:
        """The index of texts, each with whether it is running text. Rows below 8 words give no runs."""
        import numpy as np

        sizes, longs, shorts = [], [], []
        for text, running in texts:
            hashes = word_hashes(text)
            sizes.append(len(hashes))
            longs.append(mix_runs(hashes, LONG_RUN) if not running else hashes[:0])
            shorts.append(mix_runs(hashes, SHORT_RUN))
        limit = max(TEMPLATE_ROWS, TEMPLATE_SHARE * len(sizes))
        long_runs, long_items, _ = _table(longs, limit)
        short_runs, short_items, short_places = _table(shorts, limit)
        return cls(np.array(sizes, np.int64), long_runs, long_items, short_runs, short_items, short_places)

    def save(self, path: Path) -> None:
        """Write the index as one .npz file."""
        import numpy as np

        with path.open("wb") as file:
            np.savez(file, **{one.name: getattr(self, one.name) for one in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Index:
        import numpy as np

        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{one.name: arrays[one.name] for one in fields(cls)})

    def find(self, text: str) -> Overlap | None:
        """The held-out row that a text gives away; None when there is none."""
        hashes = word_hashes(text)
        shared = _places(self.short_runs, distinct(mix_runs(hashes, SHORT_RUN)))
        if not len(shared):
            return None
        runs = mix_runs(hashes, LONG_RUN)
        if len(runs) and len(known := _places(self.long_runs, runs)):
            return Overlap(int(self.long_items[known[0]]), f"{LONG_RUN} words in sequence", f"< {LONG_RUN}")
        return self._covered(shared)

    def all_in(self, text: str) -> set[int]:
        """The numbers of all held-out rows that a text gives away."""
        hashes = word_hashes(text)
        shared = _places(self.short_runs, distinct(mix_runs(hashes, SHORT_RUN)))
        if not len(shared):
            return set()
        in_sequence = self.long_items[_places(self.long_runs, mix_runs(hashes, LONG_RUN))].tolist()
        return {*in_sequence, *(item for item, share, least, _ in self._shares(shared) if share >= least)}

    def _covered(self, shared: Numbers) -> Overlap | None:
        """The held-out row that these 8-word runs cover most, if that is enough."""
        best, best_share = None, 0.0
        for item, share, least, what in self._shares(shared):
            if share >= least and share > best_share:
                best, best_share = Overlap(item, f"{share:.2f} of its {what}", f"< {least:g}"), share
        return best

    def _shares(self, shared: Numbers) -> Iterator[tuple[int, float, float, str]]:
        """Of each held-out row how much these 8-word runs cover, how much is too much, and of what."""
        places: dict[int, set[int]] = defaultdict(set)
        for item, place in zip(self.short_items[shared].tolist(), self.short_places[shared].tolist(), strict=True):
            places[item].add(place)
        for item, of_item in sorted(places.items()):
            size = int(self.sizes[item])
            if size < SHORT_WORDS:
                share, least, what = len(of_item) / (size - SHORT_RUN + 1), SHARED_RUNS, "8-word runs"
            else:
                words = {word for place in of_item for word in range(place, place + SHORT_RUN)}
                share, least, what = len(words) / size, COVERED, "words"
            yield item, share, least, what


def _table(of_items: Sequence[Hashes], limit: float) -> tuple[Hashes, Numbers, Numbers]:
    """Runs of all items, ascending, with item and place, without those that stand in more than `limit` items."""
    import numpy as np

    runs = np.concatenate([np.empty(0, np.uint64), *of_items])
    items = np.repeat(np.arange(len(of_items)), [len(one) for one in of_items])
    places = np.concatenate([np.empty(0, np.int64), *(np.arange(len(one)) for one in of_items)])
    order = np.lexsort((places, items, runs))
    runs, items, places = runs[order], items[order].astype(np.int32), places[order].astype(np.int32)
    new = np.ones(len(runs), bool)
    new[1:] = runs[1:] != runs[:-1]
    new_item = new.copy()
    new_item[1:] |= items[1:] != items[:-1]
    rare = np.add.reduceat(new_item, np.flatnonzero(new))[np.cumsum(new) - 1] <= limit if len(runs) else new
    return runs[rare], items[rare], places[rare]


def _places(known: Hashes, wanted: Hashes) -> Numbers:
    """Where the wanted runs stand among the known ones, in the order of `wanted`."""
    import numpy as np

    if not len(known):
        return np.empty(0, np.int64)
    first = np.searchsorted(known, wanted)
    there = known[first.clip(max=len(known) - 1)] == wanted
    first, last = first[there], np.searchsorted(known, wanted[there], side="right")
    return np.concatenate([np.empty(0, np.int64), *(np.arange(a, b) for a, b in zip(first, last, strict=True))])
