"""The rows of a data artifact, read a few hundred at a time, and samples of them.

A row group of examples.parquet is the unit that memory and shards are counted in; no pass holds more than one.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from wyrmling.tokenizer import bpe

Example = dict[str, Any]

_READ_ROWS = 256

# Vocabularies are learned from at most so much text, drawn evenly: more changes them little, and the words of 200 MB
# take about 0.8 GB while they are counted.
MAX_CORPUS_BYTES = 200_000_000

# Rows on which encoders are compared: enough to meet what is common and what is extreme. The longest are cut,
# `tokenizers` reads about 3 MB a second.
RANDOM_ROWS, LONGEST_ROWS, MAX_CHECK_CHARS = 200, 50, 100_000

# Rows of each source and split on which bytes per token are counted, and the part of each.
SAMPLE_ROWS, MAX_SAMPLE_CHARS = 100, 2_000


class Survey(NamedTuple):
    """What one pass over the rows finds.

    train_bytes  UTF-8 bytes of the training texts, each as far as a vocabulary learns from it
    check        rows drawn at random, and the longest
    sample       rows drawn from each source and split
    """

    rows: int
    train_bytes: int
    check: list[Example]
    sample: list[Example]


class Examples:
    """The rows of an examples.parquet in order."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)

    def rows(self, groups: Iterable[int] | None = None) -> Iterator[Example]:
        """The rows of some row groups, of all by default."""
        for group in range(self._file.num_row_groups) if groups is None else groups:
            # One group at a time: a reader of several keeps what it has read of each.
            for batch in self._file.iter_batches(batch_size=_READ_ROWS, row_groups=[group], use_threads=False):
                yield from batch.to_pylist()

    def shards(self, n_bytes: int) -> list[list[int]]:
        """The row groups in order, as many together as it takes to reach `n_bytes` uncompressed."""
        shards: list[list[int]] = []
        size = n_bytes
        for group in range(self._file.num_row_groups):
            if size >= n_bytes:
                shards.append([])
                size = 0
            shards[-1].append(group)
            size += self._file.metadata.row_group(group).total_byte_size
        return shards

    def survey(self, *, seed: int) -> Survey:
        """Count and sample all rows; `seed` draws those to check on."""
        n_rows = train_bytes = 0
        random, longest = _Lowest(RANDOM_ROWS, MAX_CHECK_CHARS), _Lowest(LONGEST_ROWS, MAX_CHECK_CHARS)
        sample: dict[tuple[str, str], _Lowest] = {}
        for row in self.rows():
            n_rows += 1
            random.offer(_draw(row, f"check {seed}"), row)
            longest.offer(-float(chars(row)), row)
            group = (row["source"], row["split"])
            sample.setdefault(group, _Lowest(SAMPLE_ROWS, MAX_SAMPLE_CHARS)).offer(_draw(row, "sample"), row)
            if row["split"] == "train":
                train_bytes += sum(len(bpe.clipped(text).encode()) for text in texts(row))
        check = {row["row_id"]: row for row in (*random.rows(), *longest.rows())}
        return Survey(
            n_rows, train_bytes, list(check.values()), [row for _, few in sorted(sample.items()) for row in few.rows()]
        )


class Corpus:
    """The training texts, drawn evenly down to `max_bytes`; can be gone through again."""

    def __init__(self, examples: Examples, train_bytes: int, max_bytes: int = MAX_CORPUS_BYTES) -> None:
        self._examples = examples
        self._share = min(1.0, max_bytes / max(train_bytes, 1))

    def __iter__(self) -> Iterator[str]:
        for row in self._examples.rows():
            if row["split"] == "train" and (self._share == 1.0 or _draw(row, "corpus") < self._share):
                yield from texts(row)


class _Lowest:
    """The `n` rows with the lowest keys, each cut to `max_chars`."""

    def __init__(self, n: int, max_chars: int) -> None:
        self._n, self._max_chars = n, max_chars
        self._heap: list[tuple[float, int, Example]] = []
        self._offered = 0

    def offer(self, key: float, row: Example) -> None:
        self._offered += 1
        if len(self._heap) < self._n:
            heapq.heappush(self._heap, (-key, -self._offered, clip(row, self._max_chars)))
        elif -key > self._heap[0][0]:
            heapq.heapreplace(self._heap, (-key, -self._offered, clip(row, self._max_chars)))

    def rows(self) -> list[Example]:
        """In the order in which they were offered."""
        return [row for _, _, row in sorted(self._heap, key=lambda entry: -entry[1])]


def _draw(row: Example, purpose: str) -> float:
    """A number from 0 to 1 that is the same for a row whatever stands around it."""
    digest = hashlib.blake2b(f"{purpose}/{row['row_id']}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def texts(row: Example) -> Iterator[str]:
    """Every text of a row: of a conversation its messages, of a pair its two answers too, of all others their text."""
    if row.get("messages"):
        said = [message["content"] for message in row["messages"]] + [row.get("chosen"), row.get("rejected")]
        yield from (text for text in said if text)
    elif row["text"]:
        yield row["text"]


def chars(row: Example) -> int:
    """Characters of a row's texts."""
    return sum(map(len, texts(row)))


def clip(row: Example, max_chars: int) -> Example:
    """The row with no more than `max_chars` characters in a text, and as many words."""
    clipped = dict(row)
    for column in ("text", "chosen", "rejected"):
        if row.get(column):
            clipped[column] = row[column][:max_chars]
    if row["messages"]:
        clipped["messages"] = [
            {**said, "content": said["content"] and said["content"][:max_chars]} for said in row["messages"]
        ]
    for column in ("words", "tags"):
        clipped[column] = row[column] and row[column][:max_chars]
    return clipped


def batches(rows: Iterable[Example], *, max_rows: int, max_chars: int) -> Iterator[list[Example]]:
    """The rows in order, as many together as the two limits allow, at least one."""
    batch: list[Example] = []
    left = max_chars
    for row in rows:
        size = chars(row)
        if batch and (len(batch) == max_rows or size > left):
            yield batch
            batch, left = [], max_chars
        batch.append(row)
        left -= size
    if batch:
        yield batch
