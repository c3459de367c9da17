"""The tokenizer stage: rows of a data artifact -> a tokenizer folder and a token store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wyrmling.config import Project
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key
from wyrmling.core.errors import BadSetting
from wyrmling.core.log import say
from wyrmling.core.progress import bar
from wyrmling.tokenizer import bpe, bulk, folder
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import SPLITS, STORE, StoreWriter, row_pieces

VERSION = 1

# Encoded together: enough to keep all cores busy, and little enough for a laptop when each row is a book.
BATCH_ROWS = 2048
BATCH_CHARS = 16_000_000
_READ_ROWS = 256

# Objectives of a decoder. Its prompt is not closed; an encoder's text is.
_OPEN_ENDED = {"causal", "sft"}


class _Vocabulary(NamedTuple):
    trainer: str
    asked: int
    reason: str
    train_bytes: int


def run(project: Project, data: Artifact) -> Artifact:
    """The tokenizer artifact of a data artifact: trained on its training rows, or copied from `model.base`.

    Raises   NothingToLearn when the training rows hold no text; BadSetting for an unusable `model.base`.
    """
    base = folder.locate_base(project)
    ends = not any(step.objective in _OPEN_ENDED for step in project.steps)
    key = Key(
        "tokenizer",
        project.settings.name,
        inputs={"data": data.id} | ({"base": folder.base_digest(base)} if base else {}),
        # A copied tokenizer has its size and its ends already.
        settings={} if base else {"vocab_size": project.settings.tokenizer.vocab_size, "ends": ends},
        version=VERSION,
    )
    if (done := artifact.find(project.runs, key)) is not None:
        return done
    table = pq.read_table(data.path / "examples.parquet")
    with artifact.create(project.runs, key, project.meter()) as draft:
        if base is None:
            vocabulary = _train(project, table, draft.path, ends=ends)
        else:
            folder.copy(base, draft.path)
            vocabulary = _Vocabulary("base", 0, f"copied from {project.settings.model.base}", 0)
        tokenizer = Tokenizer.load(draft.path)
        if tokenizer.eos_id is None:
            raise BadSetting(
                f"the tokenizer of model.base = {project.settings.model.base!r} names no end-of-text token",
                where=base,
                fix='add "eos_token" to its tokenizer_config.json',
            )
        description, library = _encode(project, data, table, draft.path, tokenizer)
        draft.figures = _figures(tokenizer, vocabulary, description, library)
    say(f"tokenizer: {tokenizer.vocab_size:,} tokens ({vocabulary.reason})")
    return draft.done


def _train(project: Project, table: pa.Table, path: Path, *, ends: bool) -> _Vocabulary:
    texts = list(training_texts(table))
    n_bytes = sum(len(text.encode("utf-8", "replace")) for text in bpe.capped(texts))
    derived = bpe.default_vocab_size(n_bytes)
    asked = project.settings.tokenizer.vocab_size or derived.value
    reason = derived.reason if project.settings.tokenizer.vocab_size is None else f"tokenizer.vocab_size = {asked}"
    trained = bpe.train(texts, asked)
    folder.write(path, trained, ends=ends)
    return _Vocabulary(trained.trainer, asked, reason, n_bytes)


def training_texts(table: pa.Table) -> Iterator[str]:
    """Every text of the training rows: of a conversation its messages, of all other rows their text."""
    train = table.filter(pc.equal(table.column("split"), "train"))
    for example in _examples(train):
        if example["kind"] == "conversation":
            yield from (message["content"] for message in example["messages"] if message["content"])
        elif example["text"]:
            yield example["text"]


def _examples(table: pa.Table) -> Iterator[dict[str, Any]]:
    for part in table.to_batches(max_chunksize=_READ_ROWS):
        yield from part.to_pylist()


def batches(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """The rows in order, as many together as the two limits above allow, at least one."""
    batch: list[dict[str, Any]] = []
    left = BATCH_CHARS
    for example, chars in zip(_examples(table), row_chars(table), strict=True):
        if batch and (len(batch) == BATCH_ROWS or chars > left):
            yield batch
            batch, left = [], BATCH_CHARS
        batch.append(example)
        left -= int(chars)
    if batch:
        yield batch


def _encode(
    project: Project, data: Artifact, table: pa.Table, path: Path, tokenizer: Tokenizer
) -> tuple[dict[str, Any], str]:
    """Write the token store of all rows. Returns what its store.json says, and the library that encoded."""
    names = _labels(data)
    chosen = table.take(bulk.rows_to_check(row_chars(table), seed=project.settings.seed))
    check = [
        (piece.text, example["row_id"])
        for example in _examples(chosen)
        for piece in row_pieces(tokenizer, example)
        if piece.token is None
    ]
    encoder = bulk.encoder(path, tokenizer, [text for text, _ in check], [row_id for _, row_id in check])
    writer = StoreWriter(path / STORE, tokenizer, encoder, labels=names["labels"], tags=names["tags"])
    with bar("encode rows", total=table.num_rows) as progress:
        for split in SPLITS:
            writer.split(split, batches(table.filter(pc.equal(table.column("split"), split))), progress)
    return writer.finish(), encoder.library


def _labels(data: Artifact) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = json.loads((data.path / "labels.json").read_text(encoding="utf-8"))
    return labels


def row_chars(table: pa.Table) -> npt.NDArray[np.int64]:
    """Characters of each row: of its text, or of all messages of a conversation."""
    chars: npt.NDArray[np.int64] = pc.fill_null(pc.utf8_length(table.column("text")), 0).to_numpy().astype(np.int64)
    messages = table.column("messages").combine_chunks()
    content = pc.struct_field(pc.list_flatten(messages), "content")
    np.add.at(chars, pc.list_parent_indices(messages).to_numpy(), pc.fill_null(pc.utf8_length(content), 0).to_numpy())
    return chars


def _figures(
    tokenizer: Tokenizer, vocabulary: _Vocabulary, description: dict[str, Any], library: str
) -> dict[str, Any]:
    splits = description["splits"]
    n_tokens = sum(counts["tokens"] for counts in splits.values())
    return {
        "vocab_size": tokenizer.vocab_size,
        "asked_vocab_size": vocabulary.asked,
        "reason": vocabulary.reason,
        "trainer": vocabulary.trainer,
        "encoder": library,
        "train_bytes": vocabulary.train_bytes,
        "rows": {split: counts["rows"] for split, counts in splits.items()},
        "tokens": n_tokens,
        "tokens_by_split": {split: counts["tokens"] for split, counts in splits.items()},
    }
