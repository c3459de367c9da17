"""What near-duplicates are found by: a signature per row, and its shingles for the pairs that have to be compared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wyrmling.data.dedup import BAND_ROWS, BANDS, shingle_hashes, signatures
from wyrmling.data.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wyrmling.data.dedup import Hashes, Signatures

WIDTH = BANDS * BAND_ROWS
# Below this many words two different texts share too few shingles to judge. For rows that are only kept together, and
# not dropped, a looser bound does no harm. (assumptions)
MIN_WORDS = {"document": 20, "labelled": 8, "tagged": 8, "conversation": 8, "pair": 8, "rating": 8}
# Signatures are read in pieces of so many rows, 15 MB.
ROWS_AT_ONCE = 32_768


class Sketches(Protocol):
    """Shingles and signatures of rows by number; a row that is too short to judge has no shingles."""

    def ranked(self, order: Sequence[int]) -> Signatures:
        """Something that gives the columns [:, a:b] of the signatures, rows in this order."""

    def hashes(self, number: int) -> Hashes:
        """The shingles of a row, sorted and unique."""


class InMemory:
    """Sketches of rows that hold their texts."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.sets = [shingle_hashes(row.body) if is_long_enough(row) else shingle_hashes("") for row in rows]
        self.signatures = signatures(self.sets)

    def ranked(self, order: Sequence[int]) -> Signatures:
        return self.signatures[list(order)]

    def hashes(self, number: int) -> Hashes:
        return self.sets[number]

    def write(self, path: Path) -> None:
        """Write <path>.sig and <path>.hashes, and last <path>.ends: where the shingles of each row end, uint64."""
        import numpy as np

        ends = np.cumsum([len(hashes) for hashes in self.sets], dtype=np.uint64)
        flat = np.concatenate([np.empty(0, np.uint64), *self.sets])
        for suffix, array in ((".sig", self.signatures), (".hashes", flat), (".ends", ends)):
            temporary = path.with_name(f"{path.name}{suffix}.{os.getpid()}")
            array.tofile(temporary)
            os.replace(temporary, path.with_name(path.name + suffix))


class OnDisk:
    """Sketches as `InMemory.write` left them, one file set per shard, in the order of rows."""

    def __init__(self, paths: Sequence[Path]) -> None:
        import numpy as np

        self._paths = paths
        self._ends = [np.fromfile(path.with_name(path.name + ".ends"), np.uint64) for path in paths]
        self._starts = np.cumsum([0, *(len(ends) for ends in self._ends)])

    def ranked(self, order: Sequence[int]) -> Any:
        import numpy as np

        return _Ranked(self._paths, np.asarray(order, np.int64))

    def hashes(self, number: int) -> Hashes:
        import numpy as np

        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        row = number - int(self._starts[shard])
        start, end = int(self._ends[shard][row - 1]) if row else 0, int(self._ends[shard][row])
        path = self._paths[shard]
        return np.fromfile(path.with_name(path.name + ".hashes"), np.uint64, end - start, offset=8 * start)


class _Ranked:
    """Signatures on disk in another order. Read, not mapped: a map of all of them would count as memory."""

    def __init__(self, paths: Sequence[Path], order: NDArray[np.int64]) -> None:
        self._paths, self._order = paths, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, key: tuple[slice, slice]) -> Signatures:
        import numpy as np

        parts = [np.empty((0, WIDTH), np.uint32)[:, key[1]]]
        for path in self._paths:
            with path.with_name(path.name + ".sig").open("rb") as file:
                while len(part := np.fromfile(file, np.uint32, ROWS_AT_ONCE * WIDTH)):
                    parts.append(part.reshape(-1, WIDTH)[:, key[1]].copy())
        columns: Signatures = np.concatenate(parts)[self._order][key[0]]
        return columns


def is_long_enough(row: Row) -> bool:
    # Text without spaces (Chinese, Japanese) is counted by characters.
    return row.alive and (
        len(row.body.split()) >= MIN_WORDS[row.kind]
        or (not row.body.isascii() and len(row.body) >= 3 * MIN_WORDS[row.kind])
    )
