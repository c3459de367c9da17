"""Private data in text: found by pattern and checked, replaced by typed placeholders. Names are not found.

`<EMAIL_1>` stands for the same address everywhere in one row. What was found is counted, never kept.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from wyrmling.data.rows import Row

PLACEHOLDER = re.compile(r"<([A-Z]+)_(\d+)>")

PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----.*?(?:-----END (?:[A-Z]+ )*PRIVATE KEY-----|\Z)", re.DOTALL
)
CREDENTIAL = re.compile(r"(?<=://)[^\s/:@<>]+:[^\s/@<>]+(?=@)")
# Token formats as their issuers document them: AWS, GitHub, GitLab, OpenAI, Slack, Google, Stripe; JSON web tokens.
KEY = re.compile(
    r"(?<![\w-])(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}|glpat-[\w-]{20,}"
    r"|sk-[A-Za-z0-9_-]{20,}|xox[abposr]-[\w-]{10,}|AIza[\w-]{35}|[sr]k_live_\w{16,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})(?![\w-])"
)
EMAIL = re.compile(r"(?<![\w.+%-])[A-Za-z0-9_][\w.+%-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
# These start with the digit itself: the regex engine skips to it, which is many times faster than a lookbehind first.
CARD = re.compile(
    r"\d(?<![\d.-]\d)(?:\d{12,18}|\d{3}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{3}([ -])\d{6}\2\d{5})(?![\d-]|\.\d)"
)
SSN = re.compile(r"\d(?<![\d-]\d)(?<!9)\d\d(?<!000|666)-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
PHONE_LIKE = re.compile(r"\d(?:[ \u00a0\t().\-/]{0,3}\d){8}")
IPV4 = re.compile(r"\d(?<![\d.]\d)\d{0,2}(?:\.\d{1,3}){3}(?![\d.]*\d)")
IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![\w:])")

# Visa, Mastercard, American Express, Discover: a number that passes Luhn by chance rarely has these first digits.
CARD_ISSUER = re.compile(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|6011|65")
IP_CONTEXT = re.compile(
    r"\b(?:ips?|ipv[46]|addr|address(?:es)?|hosts?|hostname|servers?|subnet|gateway|dns|nameserver|ping|clients?|from|ssh|login|port)\b",
    re.IGNORECASE,
)
PHONE_CONTEXT = re.compile(
    r"\b(?:phones?|tel|telephone|mobile|cell|fax|call(?:ed|ing)?|sms|text|dial|ring|whatsapp|contact|hotline"
    r"|(?:my|your|our|his|her|their) number)\b",
    re.IGNORECASE,
)
# Part of a link, a name, a longer number or a sum.
NOT_BEFORE_PHONE = re.compile(r"(?:[/#^A-Za-z0-9]|[A-Za-z0-9]-)\Z")
NOT_AFTER_PHONE = re.compile(r"[A-Za-z0-9]|\s*=")
CONTEXT_CHARS, IP_CONTEXT_CHARS = 40, 20

Check = Callable[[str, int, int, str], bool]


class Rule(NamedTuple):
    """A match of `pattern` is private when `check(text, start, end, region)` agrees. No `hint`, no search."""

    type: str
    pattern: re.Pattern[str]
    hint: re.Pattern[str]
    check: Check


def mask_row(row: Row, region: str) -> None:
    """Replace private data in all texts of a row, in place; types and counts go to `row.redactions`."""
    before = row.pieces()
    if row.kind == "tagged":
        after, counts = _mask_words(before, region)
    else:
        after, counts = mask(before, region)
    if counts:
        row.set_pieces(after)
        row.redactions = dict(sorted(counts.items()))
        row.change("pii")


def mask(texts: Sequence[str], region: str = "US") -> tuple[list[str], Counter[str]]:
    """The texts of one row with placeholders for private data, and how many were set, by type.

    region   the country that phone numbers without a prefix belong to, ISO 3166 alpha-2
    """
    names = _Names(texts)
    masked = [_mask_text(text, region, names) for text in texts]
    return masked, names.counts


class _Names:
    """Numbers the values of one row: the same value, the same placeholder."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.counts: Counter[str] = Counter()
        self._known: dict[tuple[str, str], str] = {}
        self._last: Counter[str] = Counter()
        for text in texts:
            for kind, number in PLACEHOLDER.findall(text):
                self._last[kind] = max(self._last[kind], int(number[:9]))

    def placeholder(self, kind: str, value: str) -> str:
        self.counts[kind] += 1
        key = (kind, re.sub(r"[\s().\-/]", "", value).lower())
        if key not in self._known:
            self._last[kind] += 1
            self._known[key] = f"<{kind}_{self._last[kind]}>"
        return self._known[key]


def _mask_text(text: str, region: str, names: _Names) -> str:
    # A placeholder is shorter than what it replaces, which can bring a word such as "phone" near the next number:
    # go on until nothing more is found, so that masking twice is masking once.
    while True:
        spans = find(text, region)
        if not spans:
            return text
        parts, end = [], 0
        for span in spans:
            parts += [text[end : span.start], names.placeholder(span.type, text[span.start : span.end])]
            end = span.end
        text = "".join(parts) + text[end:]


def _mask_words(words: list[str], region: str) -> tuple[list[str], Counter[str]]:
    """Tagged words keep their number: each word that a span touches becomes the placeholder."""
    names = _Names(words)
    masked = list(words)
    while True:
        text = " ".join(masked)
        spans = find(text, region)
        if not spans:
            return masked, names.counts
        start, at = 0, 0
        places = [names.placeholder(span.type, text[span.start : span.end]) for span in spans]
        for number, word in enumerate(list(masked)):
            end = start + len(word)
            while at < len(spans) and spans[at].end <= start:
                at += 1
            if at < len(spans) and spans[at].start < end:
                masked[number] = places[at]
            start = end + 1


class Span(NamedTuple):
    start: int
    end: int
    type: str


def find(text: str, region: str = "US") -> list[Span]:
    """Where private data is, in order, without overlaps: the earlier rule of `RULES` wins."""
    taken: list[Span] = []
    for rule in RULES:
        if rule.hint.search(text) is None:
            continue
        for start, end in _matches(rule, text, region):
            if not any(start < span.end and span.start < end for span in taken):
                taken.append(Span(start, end, rule.type))
    if taken:
        # Never inside a placeholder that is already there.
        marks = [match.span() for match in PLACEHOLDER.finditer(text)]
        taken = [s for s in taken if not any(s.start < end and start < s.end for start, end in marks)]
    return sorted(taken)


def _matches(rule: Rule, text: str, region: str) -> Iterator[tuple[int, int]]:
    if rule.type == "PHONE":
        yield from _phones(text, region)
        return
    for match in rule.pattern.finditer(text):
        if rule.check(text, match.start(), match.end(), region):
            yield match.span()


def _phones(text: str, region: str) -> Iterator[tuple[int, int]]:
    """Valid numbers of at least 9 digits. A bare run of digits counts only near a word such as "call" or "phone":
    2147483648 is a valid number in Dallas."""
    import phonenumbers

    known = region if region in phonenumbers.SUPPORTED_REGIONS else None
    for begin, end in _windows(text):
        for match in phonenumbers.PhoneNumberMatcher(text[begin:end], known):
            if sum(char.isdigit() for char in match.raw_string) < 9:
                continue
            start = begin + match.start
            if NOT_BEFORE_PHONE.search(text[max(0, start - 2) : start]) or NOT_AFTER_PHONE.match(
                text, begin + match.end
            ):
                continue
            if not match.raw_string.isdigit() or _near(PHONE_CONTEXT, text, start, CONTEXT_CHARS):
                yield start, begin + match.end


def _windows(text: str) -> Iterator[tuple[int, int]]:
    """The parts of the text around 9 digits with little between them: the matcher is too slow for whole books."""
    begin, end = 0, 0
    for match in PHONE_LIKE.finditer(text):
        if match.start() - CONTEXT_CHARS > end:
            if end:
                yield begin, end
            begin = max(0, match.start() - CONTEXT_CHARS)
        end = min(len(text), match.end() + CONTEXT_CHARS)
    if end:
        yield begin, end


def _near(words: re.Pattern[str], text: str, start: int, reach: int) -> bool:
    return words.search(text[max(0, start - reach) : start]) is not None


def _always(text: str, start: int, end: int, region: str) -> bool:
    return True


def _is_iban(text: str, start: int, end: int, region: str) -> bool:
    """Length 15 to 34 and ISO 7064 remainder 1 modulo 97, letters counted from A = 10 (ISO 13616)."""
    value = text[start:end].replace(" ", "")
    if not 15 <= len(value) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in value[4:] + value[:4])) % 97 == 1


def _is_card(text: str, start: int, end: int, region: str) -> bool:
    """An issuer's first digits and the Luhn checksum (ISO/IEC 7812-1)."""
    digits = [int(char) for char in text[start:end] if char.isdigit()]
    if not 13 <= len(digits) <= 19 or CARD_ISSUER.match("".join(map(str, digits))) is None:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_social_security(text: str, start: int, end: int, region: str) -> bool:
    return region == "US"


def _is_ip(text: str, start: int, end: int, region: str) -> bool:
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
        or _near(IP_CONTEXT, text, start, IP_CONTEXT_CHARS)
    )


RULES = (
    Rule("PRIVATEKEY", PRIVATE_KEY, re.compile("PRIVATE KEY"), _always),
    Rule("CREDENTIAL", CREDENTIAL, re.compile("@"), _always),
    Rule("KEY", KEY, re.compile("AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|sk-|xox|AIza|k_live_|eyJ"), _always),
    Rule("EMAIL", EMAIL, re.compile("@"), _always),
    Rule("IBAN", IBAN, re.compile(r"[A-Z]{2}\d{2}"), _is_iban),
    Rule("CARD", CARD, re.compile(r"\d{4}"), _is_card),
    Rule("SSN", SSN, re.compile(r"\d{3}-\d{2}-\d{4}"), _is_social_security),
    Rule("IP", IPV4, re.compile(r"\d\.\d{1,3}\."), _is_ip),
    Rule("IP", IPV6, re.compile(r"[0-9A-Fa-f]?:[0-9A-Fa-f]*:"), _is_ip),
    Rule("PHONE", PHONE_LIKE, PHONE_LIKE, _always),
)
