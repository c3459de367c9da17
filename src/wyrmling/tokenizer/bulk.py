"""Encode many texts at once: by `fastokens`, about twenty times faster than `tokenizers`, as long as both agree.

Agreement is checked on every run, on the run's own texts; any difference sends the whole run to `tokenizers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wyrmling.core.log import warn
from wyrmling.tokenizer.bpe import without_surrogates
from wyrmling.tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer


class Flat(NamedTuple):
    """Ids of many texts in one array: text i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]


class Encoder(NamedTuple):
    """Encodes many texts; `library` says by what."""

    encode: Callable[[Sequence[str]], Flat]
    library: str


def encoder(folder: Path, tokenizer: Tokenizer, texts: Sequence[str], row_ids: Sequence[str]) -> Encoder:
    """The fastest encoder that gives the ids of `tokenizer`.

    folder   the tokenizer folder that `tokenizer` was loaded from
    texts    of the run, to be compared
    row_ids  the row that each text comes from, for the warning
    """
    slow = Encoder(lambda batch: _flat(tokenizer.encode_batch(batch)), "tokenizers")
    try:
        fast = _fastokens((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
    except (ImportError, ValueError) as error:
        warn(f"texts are encoded by tokenizers instead of the faster fastokens: {error}")
        return slow
    different = _first_difference(fast.encode, slow.encode, texts)
    if different is not None:
        warn(
            f"fastokens gives other ids than tokenizers for row {row_ids[different]}; "
            "all texts are encoded by tokenizers instead"
        )
        return slow
    return fast


def _fastokens(document: str) -> Encoder:
    """Raises ImportError without fastokens, ValueError for a tokenizer.json that it can't read."""
    import fastokens

    fast = fastokens.Tokenizer.from_json_str(document)
    fast.no_truncation()
    fast.no_padding()

    def encode(batch: Sequence[str]) -> Flat:
        ids, offsets = fast.encode_batch_flat([without_surrogates(text) for text in batch], split_special_tokens=True)
        return Flat(np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64))

    return Encoder(encode, "fastokens")


def _first_difference(
    one: Callable[[Sequence[str]], Flat], other: Callable[[Sequence[str]], Flat], texts: Sequence[str]
) -> int | None:
    """The index of the first text with different ids, None when there is none."""
    a, b = one(texts), other(texts)
    for index in range(len(texts)):
        ids_a = a.ids[a.offsets[index] : a.offsets[index + 1]]
        ids_b = b.ids[b.offsets[index] : b.offsets[index + 1]]
        if not np.array_equal(ids_a, ids_b):
            return index
    return None


def _flat(encoded: list[list[int]]) -> Flat:
    lengths = np.fromiter((len(ids) for ids in encoded), dtype=np.int64, count=len(encoded))
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    ids = np.fromiter((id_ for ids in encoded for id_ in ids), dtype=np.uint32, count=int(offsets[-1]))
    return Flat(ids, offsets)
