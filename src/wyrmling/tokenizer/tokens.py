"""The token store: every row of a data artifact as token ids, with what is learned of each token, memory-mapped.

`store/` holds per split `<split>.tokens` (ids, little-endian uint16 or uint32), `<split>.learn` (uint8, 1 = a target),
`<split>.tags` (int16, -100 = no target; only where rows are tagged) and `<split>.rows.parquet`. `store.json` describes
them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wyrmling.core.artifact import file_digest, write_durably
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.core.progress import Bar
from wyrmling.tokenizer import chat
from wyrmling.tokenizer.bulk import Encoder, Flat
from wyrmling.tokenizer.chat import Piece
from wyrmling.tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer

FORMAT = 1
STORE = "store"
STORE_FILE = "store.json"
SPLITS = ("train", "val", "test")
NO_TAG = -100

ROWS_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("origin", pa.string()),
        ("kind", pa.string()),
        ("label", pa.int32()),  # index into the labels of store.json, -1 = none
        ("start", pa.int64()),  # first token, in the flat files
        ("length", pa.int32()),  # tokens
        ("n_bytes", pa.int64()),  # UTF-8 bytes of the text that the learned tokens decode to
    ]
)


class SplitCounts(NamedTuple):
    rows: int
    tokens: int
    n_bytes: int
    tagged: int


def row_pieces(tokenizer: Tokenizer, example: dict[str, Any]) -> list[Piece]:
    """What an example becomes in the store, before encoding.

    A document or labelled text is opened, learned and ended; a tagged row is its words, each with the space before it;
    a conversation is its rendered template, of which the assistant's turns are learned.
    Raises   BadInput naming the row when the chat template refuses it.
    """
    if example["kind"] == "conversation":
        try:
            return chat.pieces(tokenizer, example["messages"])
        except BadInput as error:
            raise BadInput(error.what, where=example["origin"], fix=error.fix) from error
    if example["kind"] == "tagged":
        inner = [Piece(tokenizer.word_text(word), learn=True) for word in example["words"]]
    else:
        inner = [Piece(example["text"], learn=True)]
    opening = [] if tokenizer.bos_id is None else [Piece("", tokenizer.bos_id)]
    ending = [] if tokenizer.eos_id is None else [Piece("", tokenizer.eos_id, True)]
    return [*opening, *inner, *ending]


class _Batch:
    """Examples as one flat list of pieces, ready to be encoded together."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.tokens: list[int] = []  # the id of each piece, -1 for a text
        self.learn: list[bool] = []
        self.tags: list[int] = []  # per piece
        self.first_pieces: list[int] = []  # per row

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
    """The tokens of a batch, flat; `starts` has the first token of each row and, last, the number of tokens."""

    ids: npt.NDArray[np.int64]
    learn: npt.NDArray[np.uint8]
    tags: npt.NDArray[np.int16]
    starts: npt.NDArray[np.int64]


class StoreWriter:
    """Writes the splits of a store one batch of examples at a time, then `store.json`.

    labels, tags  the names behind the numbers, from the data artifact's labels.json
    """

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, encoder: Encoder, *, labels: Sequence[str], tags: Sequence[str]
    ) -> None:
        self._folder, self._tokenizer, self._encoder = folder, tokenizer, encoder
        self._labels = {label: index for index, label in enumerate(labels)}
        self._tags = {tag: index for index, tag in enumerate(tags)}
        # The largest value is kept free, as other readers of this layout do.
        self._dtype = np.dtype("<u2") if tokenizer.vocab_size <= 65_535 else np.dtype("<u4")
        self._token_bytes = np.array(
            [len(tokenizer.token_bytes(id_)) for id_ in range(tokenizer.vocab_size)], dtype=np.int64
        )
        self._counts: dict[str, SplitCounts] = {}
        folder.mkdir()

    def split(self, name: str, batches: Iterable[list[dict[str, Any]]], progress: Bar) -> None:
        """Write one split from batches of examples, each a dict in the columns of EXAMPLE_SCHEMA.

        Raises   BadInput naming the row when the chat template or the vocabulary can't take it.
        """
        rows: dict[str, list[Any]] = {column: [] for column in ROWS_SCHEMA.names}
        n_tokens = tagged = 0
        with ExitStack() as stack:
            tokens, learn, tags = (
                stack.enter_context((self._folder / f"{name}.{kind}").open("wb"))
                for kind in ("tokens", "learn", "tags")
            )
            for examples in batches:
                encoded = self._encode(examples)
                tokens.write(encoded.ids.astype(self._dtype).tobytes())
                learn.write(encoded.learn.tobytes())
                tags.write(encoded.tags.astype("<i2").tobytes())
                self._describe(examples, encoded, n_tokens, rows)
                n_tokens += len(encoded.ids)
                tagged += sum(example["kind"] == "tagged" for example in examples)
                progress.advance(len(examples))
        if not tagged:
            (self._folder / f"{name}.tags").unlink()
        pq.write_table(pa.table(rows, schema=ROWS_SCHEMA), self._folder / f"{name}.rows.parquet", compression="zstd")
        self._counts[name] = SplitCounts(len(rows["row_id"]), n_tokens, sum(rows["n_bytes"]), tagged)

    def _encode(self, examples: list[dict[str, Any]]) -> _Encoded:
        """All texts of the batch encoded in one call, with the known tokens put between them."""
        batch = _Batch()
        for example in examples:
            tags = example["tags"] if example["kind"] == "tagged" else ()
            numbers = iter([self._number(self._tags, tag, example) for tag in tags])
            batch.add(row_pieces(self._tokenizer, example), numbers)
        flat = self._encoder.encode(batch.texts)
        tokens = np.array(batch.tokens, dtype=np.int64)
        piece_tags = np.array(batch.tags, dtype=np.int16)
        lengths = np.ones(len(tokens), dtype=np.int64)
        lengths[tokens < 0] = np.diff(flat.offsets)
        text_of_piece = np.cumsum(tokens < 0) - 1
        for piece in np.flatnonzero((lengths == 0) & (piece_tags != NO_TAG)):
            # A word that the vocabulary drops altogether still needs a place for its tag.
            tokens[piece] = self._tokenizer.unspelled(batch.texts[text_of_piece[piece]])
            lengths[piece] = 1
        encoded = self._lay_out(flat, tokens, lengths, batch, piece_tags)
        if int(encoded.ids.max(initial=-1)) >= self._tokenizer.vocab_size:
            # Checked here because a too large id would wrap around silently in 16 bits.
            raise CorruptArtifact(
                f"token id {encoded.ids.max()} is outside the vocabulary of {self._tokenizer.vocab_size}",
                where=self._folder,
                fix="the tokenizer.json of the base model contradicts itself; restore it",
            )
        return encoded

    def _lay_out(
        self,
        flat: Flat,
        tokens: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        batch: _Batch,
        piece_tags: npt.NDArray[np.int16],
    ) -> _Encoded:
        ends = np.cumsum(lengths)
        starts = ends - lengths
        from_text = np.repeat(tokens < 0, lengths)
        ids = np.repeat(tokens, lengths)
        ids[from_text] = flat.ids
        learn = np.repeat(np.array(batch.learn, dtype=np.uint8), lengths)
        targets = np.full(len(ids), NO_TAG, dtype=np.int16)
        tagged = piece_tags != NO_TAG
        targets[starts[tagged]] = piece_tags[tagged]
        row_starts = starts[batch.first_pieces]
        # Nothing stands before the first token of a row that it could be told from.
        learn[row_starts] = 0
        return _Encoded(ids, learn, targets, np.append(row_starts, len(ids)))

    def _describe(
        self, examples: list[dict[str, Any]], encoded: _Encoded, offset: int, rows: dict[str, list[Any]]
    ) -> None:
        """Add the batch to the columns of rows.parquet."""
        n_bytes = np.add.reduceat(self._token_bytes[encoded.ids] * encoded.learn, encoded.starts[:-1])
        for column in ("row_id", "source", "origin", "kind"):
            rows[column] += [example[column] for example in examples]
        for index, example in enumerate(examples):
            is_labelled = example["kind"] == "labelled"
            rows["label"].append(self._number(self._labels, example["label"], example) if is_labelled else -1)
            # The space before the first of the words is learned, after an opening token, but is not part of the text.
            spaced = (
                example["kind"] == "tagged" and self._tokenizer.is_byte_level and self._tokenizer.bos_id is not None
            )
            rows["n_bytes"].append(int(n_bytes[index]) - int(spaced))
        rows["start"] += (encoded.starts[:-1] + offset).tolist()
        rows["length"] += np.diff(encoded.starts).tolist()

    def _number(self, numbers: dict[str, int], name: str, example: dict[str, Any]) -> int:
        if name not in numbers:
            raise CorruptArtifact(
                f"{name!r} is not among the labels of the data artifact",
                where=example["origin"],
                fix="delete the data artifact and run: wyrmling data",
            )
        return numbers[name]

    def finish(self) -> dict[str, Any]:
        """Write `store.json` and return what it says."""
        tokenizer = self._tokenizer
        description = {
            "format": FORMAT,
            "dtype": "uint16" if self._dtype.itemsize == 2 else "uint32",
            "vocab_size": tokenizer.vocab_size,
            "tokenizer_sha256": tokenizer.sha256,
            "labels": list(self._labels),
            "tags": list(self._tags),
            "special_ids": {
                "bos": tokenizer.bos_id,
                "eos": tokenizer.eos_id,
                "mask": tokenizer.mask_id,
                "pad": tokenizer.pad_id,
                "im_end": tokenizer.im_end_id,
            },
            "splits": {name: counts._asdict() for name, counts in self._counts.items()},
        }
        write_durably(self._folder / STORE_FILE, json.dumps(description, indent=1, ensure_ascii=False).encode())
        return description


class TokenStore:
    """One split of a token store, read through memory maps. Made by `TokenStore.open`.

    rows              columns of rows.parquet as numpy arrays, one entry per row
    labels, tag_names the names behind `rows["label"]` and `tags(i)`
    """

    def __init__(self, folder: Path, split: str, description: dict[str, Any]) -> None:
        self.split = split
        self.vocab_size: int = description["vocab_size"]
        self.tokenizer_sha256: str = description["tokenizer_sha256"]
        self.labels: list[str] = description["labels"]
        self.tag_names: list[str] = description["tags"]
        self.special_ids: dict[str, int | None] = description["special_ids"]
        counts = description["splits"][split]
        self.n_tokens: int = counts["tokens"]
        self.n_bytes: int = counts["n_bytes"]
        table = pq.read_table(folder / f"{split}.rows.parquet")
        self.rows: dict[str, npt.NDArray[Any]] = {
            name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names
        }
        self._tokens = _map(
            folder / f"{split}.tokens", np.dtype("<u2" if description["dtype"] == "uint16" else "<u4"), self.n_tokens
        )
        self._learn = _map(folder / f"{split}.learn", np.dtype("u1"), self.n_tokens)
        self._tags = _map(folder / f"{split}.tags", np.dtype("<i2"), self.n_tokens) if counts["tagged"] else None

    @classmethod
    def open(cls, path: Path, split: str, *, tokenizer_sha256: str | None = None) -> TokenStore:
        """The rows of `split` in a tokenizer artifact, or in the `store` folder of one.

        tokenizer_sha256   of the tokenizer that the caller means to use; None: the one beside the store
        Raises   CorruptArtifact when the store is unreadable or was made by another tokenizer.
        """
        folder = path if (path / STORE_FILE).is_file() else path / STORE
        try:
            description = json.loads((folder / STORE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CorruptArtifact(
                f"{path} holds no readable token store", where=folder / STORE_FILE, fix="run: wyrmling tokenizer"
            ) from error
        beside = folder.parent / TOKENIZER_FILE
        expected = tokenizer_sha256 or (file_digest(beside) if beside.is_file() else None)
        if expected is not None and expected != description["tokenizer_sha256"]:
            raise CorruptArtifact(
                f"the token store was made by another tokenizer (sha256 {description['tokenizer_sha256'][:12]}, "
                f"not {expected[:12]})",
                where=folder,
                fix="delete the tokenizer artifact and run: wyrmling tokenizer",
            )
        if split not in description["splits"]:
            raise CorruptArtifact(
                f"the token store has no split {split!r}", where=folder, fix="the splits are train, val, test"
            )
        return cls(folder, split, description)

    def __len__(self) -> int:
        return len(self.rows["start"])

    def _span(self, i: int) -> slice:
        start = int(self.rows["start"][i])
        return slice(start, start + int(self.rows["length"][i]))

    def tokens(self, i: int) -> npt.NDArray[np.int64]:
        """The ids of row i."""
        return self._tokens[self._span(i)].astype(np.int64)

    def learn(self, i: int) -> npt.NDArray[np.bool_]:
        """For each token of row i, whether it is a target of the causal and sft objectives."""
        return self._learn[self._span(i)].astype(np.bool_)

    def tags(self, i: int) -> npt.NDArray[np.int64]:
        """For each token of row i, the number of its tag; -100 = no target."""
        if self._tags is None:
            return np.full(int(self.rows["length"][i]), NO_TAG, dtype=np.int64)
        return self._tags[self._span(i)].astype(np.int64)

    def kinds(self) -> Counter[str]:
        """Rows per kind."""
        return Counter(self.rows["kind"].tolist())


def _map(path: Path, dtype: np.dtype[Any], n: int) -> npt.NDArray[Any]:
    """A read-only memory map of `n` values. Raises CorruptArtifact when the file holds another number."""
    size = path.stat().st_size if path.is_file() else -1
    if size != n * dtype.itemsize:
        raise CorruptArtifact(
            f"{path.name} has {size} bytes instead of {n * dtype.itemsize}" if size >= 0 else f"{path.name} is missing",
            where=path,
            fix="delete the tokenizer artifact and run: wyrmling tokenizer",
        )
    # An empty file can't be mapped.
    return np.memmap(path, dtype=dtype, mode="r", shape=(n,)) if n else np.empty(0, dtype=dtype)
