"""Writes a token store shard by shard: a new one, or more shards for one that exists."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wyrmling.core.artifact import file_digest, sync_folder, write_durably
from wyrmling.core.errors import CorruptArtifact
from wyrmling.core.progress import Bar
from wyrmling.tokenizer.bulk import Encoder, Flat
from wyrmling.tokenizer.chat import Piece
from wyrmling.tokenizer.examples import Example, batches
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import (
    FORMAT,
    NO_TAG,
    ROWS_SCHEMA,
    SHARDS_FILE,
    SPLITS,
    STORE_FILE,
    pair_pieces,
    read_description,
    read_shards,
    require_tokenizer,
    row_pieces,
)

# Encoded together: enough to keep all cores busy, and little enough for a laptop when each row is a book.
BATCH_ROWS = 2048
BATCH_CHARS = 4_000_000


class _Batch:
    """Examples as one flat list of pieces, ready to be encoded together."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.tokens: list[int] = []  # the id of each piece, -1 for a text
        self.learn: list[bool] = []
        self.tags: list[int] = []  # per piece
        self.first_pieces: list[int] = []  # per row
        self.seconds: dict[int, int] = {}  # of a row that is a pair, the first piece of its second conversation

    def add(self, pieces: Sequence[Piece], tags: Iterator[int]) -> None:
        """Append a row. Each text piece takes the next of `tags`, or none when they run out."""
        self.first_pieces.append(len(self.tokens))
        for piece in pieces:
            is_text = piece.token is None
            if is_text:
                self.texts.append(piece.text)
            self.tokens.append(-1 if piece.token is None else piece.token)
            self.learn.append(piece.learn)
            self.tags.append(next(tags, NO_TAG) if is_text else NO_TAG)


class _Encoded(NamedTuple):
    """The tokens of a batch, flat; `starts` has the first token of each row and, last, the number of tokens.

    seconds   per row, where in it a second conversation begins; 0 where there is none
    """

    ids: npt.NDArray[np.uint32]
    learn: npt.NDArray[np.uint8]
    tags: npt.NDArray[np.int16]
    starts: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.int64]


class _Files:
    """The files of one split of a shard, while they are written."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._open = {kind: (folder / f"{name}.{kind}").open("wb") for kind in ("tokens", "learn", "ends", "tags")}
        self._rows: list[pa.RecordBatch] = []
        self.n_tokens = self._n_bytes = self._tagged = 0

    def write(self, encoded: _Encoded, rows: dict[str, Any], dtype: np.dtype[Any], *, tagged: int) -> None:
        ends = encoded.starts[1:] + self.n_tokens
        for kind, values in (
            ("tokens", encoded.ids.astype(dtype)),
            ("learn", encoded.learn),
            ("ends", ends.astype("<u8")),
            ("tags", encoded.tags.astype("<i2")),
        ):
            self._open[kind].write(values.tobytes())
        self._rows.append(pa.record_batch(rows, schema=ROWS_SCHEMA))
        self.n_tokens += len(encoded.ids)
        self._n_bytes += sum(rows["n_bytes"])
        self._tagged += tagged

    def close(self) -> dict[str, Any]:
        """Make the files durable; what `shards.jsonl` says of them."""
        for handle in self._open.values():
            handle.flush()
            os.fsync(handle.fileno())
            handle.close()
        if not self._tagged:
            (self._folder / f"{self._name}.tags").unlink()
            del self._open["tags"]
        rows = self._folder / f"{self._name}.rows.parquet"
        pq.write_table(pa.Table.from_batches(self._rows, schema=ROWS_SCHEMA), rows, compression="zstd")
        with rows.open("rb") as written:
            os.fsync(written.fileno())
        kinds = [*self._open, "rows.parquet"]
        return {
            "rows": sum(len(part) for part in self._rows),
            "tokens": self.n_tokens,
            "n_bytes": self._n_bytes,
            "tagged": self._tagged,
            "files": {kind: _seal(self._folder / f"{self._name}.{kind}") for kind in kinds},
        }


def _seal(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


class StoreWriter:
    """Adds shards to the store in `folder`, which is begun when there is none.

    labels, tags  the names behind the numbers, from the data artifact's labels.json; those of an existing store keep
                  their numbers, new ones follow
    several       whether a row may have several labels
    Raises   CorruptArtifact when the existing store was made by another tokenizer.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        encoder: Encoder,
        *,
        labels: Sequence[str],
        tags: Sequence[str],
        several: bool = False,
    ) -> None:
        self._folder, self._tokenizer, self._encoder = folder, tokenizer, encoder
        existing = read_description(folder) if (folder / STORE_FILE).is_file() else {"labels": [], "tags": []}
        if "tokenizer_sha256" in existing:
            require_tokenizer(folder, existing, tokenizer.sha256)
        self._labels = _numbered([*existing["labels"], *labels])
        self._tags = _numbered([*existing["tags"], *tags])
        self._several = several
        # The largest value is kept free, as other readers of this layout do.
        self._dtype = np.dtype("<u2") if tokenizer.vocab_size <= 65_535 else np.dtype("<u4")
        self._token_bytes = np.array(
            [len(tokenizer.token_bytes(id_)) for id_ in range(tokenizer.vocab_size)], dtype=np.int32
        )
        folder.mkdir(exist_ok=True)
        write_durably(folder / STORE_FILE, json.dumps(self._description(), indent=1, ensure_ascii=False).encode())
        _cut_unfinished_line(folder / SHARDS_FILE)
        self.shards = read_shards(folder)
        """What `shards.jsonl` says of each finished shard, in order."""

    def _description(self) -> dict[str, Any]:
        tokenizer = self._tokenizer
        return {
            "format": FORMAT,
            "dtype": "uint16" if self._dtype.itemsize == 2 else "uint32",
            "vocab_size": tokenizer.vocab_size,
            "tokenizer_sha256": tokenizer.sha256,
            "labels": list(self._labels),
            "tags": list(self._tags),
            "several": self._several,
            "special_ids": {
                "bos": tokenizer.bos_id,
                "eos": tokenizer.eos_id,
                "mask": tokenizer.mask_id,
                "pad": tokenizer.pad_id,
                "im_end": tokenizer.im_end_id,
            },
        }

    def add(self, rows: Iterable[Example], progress: Bar) -> None:
        """Write the next shard: rows of any split, each a dict in the columns of EXAMPLE_SCHEMA.

        It counts as written once its line is in `shards.jsonl`; what an interrupted attempt left is written over.
        Raises   BadInput naming the row when the chat template or the vocabulary can't take it.
        """
        number = len(self.shards)
        files: dict[str, _Files] = {}
        for batch in batches(rows, max_rows=BATCH_ROWS, max_chars=BATCH_CHARS):
            for split in SPLITS:
                if mine := [row for row in batch if row["split"] == split]:
                    if split not in files:
                        files[split] = _Files(self._folder, f"{split}-{number:05d}")
                    encoded = self._encode(mine)
                    tagged = sum(row["kind"] == "tagged" for row in mine)
                    files[split].write(encoded, self._describe(mine, encoded), self._dtype, tagged=tagged)
            progress.advance(len(batch))
        shard = {"shard": number, "splits": {split: file.close() for split, file in files.items()}}
        sync_folder(self._folder)
        _append_line(self._folder / SHARDS_FILE, json.dumps(shard))
        self.shards.append(shard)

    def _encode(self, examples: list[Example]) -> _Encoded:
        """All texts of the batch encoded in one call, with the known tokens put between them."""
        batch = _Batch()
        for example in examples:
            tags = example["tags"] if example["kind"] == "tagged" else ()
            numbers = iter([self._number(self._tags, tag, example) for tag in tags])
            if example["kind"] == "pair":
                chosen, rejected = pair_pieces(self._tokenizer, example)
                batch.seconds[len(batch.first_pieces)] = len(batch.tokens) + len(chosen)
                batch.add([*chosen, *rejected], numbers)
            else:
                batch.add(row_pieces(self._tokenizer, example), numbers)
        flat = self._encoder.encode(batch.texts)
        tokens = np.array(batch.tokens, dtype=np.int32)
        piece_tags = np.array(batch.tags, dtype=np.int16)
        lengths = np.ones(len(tokens), dtype=np.int64)
        lengths[tokens < 0] = np.diff(flat.offsets)
        text_of_piece = np.cumsum(tokens < 0) - 1
        for piece in np.flatnonzero((lengths == 0) & (piece_tags != NO_TAG)):
            # A word that the vocabulary drops altogether still needs a place for its tag.
            tokens[piece] = self._tokenizer.unspelled(batch.texts[text_of_piece[piece]])
            lengths[piece] = 1
        encoded = _lay_out(flat, tokens, lengths, batch, piece_tags)
        if int(encoded.ids.max(initial=0)) >= self._tokenizer.vocab_size:
            # Checked here because a too large id would wrap around silently in 16 bits.
            raise CorruptArtifact(
                f"token id {encoded.ids.max()} is outside the vocabulary of {self._tokenizer.vocab_size}",
                where=self._folder,
                fix="the tokenizer.json of the base model contradicts itself; restore it",
            )
        return encoded

    def _describe(self, examples: list[Example], encoded: _Encoded) -> dict[str, Any]:
        """The columns of rows.parquet for a batch."""
        learned_bytes = self._token_bytes[encoded.ids] * encoded.learn
        n_bytes = np.add.reduceat(learned_bytes, encoded.starts[:-1], dtype=np.int64)
        rows: dict[str, Any] = {
            column: [example[column] for example in examples] for column in ("row_id", "source", "origin", "kind")
        }
        rows["label"] = [self._label(example) for example in examples]
        rows["labels"] = [
            [self._number(self._labels, name, example) for name in example.get("labels") or ()] for example in examples
        ]
        rows["second"] = encoded.seconds.tolist()
        # The space before the first of the words is learned, after an opening token, but is not part of the text.
        spaced = self._tokenizer.is_byte_level and self._tokenizer.bos_id is not None
        rows["n_bytes"] = [
            int(n) - int(spaced and example["kind"] == "tagged") for n, example in zip(n_bytes, examples, strict=True)
        ]
        return rows

    def _label(self, example: Example) -> int:
        if example["kind"] == "rating":
            return int(example["rating"])
        label = example.get("label")
        return -1 if label is None else self._number(self._labels, label, example)

    def _number(self, numbers: Mapping[str, int], name: str, example: Example) -> int:
        if name not in numbers:
            raise CorruptArtifact(
                f"{name!r} is not among the labels of the data artifact",
                where=example["origin"],
                fix="delete the data artifact and run: wyrmling data",
            )
        return numbers[name]


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _lay_out(
    flat: Flat,
    tokens: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    batch: _Batch,
    piece_tags: npt.NDArray[np.int16],
) -> _Encoded:
    ends = np.cumsum(lengths)
    starts = ends - lengths
    from_text = np.repeat(tokens < 0, lengths)
    ids = np.repeat(tokens, lengths).astype(np.uint32)
    ids[from_text] = flat.ids
    learn = np.repeat(np.array(batch.learn, dtype=np.uint8), lengths)
    targets = np.full(len(ids), NO_TAG, dtype=np.int16)
    tagged = piece_tags != NO_TAG
    targets[starts[tagged]] = piece_tags[tagged]
    row_starts = starts[batch.first_pieces]
    # Nothing stands before the first token of a row that it could be told from.
    learn[row_starts] = 0
    seconds = np.zeros(len(row_starts), dtype=np.int64)
    for row, piece in batch.seconds.items():
        learn[starts[piece]] = 0
        seconds[row] = starts[piece] - row_starts[row]
    return _Encoded(ids, learn, targets, np.append(row_starts, len(ids)), seconds)


def _append_line(path: Path, line: str) -> None:
    with path.open("ab") as handle:
        handle.write(line.encode() + b"\n")
        handle.flush()
        os.fsync(handle.fileno())


def _cut_unfinished_line(path: Path) -> None:
    if path.is_file():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
