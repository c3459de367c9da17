"""The parts of a text where private data may be: around @, where digits stand close together, at long words.

Patterns for private data are slow, and most of a book has nothing for them: they are tried on these parts only.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

from wyrmling.data.characters import codes_of, digits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wyrmling.data.characters import Codes

    Places = NDArray[np.int64]

Part = tuple[int, int]

# Below this length an array costs more than it saves: a short text is one part, if there is anything in it.
SHORT_CHARS = 300
# An IBAN, the longest number, has up to 42 characters; some come before its first six digits that are close together.
NUMBER_CHARS = 50
# RFC 5321: 64 characters before the @ and 255 after it; more before it for the user and password in a link.
BEFORE_AT, AFTER_AT = 200, 320


class Spots:
    """Where to look in one text. Parts are (start, end), in order and without overlaps."""

    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def everywhere(self) -> list[Part]:
        return [(0, len(self.text))]

    @cached_property
    def at(self) -> list[Part]:
        """Around each @."""
        import numpy as np

        places = np.array([match.start() for match in re.finditer("@", self.text)], np.int64)
        return self._around(places, places, BEFORE_AT, AFTER_AT)

    @cached_property
    def digits(self) -> list[Part]:
        """Around 4 digits within 16 characters: the least that an address has."""
        return self._close(4, 16)

    @cached_property
    def numbers(self) -> list[Part]:
        """Around 6 digits within 36 characters."""
        return self._close(6, 36)

    def long_words(self, length: int, before: int, after: int) -> list[Part]:
        """Around runs of `length` and more letters and digits of ASCII, - and _."""
        import numpy as np

        if len(self.text) < SHORT_CHARS:
            return self.everywhere if re.search(rf"[\w-]{{{length}}}", self.text) else []
        table = np.zeros(129, bool)
        table[[*range(48, 58), *range(65, 91), *range(97, 123), 45, 95]] = True
        inside = table[np.minimum(self._codes, 128)]
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
        first, last = edges[::2], edges[1::2]
        long = last - first >= length
        return self._around(first[long], last[long], before, after)

    @cached_property
    def _codes(self) -> Codes:
        return codes_of(self.text)

    @cached_property
    def _digits(self) -> Places:
        import numpy as np

        if len(self.text) < SHORT_CHARS:
            return np.array([match.start() for match in re.finditer(r"\d", self.text)], np.int64)
        if self._codes.dtype == np.uint8:
            return np.flatnonzero((self._codes - np.uint8(48)) < 10)
        return np.flatnonzero(digits()[self._codes])

    def _close(self, count: int, reach: int) -> list[Part]:
        places = self._digits
        if len(places) < count:
            return []
        first, last = places[: len(places) - count + 1], places[count - 1 :]
        close = last - first < reach
        return self._around(first[close], last[close], NUMBER_CHARS, NUMBER_CHARS)

    def _around(self, first: Places, last: Places, before: int, after: int) -> list[Part]:
        """The spans from each `first` to its `last` with so many characters on either side, joined where they touch."""
        import numpy as np

        begin, end = np.maximum(first - before, 0), np.minimum(last + after, len(self.text))
        apart = begin[1:] > end[:-1]
        begin, end = begin[np.append(True, apart)[: len(begin)]], end[np.append(apart, True)[: len(end)]]
        return list(zip(begin.tolist(), end.tolist(), strict=True))
