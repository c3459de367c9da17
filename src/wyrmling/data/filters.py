"""Quality rules for running text, by profile. Rows of tables, labels and conversations are never judged by them.

The thresholds of the web profile are published ones; those of the other profiles are looser, because manuals, code and
chat fail web rules for no fault of theirs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

Profile = Literal["web", "manuals", "code", "chat", "table"]


class Page(NamedTuple):
    """A text cut up once for all rules. Words are split at white space: another splitter needs other thresholds."""

    text: str
    words: list[str]
    lines: list[str]  # not blank
    paragraphs: list[str]


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
    page = Page(
        text,
        text.split(),
        [line for line in text.split("\n") if line.strip()],
        [part for part in re.split(r"\n{2,}", text) if part.strip()],
    )
    for rule in PROFILES[profile]:
        value = rule.measure(page)
        if rule.least is not None and value < rule.least:
            yield Verdict(rule.name, value, f">= {rule.least:g}")
        elif rule.most is not None and value > rule.most:
            yield Verdict(rule.name, value, f"<= {rule.most:g}")


def words(page: Page) -> float:
    return len(page.words)


def lines(page: Page) -> float:
    return len(page.lines)


def mean_word_length(page: Page) -> float:
    return sum(map(len, page.words)) / max(len(page.words), 1)


def mean_line_length(page: Page) -> float:
    return sum(map(len, page.lines)) / max(len(page.lines), 1)


def words_with_letters(page: Page) -> float:
    return sum(any(char.isalpha() for char in word) for word in page.words) / max(len(page.words), 1)


def letters(page: Page) -> float:
    """Share of letters among the characters that are not white space."""
    characters = sum(map(len, page.words))
    return sum(char.isalpha() for char in page.text) / max(characters, 1)


def symbols(page: Page) -> float:
    """Hash signs and ellipses per word, the greater of the two."""
    ellipses = page.text.count("...") + page.text.count("…")
    return max(page.text.count("#"), ellipses) / max(len(page.words), 1)


def bullets(page: Page) -> float:
    return sum(line.lstrip().startswith(("•", "-", "*")) for line in page.lines) / max(len(page.lines), 1)


def ellipsis_lines(page: Page) -> float:
    return sum(line.rstrip().endswith(("...", "…")) for line in page.lines) / max(len(page.lines), 1)


STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})


def stop_words(page: Page) -> float:
    return len(STOP_WORDS & {word.lower() for word in page.words})


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
        counts = Counter(zip(*(page.words[k:] for k in range(n)), strict=False))
        if not counts:
            return 0.0
        # Ties go to the longer one, so that the result does not depend on the order of the text.
        gram, count = max(counts.items(), key=lambda item: (item[1], sum(map(len, item[0]))))
        return count * sum(map(len, gram)) / sum(map(len, page.words)) if count > 1 else 0.0

    return measure


def repeated_ngrams(n: int) -> Callable[[Page], float]:
    """Share of characters in words that are inside an n-gram seen before."""

    def measure(page: Page) -> float:
        seen: set[tuple[str, ...]] = set()
        covered = bytearray(len(page.words))
        for at, gram in enumerate(zip(*(page.words[k:] for k in range(n)), strict=False)):
            if gram in seen:
                covered[at : at + n] = b"\1" * n
            seen.add(gram)
        total = sum(map(len, page.words))
        return sum(len(word) for word, hit in zip(page.words, covered, strict=True) if hit) / max(total, 1)

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
    return page.text.count("\n") / max(len(page.words), 1)


def placeholder_text(page: Page) -> float:
    return float("lorem ipsum" in page.text.lower())


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
