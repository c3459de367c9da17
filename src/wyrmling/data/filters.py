"""Quality rules for running text, by profile. Rows of tables, labels and conversations are never judged by them.

The thresholds of the web profile are published ones; those of the other profiles are looser, because manuals, code and
chat fail web rules for no fault of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from wyrmling.data.dedup import mix
from wyrmling.data.matching import Words, words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Places = NDArray[np.int64]

Profile = Literal["web", "manuals", "code", "chat", "table"]

WORD = re.compile(r"\S+")
LONGEST_GRAM = 10


class Page:
    """A text cut up once for all rules. Words are split at white space: another splitter needs other thresholds."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> Words:
        return words_of(self.text)

    @cached_property
    def characters(self) -> int:
        """Characters in words: white space does not count."""
        return int(self.words.lengths.sum())

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank."""
        return [line for line in self.text.split("\n") if line and not line.isspace()]

    @cached_property
    def paragraphs(self) -> list[str]:
        parts = (part.lstrip("\n") for part in self.text.split("\n\n"))
        return [part for part in parts if part and not part.isspace()]

    @cached_property
    def repeats(self) -> dict[int, Repeats]:
        """The n-grams of words that occur more than once, by n."""
        return find_repeats(self.words.hashes)

    @cached_property
    def places(self) -> Places:
        """Where each word starts, counted in characters of words; one more for the end."""
        import numpy as np

        return np.concatenate(([0], np.cumsum(self.words.lengths)))

    def span(self, start: Places, end: Places) -> Places:
        """Characters of the words from each `start` up to each `end`, without the spaces."""
        return self.places[end] - self.places[start]


class Repeats(NamedTuple):
    """Repeated n-grams, each by the word it starts with: where it comes first, how often; and all places after that."""

    first: Places
    counts: Places
    again: Places


def find_repeats(hashes: NDArray[np.uint64]) -> dict[int, Repeats]:
    """The n-grams of words that occur more than once, for n from 2 to LONGEST_GRAM.

    An n-gram can only be repeated where its first n - 1 words are, so there is less to sort for each next n.
    """
    import numpy as np

    size = len(hashes)
    numbers = np.arange(size, dtype=np.uint64)
    places, grams = numbers.astype(np.int64), mix(np.zeros(size, np.uint64), hashes)
    none = Repeats(places[:0], places[:0], places[:0])
    found = dict.fromkeys(range(2, LONGEST_GRAM + 1), none)
    # A gram's number takes the lowest bits of its hash: one sort of plain numbers brings equal ones together, and keeps
    # their order. Over a million words 44 bits of the hash are left, enough for a share of characters.
    bits = np.uint64(size.bit_length())
    low = (np.uint64(1) << bits) - np.uint64(1)
    for n in found:
        inside = int(np.searchsorted(places, size - n, side="right"))
        places = places[:inside]
        grams = mix(grams[:inside], hashes[places + (n - 1)])
        keys = (grams & ~low) | numbers[:inside]
        keys.sort()
        order, ranked = (keys & low).astype(np.int64), keys >> bits
        # Where each run of equal grams starts, and the end of the last one.
        new = np.ones(inside + 1, bool)
        np.not_equal(ranked[1:], ranked[:-1], out=new[1:inside])
        start = new.nonzero()[0]
        counts = start[1:] - start[:-1]
        repeated = (counts > 1).nonzero()[0]
        if not len(repeated):
            break
        first = order[start[repeated]]
        again = np.zeros(inside, bool)
        again[order[~new[:-1]]] = True
        member = again.copy()
        member[first] = True
        found[n] = Repeats(places[first], counts[repeated], places[again])
        places, grams = places[member], grams[member]
    return found


class Rule(NamedTuple):
    """A text is dropped by `name` when `measure` is below `least` or above `most`. None: no bound."""

    name: str
    measure: Callable[[Page], float]
    least: float | None = None
    most: float | None = None


class Verdict(NamedTuple):
    rule: str
    value: float
    threshold: str


def judge(text: str, profile: Profile) -> Verdict | None:
    """The first rule of the profile that the text breaks, with the measured value; None when it may stay."""
    return next(broken_rules(text, profile), None)


def broken_rules(text: str, profile: Profile) -> Iterator[Verdict]:
    """Every rule of the profile that the text breaks, in order, each measured when it is asked for."""
    return breaks(Page(text), PROFILES[profile])


def breaks(page: Page, rules: Sequence[Rule]) -> Iterator[Verdict]:
    """Those of the rules that the page breaks, in order, each measured when it is asked for."""
    for rule in rules:
        value = rule.measure(page)
        if rule.least is not None and value < rule.least:
            yield Verdict(rule.name, value, f">= {rule.least:g}")
        elif rule.most is not None and value > rule.most:
            yield Verdict(rule.name, value, f"<= {rule.most:g}")


def words(page: Page) -> float:
    return len(page.words.hashes)


def lines(page: Page) -> float:
    return len(page.lines)


def mean_word_length(page: Page) -> float:
    return page.characters / max(len(page.words.hashes), 1)


def mean_line_length(page: Page) -> float:
    return sum(map(len, page.lines)) / max(len(page.lines), 1)


def words_with_letters(page: Page) -> float:
    return int((page.words.letters > 0).sum()) / max(len(page.words.hashes), 1)


def letters(page: Page) -> float:
    """Share of letters among the characters that are not white space."""
    return int(page.words.letters.sum()) / max(page.characters, 1)


def symbols(page: Page) -> float:
    """Hash signs and ellipses per word, the greater of the two."""
    ellipses = page.text.count("...") + page.text.count("…")
    return max(page.text.count("#"), ellipses) / max(len(page.words.hashes), 1)


def bullets(page: Page) -> float:
    return sum(line.lstrip()[:1] in "•-*" for line in page.lines) / max(len(page.lines), 1)


def ellipsis_lines(page: Page) -> float:
    if "..." not in page.text and "…" not in page.text:
        return 0.0
    return sum(line.rstrip().endswith(("...", "…")) for line in page.lines) / max(len(page.lines), 1)


STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})


def stop_words(page: Page) -> float:
    """How many of them there are, up to the two that are enough."""
    found: set[str] = set()
    for match in WORD.finditer(page.text):
        word = match[0].lower()
        if word in STOP_WORDS:
            found.add(word)
            if len(found) == 2:
                break
    return len(found)


def repeated_lines(page: Page) -> float:
    return _repeated(page.lines)


def repeated_line_characters(page: Page) -> float:
    return _repeated_characters(page.lines)


def repeated_paragraphs(page: Page) -> float:
    return _repeated(page.paragraphs)


def repeated_paragraph_characters(page: Page) -> float:
    return _repeated_characters(page.paragraphs)


def _repeated(parts: Sequence[str]) -> float:
    return 1 - len(set(parts)) / len(parts) if parts else 0.0


def _repeated_characters(parts: Sequence[str]) -> float:
    total = sum(map(len, parts))
    return 1 - sum(map(len, set(parts))) / total if total else 0.0


def top_ngram(n: int) -> Callable[[Page], float]:
    """Share of characters in the n-gram of words that occurs most, if it occurs twice."""

    def measure(page: Page) -> float:
        first, counts, _ = page.repeats[n]
        if not len(first):
            return 0.0
        # Ties go to the longer one, so that the result does not depend on the order of the text.
        most = counts.max()
        first = first[counts == most]
        return int(most * page.span(first, first + n).max()) / page.characters

    return measure


def repeated_ngrams(n: int) -> Callable[[Page], float]:
    """Share of characters in words that are inside an n-gram seen before."""

    def measure(page: Page) -> float:
        import numpy as np

        start = page.repeats[n].again
        if not len(start):
            return 0.0
        # Grams one after another overlap: each covers its words up to where the next one begins.
        end = start + n
        np.minimum(end[:-1], start[1:], out=end[:-1])
        return int(page.span(start, end).sum()) / page.characters

    return measure


# One-line texts (an article per line) would fail every rule on lines: those wait for 3 line ends per 2,000 characters.
def _lined(measure: Callable[[Page], float]) -> Callable[[Page], float]:
    return lambda page: measure(page) if page.text.count("\n") * 2000 >= 3 * len(page.text) else 0.0


TERMINALS = (".", "!", "?", "…", "。", "！", "？", "।", "؟", "۔", '"', "”", "'", "’")


def unpunctuated_lines(page: Page) -> float:
    return sum(not line.rstrip().endswith(TERMINALS) for line in page.lines) / max(len(page.lines), 1)


def short_lines(page: Page) -> float:
    return sum(len(line) <= 30 for line in page.lines) / max(len(page.lines), 1)


def newlines_per_word(page: Page) -> float:
    return page.text.count("\n") / max(len(page.words.hashes), 1)


def placeholder_text(page: Page) -> float:
    # Only a text that has it in some case is worth a copy in small letters.
    found = any(word in page.text for word in ("ipsum", "Ipsum", "IPSUM"))
    return float(found and "lorem ipsum" in page.text.lower())


def curly_brackets(page: Page) -> float:
    return page.text.count("{")


# Rae et al. 2021, Gopher (arXiv 2112.11446), appendix A1.1.
GOPHER_QUALITY = (
    Rule("words", words, 50, 100_000),
    Rule("mean_word_length", mean_word_length, 3, 10),
    Rule("symbols", symbols, most=0.1),
    Rule("bullets", bullets, most=0.9),
    Rule("ellipsis_lines", ellipsis_lines, most=0.3),
    Rule("words_with_letters", words_with_letters, 0.8),
    Rule("stop_words", stop_words, 2),
)

# Gopher, table A1. Blank lines do not count: prose of five paragraphs would repeat them.
GOPHER_REPETITION = (
    Rule("repeated_lines", repeated_lines, most=0.30),
    Rule("repeated_paragraphs", repeated_paragraphs, most=0.30),
    Rule("repeated_line_characters", repeated_line_characters, most=0.20),
    Rule("repeated_paragraph_characters", repeated_paragraph_characters, most=0.20),
    *(Rule(f"top_{n}_gram", top_ngram(n), most=most) for n, most in ((2, 0.20), (3, 0.18), (4, 0.16))),
    *(
        Rule(f"repeated_{n}_grams", repeated_ngrams(n), most=most)
        for n, most in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    ),
)

# Penedo et al. 2024, FineWeb (arXiv 2406.17557): 0.12, 0.67 and newline ratio as in huggingface/datatrove.
FINEWEB = (
    Rule("unpunctuated_lines", _lined(unpunctuated_lines), most=0.88),
    Rule("short_lines", _lined(short_lines), most=0.67),
    Rule("newlines_per_word", newlines_per_word, most=0.3),
)

# Raffel et al. 2020, T5 (arXiv 1910.10683), section 2.2: pages with a placeholder text or a curly bracket.
C4 = (Rule("placeholder_text", placeholder_text, most=0), Rule("curly_brackets", curly_brackets, most=0))

# assumption: bounds that keep 97 % of three real collections of manuals, where web rules dropped half.
MANUALS = (
    Rule("words", words, 20, 1_000_000),
    Rule("mean_word_length", mean_word_length, 2, 20),
    Rule("letters", letters, 0.25),
    Rule("ellipsis_lines", ellipsis_lines, most=0.3),
    Rule("repeated_lines", repeated_lines, most=0.50),
    Rule("repeated_line_characters", repeated_line_characters, most=0.40),
    Rule("repeated_paragraphs", repeated_paragraphs, most=0.50),
    Rule("repeated_paragraph_characters", repeated_paragraph_characters, most=0.40),
    Rule("placeholder_text", placeholder_text, most=0),
)

# Lines 10 to 20,000 as in NVIDIA/NeMo-Curator's code filters; letters and mean line length as in Codex
# (Chen et al. 2021, arXiv 2107.03374, section 3.1).
CODE = (
    Rule("lines", lines, 10, 20_000),
    Rule("mean_line_length", mean_line_length, most=100),
    Rule("letters", letters, 0.25),
)

# assumption: one turn is at most as long as a long context.
CHAT = (Rule("words", words, 1, 32_000),)

PROFILES: dict[Profile, tuple[Rule, ...]] = {
    "web": (*GOPHER_QUALITY, *GOPHER_REPETITION, *FINEWEB, *C4),
    "manuals": MANUALS,
    "code": CODE,
    "chat": CHAT,
    "table": (),
}

# Rules that data.clean.restore can switch off: judgements of quality, likeness and language. A row that holds nothing
# to learn from can't be brought back, and one that stands in a test set must not be.
RESTORABLE = (
    "too_short",
    "language",
    "exact_duplicate",
    "near_duplicate",
    "overlaps_val",
    "overlaps_test",
    *sorted({rule.name for rules in PROFILES.values() for rule in rules}),
)
