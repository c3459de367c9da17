"""A token store as Parquet, for other trainers: one row per row, with the ids and what is learned of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wyrmling.core.errors import UsageError
from wyrmling.tokenizer.tokens import ROWS_SCHEMA, SPLITS, Shard, TokenStore

FORMATS = ("parquet",)

# Label and tag are written as their names, so that the files need nothing beside them.
SCHEMA = pa.schema(
    [
        *(field for field in ROWS_SCHEMA if field.name != "label"),
        ("label", pa.string()),  # null where the row has none
        ("input_ids", pa.large_list(pa.int32())),
        ("loss_mask", pa.large_list(pa.bool_())),  # True = the token is learned
        ("tags", pa.large_list(pa.string())),  # null where the row is not tagged; in it, null where a token has none
    ]
)

# Tokens written together; a row group.
_GROUP_TOKENS = 4_000_000


def export(artifact: Path, *, to: str, out: Path) -> dict[str, Any]:
    """Write `out`/<split>-<shard>.parquet for every shard and split of a tokenizer artifact; what was written.

    Raises   UsageError for an unknown format, or when `out` holds something.
    """
    if to not in FORMATS:
        raise UsageError(f"there is no export format {to!r} of tokens", fix=f"the formats are: {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already exists and is not empty", fix="choose another folder")
    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    written = {"files": 0, "rows": 0, "tokens": 0}
    try:
        for split in SPLITS:
            store = TokenStore.open(artifact, split, verify=True)
            for shard in store.shards:
                with pq.ParquetWriter(work / f"{shard.name}.parquet", SCHEMA, compression="zstd") as writer:
                    for table in _tables(store, shard):
                        writer.write_table(table)
                written["files"] += 1
            written["rows"] += len(store)
            written["tokens"] += store.n_tokens
        if out.is_dir():
            out.rmdir()
        os.replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"path": str(out), "format": to, **written}


def _tables(store: TokenStore, shard: Shard) -> Iterator[pa.Table]:
    """The rows of a shard, some million tokens at a time."""
    ends = shard.ends()
    described = pq.read_table(shard.path("rows.parquet"))
    names = pa.array([*store.labels, None], type=pa.string())
    first = 0
    while first < len(ends):
        begin = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, begin + _GROUP_TOKENS, side="right")))
        stop = int(ends[last - 1])
        offsets = pa.array(np.concatenate([[begin], ends[first:last]]) - begin, type=pa.int64())
        part = described.slice(first, last - first)
        label = part.column("label").to_numpy()
        columns = {name: part.column(name) for name in part.column_names}
        columns["label"] = names.take(pa.array(np.where(label < 0, len(store.labels), label)))
        ids = pa.array(shard.values("tokens")[begin:stop].astype(np.int32))
        learned = pa.array(shard.values("learn")[begin:stop].astype(np.bool_))
        columns["input_ids"] = pa.LargeListArray.from_arrays(offsets, ids)
        columns["loss_mask"] = pa.LargeListArray.from_arrays(offsets, learned)
        columns["tags"] = _tags(store, shard, part.column("kind").to_pylist(), offsets, slice(begin, stop))
        yield pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
        first = last


def _tags(store: TokenStore, shard: Shard, kinds: list[str], offsets: pa.Array, span: slice) -> pa.Array:
    if "tags" not in shard.files:
        return pa.nulls(len(kinds), type=SCHEMA.field("tags").type)
    numbers = shard.values("tags")[span]
    names = pa.array([*store.tag_names, None], type=pa.string())
    tags = names.take(pa.array(np.where(numbers < 0, len(store.tag_names), numbers).astype(np.int64)))
    untagged = pa.array([kind != "tagged" for kind in kinds])
    return pa.LargeListArray.from_arrays(offsets, tags, mask=untagged)
