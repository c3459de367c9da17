"""Texts as they are compared, without regard to case, punctuation and spacing; words as hashes."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from wyrmling.data.characters import CODES, UNSPACED, codes_of, digits, letters, punctuation, unspaced, white_space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Counts = NDArray[np.int64]

ASCII_PUNCTUATION = "!\"#%&'()*,-./:;?@[\\]_{}"
ASCII_FORM = bytes.maketrans(
    string.ascii_uppercase.encode() + ASCII_PUNCTUATION.encode() + b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f",
    string.ascii_lowercase.encode() + b" " * (len(ASCII_PUNCTUATION) + 9),
)
SPACE = re.compile(r"\s")
BLOCK_CHARS = 2**18
POWER = 0x9E3779B97F4A7C15  # any odd number is invertible modulo 2^64
DIGIT = 0xD6E8FEB86659FD93


def matching_form(text: str) -> str:
    """The form in which two texts count as the same: case-folded, punctuation as spaces, single spaces.

    Digits, accents and symbols stay: "pay 5" is not "pay 50", and a smiley may be all that tells two labels apart.
    Text of nothing but punctuation stays as it is.
    """
    import numpy as np

    if text.isascii():
        form = b" ".join(text.encode().translate(ASCII_FORM).split()).decode()
    else:
        codes = codes_of(text.casefold())
        space = _spaces()[codes]
        keep = ~space
        keep[1:] |= ~space[:-1]
        codes = np.where(space, np.uint32(ord(" ")), codes)
        form = codes[keep].tobytes().decode("utf-32-le", "surrogatepass").strip(" ")
    return form or " ".join(text.split())


def word_hashes(text: str) -> Hashes:
    """One 64-bit hash per word, in order: equal for equal words of the matching form, in which every number is a 0.

    Characters of scripts without spaces are words of their own. Punctuation alone has no words.
    """
    import numpy as np

    return np.concatenate([np.empty(0, np.uint64), *map(_matching_hashes, _blocks(text))])


class Words(NamedTuple):
    """The words of a text as white space divides them: equal words, equal hashes; characters and letters in each."""

    hashes: Hashes
    lengths: Counts
    letters: Counts


def words_of(text: str) -> Words:
    """The words of the text, written exactly so."""
    import numpy as np

    none = np.empty(0, np.int64)
    parts = [Words(none.astype(np.uint64), none, none), *map(_exact_words, _blocks(text))]
    return Words(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _blocks(text: str) -> Iterator[str]:
    """The text in pieces that end at white space, as far as there is any: bounds the memory, and stays in the cache."""
    start = 0
    while len(text) - start > BLOCK_CHARS:
        end = start + BLOCK_CHARS
        found = SPACE.search(text, end, end + BLOCK_CHARS)
        end = found.end() if found else end
        yield text[start:end]
        start = end
    yield text[start:]


def _matching_hashes(text: str) -> Hashes:
    import numpy as np

    codes = codes_of(text if text.isascii() else text.casefold())
    values = _matching_values()[codes]
    digit = values == DIGIT
    again = digit[1:] & digit[:-1]
    if again.any():
        keep = np.concatenate(([True], ~again))
        values, codes = values[keep], codes[keep]
    inside = values != 0
    start = inside.copy()
    start[1:] &= ~inside[:-1]
    if codes.max(initial=0) >= UNSPACED[0][0]:
        alone = unspaced()[codes]
        start |= alone & inside
        start[1:] |= alone[:-1] & inside[1:]
    return _sums(values, np.flatnonzero(start))


def _exact_words(text: str) -> Words:
    import numpy as np

    codes = codes_of(text)
    values = _exact_values()[codes]
    # Where white space and words meet, and both ends of the text.
    inside = np.zeros(len(values) + 2, bool)
    np.not_equal(values, 0, out=inside[1:-1])
    edges = (inside[1:] != inside[:-1]).nonzero()[0]
    first, last = edges[::2], edges[1::2]
    if not len(first):
        return Words(np.empty(0, np.uint64), first, first)
    counts = np.add.reduceat(letters()[codes], first, dtype=np.int64)
    return Words(_sums(values, first), last - first, counts)


def _sums(values: Hashes, first: Counts) -> Hashes:
    """A hash for each word that starts at `first`: the sum of its characters' values times powers of an odd number.

    The powers, modulo 2^64, run through the whole text, so the sum is divided by the one at which the word starts.
    """
    import numpy as np

    if not len(first):
        return np.empty(0, np.uint64)
    powers, inverses = _powers(1 << max(len(values) - 1, BLOCK_CHARS - 1).bit_length())
    return np.add.reduceat(values * powers[: len(values)], first) * inverses[first]


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    import numpy as np

    def powers_of(number: int) -> Hashes:
        factors = np.full(count, number, np.uint64)
        factors[0] = 1
        return np.multiply.accumulate(factors)

    return powers_of(POWER), powers_of(pow(POWER, -1, 1 << 64))


@lru_cache(maxsize=1)
def _spaces() -> NDArray[np.bool_]:
    return white_space() | punctuation()


@lru_cache(maxsize=1)
def _exact_values() -> Hashes:
    """By code point: a random number, and 0 for white space."""
    import numpy as np

    # splitmix64 (Steele, Lea and Flood 2014).
    table = np.arange(1, CODES + 1, dtype=np.uint64) * np.uint64(POWER)
    table = (table ^ (table >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    table = (table ^ (table >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    table ^= table >> np.uint64(31)
    table[white_space()] = 0
    return table


@lru_cache(maxsize=1)
def _matching_values() -> Hashes:
    """As `_exact_values`, one number for all digits, 0 for punctuation too, capitals as small letters."""
    table = _exact_values().copy()
    table[digits()] = DIGIT
    table[punctuation()] = 0
    table[ord("A") : ord("Z") + 1] = table[ord("a") : ord("z") + 1]
    return table
