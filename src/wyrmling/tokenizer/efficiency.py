"""How many bytes of text a token stands for, beside GPT-2's vocabulary on the same text."""

from __future__ import annotations

import bz2
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from wyrmling.tokenizer import bpe
from wyrmling.tokenizer.bulk import Encoder
from wyrmling.tokenizer.examples import Example, texts

_MERGES = Path(__file__).parent / "gpt2" / "vocab.bpe.bz2"


@functools.cache
def gpt2() -> tokenizers.Tokenizer:
    """GPT-2's tokenizer, with its ids, without its one special token. Source: Radford et al. 2019, encoder.py."""
    lines = bz2.decompress(_MERGES.read_bytes()).decode("utf-8").splitlines()[1:]
    merges = [(left, right) for left, right in (line.split(" ") for line in lines)]
    alphabet = sorted(bpe.to_byte_level(bytes([byte])) for byte in range(256))
    tokens = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={t: id_ for id_, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def compare(own: Encoder, sample: Sequence[Example], languages: Mapping[str, str]) -> dict[str, Any]:
    """Bytes per token of `own` and of GPT-2 on the texts of `sample`, with the bytes they were counted on.

    languages   row_id -> language
    Gives {"all": counts, "split": {name: counts}, "source": {...}, "language": {...}}; splits show how much better the
    vocabulary fits the text that it was learned from.
    """
    said = [(row, text) for row in sample for text in texts(row)]
    words = [text for _, text in said]
    theirs = [len(encoding.ids) for encoding in gpt2().encode_batch_fast(words)]
    n_bytes = [len(text.encode()) for text in words]
    counts = np.stack([np.array(n_bytes), np.diff(own.encode(words).offsets), np.array(theirs)]).astype(np.int64)
    groups: dict[str, dict[str, list[int]]] = {"split": {}, "source": {}, "language": {}}
    for at, (row, _) in enumerate(said):
        names = {"split": row["split"], "source": row["source"], "language": languages.get(row["row_id"])}
        for group, name in names.items():
            if name is not None:
                groups[group].setdefault(name, []).append(at)
    found: dict[str, Any] = {"all": _ratios(counts)}
    for group, members in groups.items():
        found[group] = {name: _ratios(counts[:, at]) for name, at in sorted(members.items())}
    return found


def _ratios(counts: npt.NDArray[np.int64]) -> dict[str, float | int | None]:
    n_bytes, own, gpt2_tokens = (int(count) for count in counts.sum(axis=1))
    return {
        "bytes": n_bytes,
        "own": n_bytes / own if own else None,
        "gpt2": n_bytes / gpt2_tokens if gpt2_tokens else None,
    }


def languages_of(ledger: Path, row_ids: Iterable[str]) -> dict[str, str]:
    """The languages that the data stage named, of these rows; none where it did not look for them."""
    if not ledger.is_file():
        return {}
    wanted = pa.array(list(row_ids), type=pa.string())
    found: dict[str, str] = {}
    for batch in pq.ParquetFile(ledger).iter_batches(columns=["row_id", "language"]):
        known = batch.filter(pc.and_(pc.is_in(batch.column("row_id"), wanted), pc.is_valid(batch.column("language"))))
        found |= zip(known.column("row_id").to_pylist(), known.column("language").to_pylist(), strict=True)
    return found


def lines(found: Mapping[str, Any]) -> list[str]:
    """The comparison as a table for people."""
    rows = [("all", found["all"])]
    rows += [
        (f"{group} {name}", ratios)
        for group in ("split", "source", "language")
        for name, ratios in found[group].items()
    ]
    width = max(len(name) for name, _ in rows)
    table = [f"  {'bytes per token':<{width}}    own   gpt2"]
    for name, ratios in rows:
        own, other = (f"{ratios[key]:>6.2f}" if ratios[key] is not None else "     -" for key in ("own", "gpt2"))
        table.append(f"  {name:<{width}} {own} {other}")
    return table
