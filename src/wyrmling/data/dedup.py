"""Which texts say the same: exactly, by their matching form; nearly, by MinHash with every candidate pair verified."""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, reduce
from itertools import combinations
from typing import TYPE_CHECKING

from wyrmling.data.matching import matching_form, word_hashes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Signatures = NDArray[np.uint32]

SHINGLE_WORDS = 5
# 14 bands of 8 rows, as FineWeb (arXiv 2406.17557): a pair of Jaccard 0.75 becomes a candidate with probability
# 1 - (1 - 0.75^8)^14 = 0.77, one of 0.85 with 0.99.
BANDS, BAND_ROWS = 14, 8
# Signatures of about this many shingles are made at once: half a megabyte, which the processor's cache holds.
CHUNK_SHINGLES = 2**16
# Pairs that were compared in vain are remembered up to this many; beyond, some are compared again.
TRIED_PAIRS = 1_000_000
# A text of fewer than 5 words has no shingle: no minimum, which is written as the largest number.
NO_SHINGLE = 0xFFFFFFFF
# In a larger bucket each member is compared with the cluster heads only, not with all others.
BUCKET_PAIRS = 64
SEED = 0x5DEECE66D


def digest(text: str) -> bytes:
    """16 bytes that are equal for texts of the same matching form."""
    return hashlib.blake2b(matching_form(text).encode(), digest_size=16).digest()


class Clusters:
    """Union-find over row numbers. The root of a cluster is its smallest number."""

    def __init__(self, size: int) -> None:
        self._parent = array("q", range(size))

    def root(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def unite(self, one: int, other: int) -> None:
        a, b = sorted((self.root(one), self.root(other)))
        self._parent[b] = a

    def groups(self) -> Iterator[list[int]]:
        """Clusters of two or more, each ascending."""
        members: dict[int, list[int]] = defaultdict(list)
        for item in range(len(self._parent)):
            if (root := self.root(item)) != item:
                members[root].append(item)
        return ([root, *members[root]] for root in sorted(members))


def mix_runs(hashes: Hashes, size: int) -> Hashes:
    """One 64-bit hash per run of `size` words, in order; none for fewer words."""
    import numpy as np

    count = max(len(hashes) - size + 1, 0)
    return reduce(mix, (hashes[k : k + count] for k in range(size)), np.zeros(count, np.uint64))


def mix(mixed: Hashes, column: Hashes) -> Hashes:
    """The hashes of sequences that are longer by one: those of their beginnings with what comes next."""
    import numpy as np

    # The odd multiplier makes the place of a number count; the shift brings high bits down (splitmix64).
    mixed = mixed ^ column
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def shingle_hashes(text: str) -> Hashes:
    """The text's set of 5-word shingles as 64-bit hashes: sorted, unique, empty for fewer than 5 words."""
    return distinct(mix_runs(word_hashes(text), SHINGLE_WORDS))


def distinct(hashes: Hashes) -> Hashes:
    """The hashes, ascending, each once. Many times as fast as `numpy.unique`, which builds a hash table."""
    import numpy as np

    hashes = np.sort(hashes)
    return hashes[np.concatenate(([True], hashes[1:] != hashes[:-1]))] if len(hashes) else hashes


def signature(hashes: Hashes) -> Signatures:
    """The 112 minima of one set of shingles, uint32: `min((a[k] * x + b[k]) >> 32)` with odd a[k]."""
    minima: Signatures = signatures([hashes])[0]
    return minima


def signatures(sets: Sequence[Hashes]) -> Signatures:
    """One signature per set of shingles, (sets, 112) uint32: as `signature`, faster for many short texts."""
    import numpy as np

    made = np.full((len(sets), BANDS * BAND_ROWS), NO_SHINGLE, np.uint32)
    filled = [number for number, hashes in enumerate(sets) if len(hashes)]
    start = 0
    while start < len(filled):
        end, size = start, 0
        while end < len(filled) and (end == start or size + len(sets[filled[end]]) <= CHUNK_SHINGLES):
            size += len(sets[filled[end]])
            end += 1
        made[filled[start:end]] = _minima([sets[number] for number in filled[start:end]])
        start = end
    return made


def _minima(sets: Sequence[Hashes]) -> Signatures:
    import numpy as np

    flat = np.concatenate(sets)
    offsets = np.cumsum([0, *(len(hashes) for hashes in sets[:-1])])
    a, b = _multipliers()
    minima = np.empty((len(a), len(sets)), np.uint64)
    values = np.empty_like(flat)
    for k in range(len(a)):
        np.multiply(flat, a[k], out=values)
        np.add(values, b[k], out=values)
        np.minimum.reduceat(values, offsets, out=minima[k])
    # The smallest number has the smallest high half.
    return (minima >> np.uint64(32)).astype(np.uint32).T


@lru_cache(maxsize=1)
def _multipliers() -> tuple[Hashes, Hashes]:
    import numpy as np

    random = np.random.Generator(np.random.PCG64(SEED))
    a = random.integers(0, 2**64, BANDS * BAND_ROWS, np.uint64) | np.uint64(1)
    return a, random.integers(0, 2**64, BANDS * BAND_ROWS, np.uint64)


def jaccard(one: Hashes, other: Hashes) -> float:
    """Size of the intersection over size of the union of two sets; 0 for two empty ones."""
    import numpy as np

    shared = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - shared
    return shared / union if union else 0.0


def near_pairs(
    signatures: Signatures, hashes_of: Callable[[int], Hashes], threshold: float
) -> Iterator[tuple[int, int]]:
    """Pairs of texts with Jaccard similarity of at least `threshold`, as found by MinHash and verified exactly.

    signatures   (texts, 112) uint32, read one band at a time: may be a memory map
    hashes_of    the shingles of a text by its number, asked for candidates only
    Enough pairs to join each cluster, not all pairs. Texts of fewer than 5 words are never near anything.
    """
    found = Clusters(len(signatures))
    tried: set[tuple[int, int]] = set()
    for bucket in _buckets(signatures):
        if len(bucket) <= BUCKET_PAIRS:
            pairs: Iterable[tuple[int, int]] = combinations(bucket, 2)
        else:
            pairs = _head_pairs(bucket, found)
        for one, other in pairs:
            if (one, other) in tried or found.root(one) == found.root(other):
                continue
            if jaccard(hashes_of(one), hashes_of(other)) >= threshold:
                found.unite(one, other)
                yield one, other
                continue
            if len(tried) >= TRIED_PAIRS:
                tried.clear()
            tried.add((one, other))


def _head_pairs(bucket: list[int], found: Clusters) -> Iterator[tuple[int, int]]:
    """Each member with the heads of the clusters so far, at most BUCKET_PAIRS of them."""
    heads: list[int] = []
    for member in bucket:
        for head in heads:
            yield head, member
        if len(heads) < BUCKET_PAIRS and all(found.root(member) != found.root(head) for head in heads):
            heads.append(member)


def _buckets(signatures: Signatures) -> Iterator[list[int]]:
    """Groups of texts, ascending, that share all minima of one band. Same text, same bucket, whatever the order."""
    import numpy as np

    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * BAND_ROWS : (band + 1) * BAND_ROWS])
        filled = np.flatnonzero((part != NO_SHINGLE).any(axis=1))
        if len(filled) < 2:
            return
        # Different bands with one key are candidates too many, which the comparison throws out.
        columns = part[filled].astype(np.uint64).T
        keys = reduce(mix, columns, np.zeros(len(filled), np.uint64))
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate(([0], np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1, [len(order)]))
        for k in np.flatnonzero(np.diff(starts) > 1):
            yield filled[order[starts[k] : starts[k + 1]]].tolist()
