"""The token store: every row of a data artifact as token ids, with what is learned of each token, memory-mapped.

`store/` holds shards. Shard 7 has, for each split that it has rows of, `train-00007.tokens` (ids, little-endian uint16
or uint32), `.learn` (uint8, 1 = a target), `.ends` (uint64, where each row ends), `.rows.parquet` (what each row is)
and, where rows are tagged, `.tags` (int16, -100 = no target). `store.json` says what the numbers mean; `shards.jsonl`
has one line per finished shard, with the size and sha256 of its files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wyrmling.core.artifact import file_digest
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.tokenizer import chat
from wyrmling.tokenizer.chat import Piece
from wyrmling.tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer

FORMAT = 4
STORE = "store"
STORE_FILE = "store.json"
SHARDS_FILE = "shards.jsonl"
SPLITS = ("train", "val", "test")
NO_TAG = -100

ROWS_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("origin", pa.string()),
        ("kind", pa.string()),
        ("label", pa.int32()),  # index into the labels of store.json, -1 = none; of a rating 1 = good, 0 = bad
        ("labels", pa.list_(pa.int32())),  # the same where rows may have several, else none
        ("second", pa.int64()),  # of a pair the first token of the rejected answer's conversation, else 0
        ("n_bytes", pa.int64()),  # UTF-8 bytes of the text that the learned tokens decode to
    ]
)

_REPAIR = "delete the tokenizer artifact and run: wyrmling tokenizer"


def row_pieces(tokenizer: Tokenizer, example: Mapping[str, Any]) -> list[Piece]:
    """What an example becomes in the store, before encoding.

    A document or labelled text is opened, learned and ended; a tagged row is its words, each with the space before it;
    a conversation is its rendered template, of which the assistant's turns are learned. Of a rating the last answer is
    learned. A pair is two conversations, see `pair_pieces`.
    Raises   BadInput naming the row when the chat template refuses it.
    """
    if example["kind"] == "pair":
        return [piece for side in pair_pieces(tokenizer, example) for piece in side]
    if example["kind"] in ("conversation", "rating"):
        said = _rendered(tokenizer, example, example["messages"])
        return said if example["kind"] == "conversation" else _last_learned(said)
    if example["kind"] == "tagged":
        inner = [Piece(tokenizer.word_text(word), learn=True) for word in example["words"]]
    else:
        inner = [Piece(example["text"], learn=True)]
    opening = [] if tokenizer.bos_id is None else [Piece("", tokenizer.bos_id)]
    ending = [] if tokenizer.eos_id is None else [Piece("", tokenizer.eos_id, True)]
    return [*opening, *inner, *ending]


def pair_pieces(tokenizer: Tokenizer, example: Mapping[str, Any]) -> tuple[list[Piece], list[Piece]]:
    """A pair as two conversations, the chosen and the rejected; of each the last answer is learned."""
    chosen, rejected = (
        _last_learned(
            _rendered(tokenizer, example, [*example["messages"], {"role": "assistant", "content": example[side]}])
        )
        for side in ("chosen", "rejected")
    )
    return chosen, rejected


def _rendered(tokenizer: Tokenizer, example: Mapping[str, Any], messages: list[Any]) -> list[Piece]:
    try:
        return chat.pieces(tokenizer, messages)
    except BadInput as error:
        raise BadInput(error.what, where=example["origin"], fix=error.fix) from error


def _last_learned(pieces: list[Piece]) -> list[Piece]:
    """The pieces with nothing learned before the last learned stretch."""
    learned = [number for number, piece in enumerate(pieces) if piece.learn]
    first = next((n for n in reversed(learned) if n - 1 not in learned), 0)
    return [piece._replace(learn=piece.learn and number >= first) for number, piece in enumerate(pieces)]


def read_shards(folder: Path) -> list[dict[str, Any]]:
    """What `shards.jsonl` says of each finished shard. A last line without its end was never finished."""
    path = folder / SHARDS_FILE
    content = path.read_bytes() if path.is_file() else b""
    try:
        return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
    except ValueError as error:
        raise CorruptArtifact(f"{SHARDS_FILE} is not JSON: {error}", where=path, fix=_REPAIR) from error


def read_description(folder: Path) -> dict[str, Any]:
    """What `store.json` says. Raises CorruptArtifact when there is none, or one of another format."""
    path = folder / STORE_FILE
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptArtifact(
            f"{folder} holds no readable token store", where=path, fix="run: wyrmling tokenizer"
        ) from error
    if description["format"] != FORMAT:
        raise CorruptArtifact(
            f"the token store has format {description['format']}, not {FORMAT}", where=path, fix=_REPAIR
        )
    return description


class Shard:
    """The files of one shard and split, mapped when they are first read."""

    def __init__(self, folder: Path, name: str, counts: dict[str, Any], dtype: str) -> None:
        self.name = name
        self._folder, self._dtypes = folder, {"tokens": dtype, "learn": "u1", "tags": "<i2"}
        self.n_rows: int = counts["rows"]
        self.n_tokens: int = counts["tokens"]
        self.n_bytes: int = counts["n_bytes"]
        self.files: dict[str, dict[str, Any]] = counts["files"]
        self._maps: dict[str, npt.NDArray[Any]] = {}

    def check(self, *, verify: bool) -> None:
        """Compare the size of each file, and its sha256 if asked. Raises CorruptArtifact."""
        for kind, expected in self.files.items():
            path = self.path(kind)
            size = path.stat().st_size if path.is_file() else None
            if size is None:
                problem = "is missing"
            elif size != expected["bytes"]:
                problem = f"has {size} bytes instead of {expected['bytes']}"
            elif verify and file_digest(path) != expected["sha256"]:
                problem = "has other bytes than were written"
            else:
                continue
            raise CorruptArtifact(f"{path.name} {problem}", where=path, fix=_REPAIR)

    def path(self, kind: str) -> Path:
        return self._folder / f"{self.name}.{kind}"

    def ends(self) -> npt.NDArray[np.int64]:
        return np.fromfile(self.path("ends"), dtype="<u8").astype(np.int64)

    def column(self, name: str) -> pa.ChunkedArray:
        # Not pq.read_table, which imports pyarrow's datasets and pandas: half a second.
        return pq.ParquetFile(self.path("rows.parquet")).read(columns=[name]).column(name)

    def values(self, kind: str) -> npt.NDArray[Any]:
        """The flat file as a read-only array."""
        if kind not in self._maps:
            # An empty file can't be mapped.
            self._maps[kind] = (
                np.memmap(self.path(kind), dtype=self._dtypes[kind], mode="r", shape=(self.n_tokens,))
                if self.n_tokens
                else np.empty(0, dtype=self._dtypes[kind])
            )
        return self._maps[kind]


class Rows(Mapping[str, npt.NDArray[Any]]):
    """Columns of all rows, one entry per row; each is read when it is first asked for.

    Those of ROWS_SCHEMA, `start` (the first token, within its shard) and `length` (tokens).
    """

    def __init__(self, shards: list[Shard]) -> None:
        self._shards = shards
        self._columns: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._columns:
            self._columns[name] = self._read(name)
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*ROWS_SCHEMA.names, "start", "length"])

    def __len__(self) -> int:
        return len(ROWS_SCHEMA) + 2

    def _read(self, name: str) -> npt.NDArray[Any]:
        if name in ("start", "length"):
            bounds = [np.concatenate([[0], shard.ends()]) for shard in self._shards]
            parts = [np.diff(ends) if name == "length" else ends[:-1] for ends in bounds]
            return np.concatenate([np.empty(0, dtype=np.int64), *parts])
        field = ROWS_SCHEMA.field(name)  # KeyError for a column that no store has
        chunks = [chunk for shard in self._shards for chunk in shard.column(name).chunks]
        column = pa.chunked_array(chunks, type=field.type)
        if name in ("source", "kind"):
            # Few different strings: each is one object, however many rows have it.
            coded = column.dictionary_encode().unify_dictionaries().combine_chunks()
            names = coded.dictionary.to_numpy(zero_copy_only=False)
            found: npt.NDArray[Any] = names[coded.indices.to_numpy()]
            return found
        values: npt.NDArray[Any] = column.to_numpy()
        return values


class TokenStore:
    """One split of a token store, read through memory maps. Made by `TokenStore.open`.

    rows              columns of the rows as numpy arrays, one entry per row
    labels, tag_names the names behind `rows["label"]`, `rows["labels"]` and `tags(i)`
    several           whether a row may have several labels
    shards            the files of the split, in the order of the rows
    """

    def __init__(self, folder: Path, split: str, description: dict[str, Any], shards: list[Shard]) -> None:
        self.split = split
        self.vocab_size: int = description["vocab_size"]
        self.tokenizer_sha256: str = description["tokenizer_sha256"]
        self.labels: list[str] = description["labels"]
        self.tag_names: list[str] = description["tags"]
        self.several: bool = description["several"]
        self.special_ids: dict[str, int | None] = description["special_ids"]
        self.n_tokens = sum(shard.n_tokens for shard in shards)
        self.n_bytes = sum(shard.n_bytes for shard in shards)
        self.rows: Mapping[str, npt.NDArray[Any]] = Rows(shards)
        self.shards = shards
        self._first_rows = np.array(list(accumulate((shard.n_rows for shard in shards), initial=0)))

    @classmethod
    def open(cls, path: Path, split: str, *, tokenizer_sha256: str | None = None, verify: bool = False) -> TokenStore:
        """The rows of `split` in a tokenizer artifact, or in the `store` folder of one.

        tokenizer_sha256   of the tokenizer that the caller means to use; None: the one beside the store
        verify             True hashes every file; False compares their sizes, which costs nothing
        Raises   CorruptArtifact when the store is unreadable, changed, or was made by another tokenizer.
        """
        folder = path if (path / STORE_FILE).is_file() else path / STORE
        description = read_description(folder)
        beside = folder.parent / TOKENIZER_FILE
        expected = tokenizer_sha256 or (file_digest(beside) if beside.is_file() else None)
        if expected is not None:
            require_tokenizer(folder, description, expected)
        if split not in SPLITS:
            raise CorruptArtifact(
                f"the token store has no split {split!r}", where=folder, fix="the splits are train, val, test"
            )
        dtype = "<u2" if description["dtype"] == "uint16" else "<u4"
        shards = [
            Shard(folder, f"{split}-{shard['shard']:05d}", shard["splits"][split], dtype)
            for shard in read_shards(folder)
            if split in shard["splits"]
        ]
        for shard in shards:
            shard.check(verify=verify)
        return cls(folder, split, description, shards)

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    def _values(self, kind: str, i: int) -> npt.NDArray[Any] | None:
        """The part of a flat file that belongs to row i; None where its shard has no such file."""
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        shard = self.shards[int(np.searchsorted(self._first_rows, i, side="right")) - 1]
        if kind not in shard.files:
            return None
        start = int(self.rows["start"][i])
        return shard.values(kind)[start : start + int(self.rows["length"][i])]

    def tokens(self, i: int, start: int = 0, end: int | None = None) -> npt.NDArray[np.int64]:
        """The ids of row i, from its token `start` up to `end`."""
        ids = self._values("tokens", i)
        assert ids is not None
        return ids[start:end].astype(np.int64)

    def learn(self, i: int, start: int = 0, end: int | None = None) -> npt.NDArray[np.bool_]:
        """For each of these tokens of row i, whether it is a target of the causal and sft objectives."""
        learn = self._values("learn", i)
        assert learn is not None
        return learn[start:end].astype(np.bool_)

    def tags(self, i: int) -> npt.NDArray[np.int64]:
        """For each token of row i, the number of its tag; -100 = no target."""
        tags = self._values("tags", i)
        if tags is None:
            return np.full(int(self.rows["length"][i]), NO_TAG, dtype=np.int64)
        return tags.astype(np.int64)

    def kinds(self) -> Counter[str]:
        """Rows per kind."""
        return Counter(self.rows["kind"].tolist())


def require_tokenizer(folder: Path, description: Mapping[str, Any], sha256: str) -> None:
    """Raises CorruptArtifact when the store in `folder` was made by another tokenizer."""
    if sha256 != description["tokenizer_sha256"]:
        raise CorruptArtifact(
            f"the token store was made by another tokenizer (sha256 {description['tokenizer_sha256'][:12]}, "
            f"not {sha256[:12]})",
            where=folder,
            fix=_REPAIR,
        )
