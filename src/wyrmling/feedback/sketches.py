"""The words of a prompt as places in a small table, instead of its text: enough to see topics change.

Each word and each pair of neighbouring words falls on one of 4,096 places. A place stands for very many words, so no
text can be read back; that a given word may have occurred can be guessed, as with any such record.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

PLACES = 4096
# The beginning of a long prompt tells its topic.
MOST_CHARS = 4000
_WORD = re.compile(r"\w+")


def sketch(texts: Iterable[str]) -> bytes:
    """The places of all words and pairs of words, ascending, two bytes each."""
    places = {_place(one) for text in texts for one in _pieces(text[:MOST_CHARS].casefold())}
    return np.array(sorted(places), dtype="<u2").tobytes()


def places(kept: bytes) -> npt.NDArray[np.int64]:
    """The places of a sketch."""
    return np.frombuffer(kept, dtype="<u2").astype(np.int64)


def texts_of(prompt: Any) -> Iterator[str]:
    """Every text in a prompt: a text, a list of texts or words, or the messages that users sent."""
    if isinstance(prompt, str):
        yield prompt
    elif isinstance(prompt, dict):
        yield from texts_of(prompt.get("content")) if prompt.get("role", "user") == "user" else ()
    elif isinstance(prompt, list):
        for part in prompt:
            yield from texts_of(part)


def _pieces(text: str) -> Iterator[str]:
    words = _WORD.findall(text)
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(words))


def _place(piece: str) -> int:
    return int.from_bytes(hashlib.blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=2).digest()) % PLACES
