"""Which texts say the same: exactly, by their matching form; nearly, by MinHash with every candidate pair verified."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from wyrmling.data.clean import matching_form

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

SHINGLE_WORDS = 5
# 14 bands of 8 rows, as FineWeb (arXiv 2406.17557): a pair of Jaccard 0.75 becomes a candidate with probability
# 1 - (1 - 0.75^8)^14 = 0.77, one of 0.85 with 0.99.
BANDS, BAND_ROWS = 14, 8
# Sketches of about this many shingles are made at once, which bounds the memory.
CHUNK_SHINGLES = 1_000_000
# In a larger bucket each member is compared with the cluster heads only, not with all others.
BUCKET_PAIRS = 64
SEED = 0x5DEECE66D

DIGITS = re.compile(r"\d+")
# Scripts without spaces between words: every character counts as a word.
UNSPACED = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")


def digest(text: str) -> bytes:
    """16 bytes that are equal for texts of the same matching form."""
    return hashlib.blake2b(matching_form(text).encode(), digest_size=16).digest()


class Clusters:
    """Union-find over row numbers. The root of a cluster is its smallest number."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

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
            members[self.root(item)].append(item)
        return (group for group in members.values() if len(group) > 1)


def split_words(text: str) -> list[str]:
    """Words for shingles: matching form, every number as 0, and single characters in scripts without spaces."""
    form = matching_form(text)
    if not form.isascii():
        form = UNSPACED.sub(r" \1 ", form)
    return DIGITS.sub("0", form).split()


def hash_words(words: Sequence[str], known: dict[str, int]) -> Hashes:
    """One 64-bit hash per word. `known` remembers them: words repeat."""
    import numpy as np

    for word in words:
        if word not in known:
            known[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    return np.fromiter((known[word] for word in words), np.uint64, len(words))


def mix_runs(hashes: Hashes, size: int) -> Hashes:
    """One 64-bit hash per run of `size` words, in order; none for fewer words."""
    import numpy as np

    count = len(hashes) - size + 1
    if count < 1:
        return np.empty(0, np.uint64)
    mixed = np.zeros(count, np.uint64)
    for k in range(size):
        # The odd multiplier makes the place of a word count; the shift brings high bits down (splitmix64).
        mixed = (mixed ^ hashes[k : k + count]) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(31)
    return mixed


class Shingles:
    """The sets of 5-word shingles of some texts, as 64-bit hashes: `sets[i]` is sorted, unique, maybe empty."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._words: dict[str, int] = {}
        self.sets: list[Hashes] = [self._shingles(split_words(text)) for text in texts]

    def _shingles(self, words: list[str]) -> Hashes:
        import numpy as np

        return np.unique(mix_runs(hash_words(words, self._words), SHINGLE_WORDS))

    def jaccard(self, one: int, other: int) -> float:
        """Size of the intersection over size of the union; 0 for two empty sets."""
        import numpy as np

        a, b = self.sets[one], self.sets[other]
        shared = len(np.intersect1d(a, b, assume_unique=True))
        union = len(a) + len(b) - shared
        return shared / union if union else 0.0


def near_pairs(shingles: Shingles, threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of texts with Jaccard similarity of at least `threshold`, as found by MinHash and verified exactly.

    Enough pairs to join each cluster, not all pairs. Texts of fewer than 5 words are never near anything.
    """
    found = Clusters(len(shingles.sets))
    tried: set[tuple[int, int]] = set()
    for bucket in _buckets(shingles.sets):
        if len(bucket) <= BUCKET_PAIRS:
            pairs: Iterable[tuple[int, int]] = combinations(bucket, 2)
        else:
            pairs = _head_pairs(bucket, found)
        for one, other in pairs:
            if (one, other) in tried or found.root(one) == found.root(other):
                continue
            tried.add((one, other))
            if shingles.jaccard(one, other) >= threshold:
                found.unite(one, other)
                yield one, other


def _head_pairs(bucket: list[int], found: Clusters) -> Iterator[tuple[int, int]]:
    """Each member with the heads of the clusters so far, at most BUCKET_PAIRS of them."""
    heads: list[int] = []
    for member in bucket:
        for head in heads:
            yield head, member
        if len(heads) < BUCKET_PAIRS and all(found.root(member) != found.root(head) for head in heads):
            heads.append(member)


def _buckets(sets: Sequence[Hashes]) -> Iterator[list[int]]:
    """Groups of texts, ascending, that share all minima of one band. Same text, same bucket, whatever the order."""
    import numpy as np

    filled = [number for number, hashes in enumerate(sets) if len(hashes)]
    if len(filled) < 2:
        return
    signatures = np.concatenate(list(_signatures([sets[number] for number in filled])))
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * BAND_ROWS : (band + 1) * BAND_ROWS])
        keys = part.view(np.dtype((np.void, part.shape[1] * part.itemsize))).ravel()
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate(([0], np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1, [len(order)]))
        for k in np.flatnonzero(np.diff(starts) > 1):
            yield sorted(filled[n] for n in order[starts[k] : starts[k + 1]])


def _signatures(sets: Sequence[Hashes]) -> Iterator[Any]:
    """uint32 minima, one row of 112 per set: `min((a[k] * x + b[k]) >> 32)` with odd a[k]."""
    import numpy as np

    random = np.random.Generator(np.random.PCG64(SEED))
    a = random.integers(0, 2**64, BANDS * BAND_ROWS, np.uint64) | np.uint64(1)
    b = random.integers(0, 2**64, BANDS * BAND_ROWS, np.uint64)
    start = 0
    while start < len(sets):
        end, size = start, 0
        while end < len(sets) and (end == start or size + len(sets[end]) <= CHUNK_SHINGLES):
            size += len(sets[end])
            end += 1
        flat = np.concatenate(sets[start:end])
        offsets = np.cumsum([0, *(len(hashes) for hashes in sets[start : end - 1])])
        signature = np.empty((end - start, len(a)), np.uint32)
        for k in range(len(a)):
            signature[:, k] = np.minimum.reduceat(((flat * a[k] + b[k]) >> np.uint64(32)).astype(np.uint32), offsets)
        yield signature
        start = end
