"""Lines that many pages of one source share, such as menus, heads and feet: found over all pages, removed from each."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from wyrmling.data.clean import BLANK_LINES, EDGE_MIN_PAGES, EDGE_SHARE, line_form
from wyrmling.data.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# assumption: boilerplate is a line of two words or more on over 30 % of at least 5 pages of a source.
PAGED = frozenset({"html", "pdf", "md", "docx", "pptx", "odt", "rtf", "epub", "eml", "mbox", "msg"})
COPY_SHARE = 0.5
TWO_WORDS = re.compile(r"[^\W\d_]{2}.*?\s\W*[^\W\d_]{2}")
MARKUP = ("#", "<", "|", "`", "~")


class Pages(NamedTuple):
    """The lines of some pages of one source that could be boilerplate.

    forms  64-bit hash of each line with its numbers as #; chars its length; page the number of its page
    sizes  characters of each page
    """

    forms: NDArray[np.uint64]
    chars: NDArray[np.int64]
    page: NDArray[np.int64]
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class Boilerplate:
    """The shared lines of each source: on so many of all pages, and on so many of those that are no copies."""

    lines: Mapping[str, tuple[frozenset[int], frozenset[int]]] = field(default_factory=dict)

    def remove(self, row: Row) -> None:
        """Take the shared lines out of a page, by the rule "boilerplate".

        Headings and other marks of Markdown and HTML stay. Pages that consist of shared lines are versions of one
        another, which is for the de-duplication to judge: they are not touched.
        """
        if row.source not in self.lines or not is_page(row):
            return
        of_all, of_own = self.lines[row.source]
        lines = row.text.split("\n")
        forms = [_form(line) for line in lines]
        shared = sum(len(line) for line, form in zip(lines, forms, strict=True) if form in of_all)
        if shared <= COPY_SHARE * len(row.text):
            kept = [line for line, form in zip(lines, forms, strict=True) if form not in of_own]
            if len(kept) < len(lines):
                row.rewrite("boilerplate", lambda _: BLANK_LINES.sub("\n\n", "\n".join(kept)).strip())


def is_page(row: Row) -> bool:
    return row.alive and row.kind == "document" and row.family in PAGED


def _form(line: str) -> int | None:
    """64 bits that tell lines apart, whatever their numbers; None for a line that is never boilerplate."""
    if TWO_WORDS.search(line) is None or line.lstrip().startswith(MARKUP):
        return None
    return int.from_bytes(hashlib.blake2b(line_form(line).encode(), digest_size=8).digest(), "little")


def find_pages(rows: Iterable[Row]) -> dict[str, Pages]:
    """The pages among rows, by source."""
    import numpy as np

    found: dict[str, list[tuple[list[tuple[int, int]], int]]] = defaultdict(list)
    for row in rows:
        if is_page(row):
            forms = [(form, len(line)) for line in row.text.split("\n") if (form := _form(line)) is not None]
            found[row.source].append((forms, len(row.text)))
    return {
        source: Pages(
            np.array([form for lines, _ in pages for form, _ in lines], np.uint64),
            np.array([chars for lines, _ in pages for _, chars in lines], np.int64),
            np.repeat(np.arange(len(pages)), [len(lines) for lines, _ in pages]),
            np.array([size for _, size in pages], np.int64),
        )
        for source, pages in found.items()
    }


def shared_lines(rows: Iterable[Row]) -> Boilerplate:
    """The boilerplate of rows that are in memory."""
    return find_boilerplate({source: [partial(Pages, *pages)] for source, pages in find_pages(rows).items()})


def find_boilerplate(sources: Mapping[str, Sequence[Callable[[], Pages]]]) -> Boilerplate:
    """The shared lines of each source, from its pages in parts, each loaded when it is needed.

    Pages that consist of shared lines don't count: what is shared is looked for again without them.
    """
    found = {}
    for source, parts in sources.items():
        of_all = _repeated(parts)
        if len(of_all):
            of_own = _repeated([partial(_own, part, of_all) for part in parts])
            found[source] = (frozenset(of_all.tolist()), frozenset(of_own.tolist()))
    return Boilerplate(found)


def _repeated(parts: Sequence[Callable[[], Pages]]) -> NDArray[np.uint64]:
    """Forms on more than EDGE_SHARE of all pages; none for few pages.

    A form that is on so many of all pages is on so many of the pages of some part: only such forms are counted.
    """
    import numpy as np

    often, pages = np.empty(0, np.uint64), 0
    for load in parts:
        part = load()
        forms, counts = _count(part)
        often = np.union1d(often, forms[counts > EDGE_SHARE * len(part.sizes)])
        pages += len(part.sizes)
    if pages < EDGE_MIN_PAGES or not len(often):
        return np.empty(0, np.uint64)
    total = np.zeros(len(often), np.int64)
    for load in parts:
        forms, counts = _count(load())
        total[np.isin(often, forms, assume_unique=True)] += counts[np.isin(forms, often, assume_unique=True)]
    return often[total > EDGE_SHARE * pages]


def _count(part: Pages) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Each form, ascending, and on how many pages it is."""
    import numpy as np

    order = np.lexsort((part.page, part.forms))
    forms, page = part.forms[order], part.page[order]
    first = np.ones(len(forms), bool)
    first[1:] = (forms[1:] != forms[:-1]) | (page[1:] != page[:-1])
    return np.unique(forms[first], return_counts=True)


def _own(load: Callable[[], Pages], shared: NDArray[np.uint64]) -> Pages:
    """The pages without those that consist of shared lines."""
    import numpy as np

    part = load()
    inside = np.isin(part.forms, shared)
    of_page = np.bincount(part.page[inside], part.chars[inside], minlength=len(part.sizes))
    own = of_page <= COPY_SHARE * part.sizes
    kept = own[part.page]
    return Pages(part.forms[kept], part.chars[kept], (np.cumsum(own) - 1)[part.page[kept]], part.sizes[own])
