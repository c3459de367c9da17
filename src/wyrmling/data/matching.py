"""Texts as they are compared, without regard to case, punctuation and spacing: as strings and as hashes of words.

Whole texts are taken through tables of code points at once, because a loop over words in Python would take most of the
time that the data stage needs.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

ASCII_PUNCTUATION = "!\"#%&'()*,-./:;?@[\\]_{}"
ASCII_FORM = bytes.maketrans(
    string.ascii_uppercase.encode() + ASCII_PUNCTUATION.encode() + b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f",
    string.ascii_lowercase.encode() + b" " * (len(ASCII_PUNCTUATION) + 9),
)
CODES = 0x110000
# From this code point on there is no punctuation, white space or digit.
PLAIN_CODES = 0x20000
# Scripts without spaces between words: every character counts as a word. Thai to Lao, Myanmar, Khmer, kana, Han.
UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF),
)  # fmt: skip
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
        codes = _codes(text.casefold())
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

    return np.concatenate([np.empty(0, np.uint64), *map(_hash_words, _blocks(text))])


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


def _hash_words(text: str) -> Hashes:
    import numpy as np

    ascii = text.isascii()
    codes = np.frombuffer(text.encode(), np.uint8) if ascii else _codes(text.casefold())
    values = _values()[codes]
    digit = values == DIGIT
    again = digit[1:] & digit[:-1]
    if again.any():
        keep = np.concatenate(([True], ~again))
        values, codes = values[keep], codes[keep]
    inside = values != 0
    start = inside.copy()
    start[1:] &= ~inside[:-1]
    if not ascii and codes.max(initial=0) >= UNSPACED[0][0]:
        alone = _unspaced()[codes]
        start |= alone
        start[1:] |= alone[:-1] & inside[1:]
    first = np.flatnonzero(start)
    if not len(first):
        return np.empty(0, np.uint64)
    # A word's hash is the sum of its characters' values times powers of an odd number, modulo 2^64: the powers run
    # through the whole text, and the sum is divided by the one at which the word starts. Spaces have the value 0.
    powers, inverses = _powers(len(values))
    return np.add.reduceat(values * powers[: len(values)], first) * inverses[first]


def _codes(text: str) -> NDArray[np.uint32]:
    import numpy as np

    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers of POWER modulo 2^64 from 0 on, at least `count`, and their inverses."""
    return _power_table(1 << max(count - 1, BLOCK_CHARS - 1).bit_length())


@lru_cache(maxsize=2)
def _power_table(count: int) -> tuple[Hashes, Hashes]:
    import numpy as np

    def powers_of(number: int) -> Hashes:
        factors = np.full(count, number, np.uint64)
        factors[0] = 1
        return np.multiply.accumulate(factors)

    return powers_of(POWER), powers_of(pow(POWER, -1, 1 << 64))


@lru_cache(maxsize=1)
def _spaces() -> NDArray[np.bool_]:
    """By code point: True for white space and punctuation."""
    import numpy as np

    table = np.zeros(CODES, bool)
    for code in range(PLAIN_CODES):
        char = chr(code)
        table[code] = char.isspace() or unicodedata.category(char).startswith("P")
    return table


@lru_cache(maxsize=1)
def _unspaced() -> NDArray[np.bool_]:
    import numpy as np

    table = np.zeros(CODES, bool)
    for first, last in UNSPACED:
        table[first : last + 1] = True
    return table & ~_spaces()


@lru_cache(maxsize=1)
def _values() -> Hashes:
    """By code point: a random number; DIGIT for digits, 0 for spaces and punctuation, small letters for capitals."""
    import numpy as np

    # splitmix64 (Steele, Lea and Flood 2014).
    table = np.arange(1, CODES + 1, dtype=np.uint64) * np.uint64(POWER)
    table = (table ^ (table >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    table = (table ^ (table >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    table ^= table >> np.uint64(31)
    table[[code for code in range(PLAIN_CODES) if chr(code).isdecimal()]] = DIGIT
    table[ord("A") : ord("Z") + 1] = table[ord("a") : ord("z") + 1]
    table[_spaces()] = 0
    return table
