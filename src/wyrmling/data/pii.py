"""Private data in text: found by pattern and checked, replaced by typed placeholders. Names need a function of yours.

`<EMAIL_1>` stands for the same address everywhere in one row. What was found is counted, never kept.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from wyrmling.data.credentials import KEY, LONG_RUN, PASSWORD, PRIVATE_KEY
from wyrmling.data.identity import find_identities, luhn
from wyrmling.data.names import FindNames, no_names
from wyrmling.data.phones import find_phones
from wyrmling.data.rows import Row
from wyrmling.data.spots import Part, Spots

PLACEHOLDER = re.compile(r"<([A-Z]+)_(\d+)>")

EMAIL = re.compile(r"(?<![\w.+%-])[A-Za-z0-9_][\w.+%-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
# These start with the digit itself: the regex engine skips to it, which is many times faster than a lookbehind first.
CARD = re.compile(
    r"\d(?<![\d.-]\d)(?:\d{12,18}|\d{3}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{3}([ -])\d{6}\2\d{5})(?![\d-]|\.\d)"
)
IPV4 = re.compile(r"\d(?<![\d.]\d)\d{0,2}(?:\.\d{1,3}){3}(?![\d.]*\d)")
COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![\w:])")

# Visa, Mastercard, American Express, Discover: few numbers that pass Luhn by chance begin so and are so long.
CARD_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|(?:6011|65\d\d)\d{12,15}"
)
IP_CONTEXT = re.compile(
    r"\b(?:ips?|ipv[46]|addr|address(?:es)?|hosts?|hostname|servers?|subnet|gateway|dns|nameserver|ping|clients?|from|ssh|login|port)\b",
    re.IGNORECASE,
)
IP_CONTEXT_CHARS = 20

Check = Callable[[str, int, int], bool]


class Span(NamedTuple):
    start: int
    end: int
    type: str


def mask_row(row: Row, region: str, names: FindNames = no_names) -> None:
    """Replace private data in a row, in place; types and counts of its texts go to `row.redactions`."""
    if row.kept:
        row.kept = dict(zip(row.kept, mask(list(row.kept.values()), region, names)[0], strict=True))
    before = row.pieces()
    if row.kind == "tagged":
        after, counts = _mask_words(before, region, names)
    else:
        after, counts = mask(before, region, names)
    if counts:
        row.set_pieces(after)
        row.redactions = dict(sorted(counts.items()))
        row.change("pii")


def mask(texts: Sequence[str], region: str = "US", names: FindNames = no_names) -> tuple[list[str], Counter[str]]:
    """The texts of one row with placeholders for private data, and how many were set, by type.

    region   the country that phone and identity numbers belong to, ISO 3166 alpha-2
    names    finds the names of people
    """
    known = _Placeholders(texts)
    masked = [_mask_text(text, region, names, known) for text in texts]
    return masked, known.counts


class _Placeholders:
    """Numbers the values of one row: the same value, the same placeholder."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.counts: Counter[str] = Counter()
        self._known: dict[tuple[str, str], str] = {}
        self._last: Counter[str] = Counter()
        for text in texts:
            for kind, number in PLACEHOLDER.findall(text):
                self._last[kind] = max(self._last[kind], int(number[:9]))

    def of(self, kind: str, value: str) -> str:
        self.counts[kind] += 1
        key = (kind, re.sub(r"[\s().\-/]", "", value).lower())
        if key not in self._known:
            self._last[kind] += 1
            self._known[key] = f"<{kind}_{self._last[kind]}>"
        return self._known[key]


def _mask_text(text: str, region: str, names: FindNames, known: _Placeholders) -> str:
    # A placeholder is shorter than what it replaces, which can bring a word such as "phone" near the next number:
    # go on until nothing more is found, so that masking twice is masking once.
    while True:
        spans = find(text, region, names)
        if not spans:
            return text
        parts, end = [], 0
        for span in spans:
            parts += [text[end : span.start], known.of(span.type, text[span.start : span.end])]
            end = span.end
        text = "".join(parts) + text[end:]


def _mask_words(words: list[str], region: str, names: FindNames) -> tuple[list[str], Counter[str]]:
    """Tagged words keep their number: each word that a span touches becomes the placeholder."""
    known = _Placeholders(words)
    masked = list(words)
    while True:
        text = " ".join(masked)
        spans = find(text, region, names)
        if not spans:
            return masked, known.counts
        start, at = 0, 0
        places = [known.of(span.type, text[span.start : span.end]) for span in spans]
        for number, word in enumerate(list(masked)):
            end = start + len(word)
            while at < len(spans) and spans[at].end <= start:
                at += 1
            if at < len(spans) and spans[at].start < end:
                masked[number] = places[at]
            start = end + 1


def find(text: str, region: str = "US", names: FindNames = no_names) -> list[Span]:
    """Where private data is, in order, without overlaps: the earlier rule of `RULES` wins, names come last."""
    spots = Spots(text)
    taken: list[Span] = []
    for rule in RULES:
        taken += _free(taken, rule(spots, region))
    taken += _free(taken, (Span(start, end, "NAME") for start, end in names(text)))
    if taken:
        # Never inside a placeholder that is already there.
        marks = [Span(*match.span(), "") for match in PLACEHOLDER.finditer(text)]
        taken = _free(marks, iter(taken))
    return sorted(taken)


def _free(taken: Sequence[Span], found: Iterator[Span]) -> list[Span]:
    """Those of `found` that do not overlap with any that is taken, nor with an earlier one."""
    free: list[Span] = []
    for span in found:
        if not any(span.start < other.end and other.start < span.end for other in (*taken, *free)):
            free.append(span)
    return free


def _is_iban(text: str, start: int, end: int) -> bool:
    """Length 15 to 34 and ISO 7064 remainder 1 modulo 97, letters counted from A = 10 (ISO 13616)."""
    value = text[start:end].replace(" ", "")
    if not 15 <= len(value) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in value[4:] + value[:4])) % 97 == 1


def _is_card(text: str, start: int, end: int) -> bool:
    """An issuer's first digits and length, and the Luhn checksum."""
    digits = "".join(str(int(char)) for char in text[start:end] if char.isdigit())
    return CARD_ISSUER.fullmatch(digits) is not None and luhn(digits)


def _is_ip(text: str, start: int, end: int) -> bool:
    """A public address; four numbers with points and no word such as "host" before them are a section number."""
    try:
        address = ipaddress.ip_address(text[start:end])
    except ValueError:
        return False
    if not address.is_global:
        return False
    if address.version == 6:
        return True
    linked = text[max(0, start - 3) : start] == "://" or text[start - 1 : start] == "@"
    return (
        linked
        or re.match(r":\d{2,5}\b|/\d{1,2}\b", text[end:]) is not None
        or IP_CONTEXT.search(text[max(0, start - IP_CONTEXT_CHARS) : start]) is not None
    )


Rule = Callable[[Spots, str], Iterator[Span]]


def _rule(
    type: str, pattern: re.Pattern[str], where: Callable[[Spots], list[Part]], check: Check | None = None
) -> Rule:
    """The matches of `pattern` in the parts `where` of a text with which `check(text, start, end)` agrees."""

    def find(spots: Spots, region: str) -> Iterator[Span]:
        for begin, end in where(spots):
            for match in pattern.finditer(spots.text, begin, end):
                if check is None or check(spots.text, *match.span()):
                    yield Span(*match.span(), type)

    return find


def _identities(spots: Spots, region: str) -> Iterator[Span]:
    return (Span(*found) for found in find_identities(spots.text, spots.numbers, region))


def _phones(spots: Spots, region: str) -> Iterator[Span]:
    return (Span(*place, "PHONE") for place in find_phones(spots.text, spots.numbers, region))


def _at(spots: Spots) -> list[Part]:
    return spots.at


def _numbers(spots: Spots) -> list[Part]:
    return spots.numbers


def _digits(spots: Spots) -> list[Part]:
    return spots.digits


def _colons(spots: Spots) -> list[Part]:
    return spots.everywhere if COLONS.search(spots.text) else []


def _private_keys(spots: Spots) -> list[Part]:
    return spots.everywhere if "PRIVATE KEY" in spots.text else []


def _long_words(spots: Spots) -> list[Part]:
    # The longest that comes before the run itself is "AccountKey=" and half a key.
    return spots.long_words(LONG_RUN, 110, 110)


RULES = (
    _rule("PRIVATEKEY", PRIVATE_KEY, _private_keys),
    _rule("CREDENTIAL", PASSWORD, _at),
    _rule("KEY", KEY, _long_words),
    _rule("EMAIL", EMAIL, _at),
    _rule("IBAN", IBAN, _numbers, _is_iban),
    _rule("CARD", CARD, _numbers, _is_card),
    _identities,
    _rule("IP", IPV4, _digits, _is_ip),
    _rule("IP", IPV6, _colons, _is_ip),
    _phones,
)
