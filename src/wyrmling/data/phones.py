"""Telephone numbers, by the plans of all countries as `phonenumbers` knows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any

from wyrmling.data.spots import Part

# Digits with little between them, at least 9.
RUN = re.compile(r"\d(?:[ \u00a0\t().\-/]{0,3}\d){8,}")
GROUP = re.compile(r"\d+")
CONTEXT = re.compile(
    r"\b(?:phones?|tel|telephone|mobile|cell|fax|call(?:ed|ing)?|sms|text|dial|ring|whatsapp|contact|hotline"
    r"|(?:my|your|our|his|her|their) number)\b",
    re.IGNORECASE,
)
CONTEXT_CHARS = 40
MIN_DIGITS, MAX_DIGITS = 9, 17
# The kinds of numbers of which `phonenumbers` asks that a valid one is one.
KINDS = ("fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "voip", "personal_number", "pager", "uan")
# Part of a link, a name, a longer number or a sum.
NOT_BEFORE = re.compile(r"(?:[/#^A-Za-z0-9]|[A-Za-z0-9]-)\Z")
NOT_AFTER = re.compile(r"[A-Za-z0-9]|\s*=")
DECIMAL = re.compile(r"\d{1,3}\.\d{6,}")


def find_phones(text: str, parts: Iterable[Part], region: str) -> Iterator[Part]:
    """Where valid numbers of at least 9 digits are in these parts of the text.

    A bare run of digits counts only near a word such as "call" or "phone": 2147483648 is a valid number in Dallas.
    """
    import phonenumbers

    known = region if region in phonenumbers.SUPPORTED_REGIONS else None
    for begin, end in _windows(text, parts, known):
        for match in phonenumbers.PhoneNumberMatcher(text[begin:end], known):
            start, stop, raw = begin + match.start, begin + match.end, match.raw_string
            if sum(map(str.isdigit, raw)) < MIN_DIGITS or DECIMAL.fullmatch(raw):
                continue
            if NOT_BEFORE.search(text[max(0, start - 2) : start]) or NOT_AFTER.match(text, stop):
                continue
            if not raw.isdigit() or CONTEXT.search(text[max(0, start - CONTEXT_CHARS) : start]):
                yield start, stop


def _windows(text: str, parts: Iterable[Part], region: str | None) -> Iterator[Part]:
    """The parts of the text around digits that may be a number: the matcher is too slow for whole books."""
    begin, end = 0, 0
    for first, last in parts:
        for match in RUN.finditer(text, first, last):
            if not _may_be_phone(text, match, region):
                continue
            if match.start() - CONTEXT_CHARS > end:
                if end:
                    yield begin, end
                begin = max(0, match.start() - CONTEXT_CHARS)
            end = min(len(text), match.end() + CONTEXT_CHARS)
    if end:
        yield begin, end


def _may_be_phone(text: str, run: re.Match[str], region: str | None) -> bool:
    """Whether groups of digits in the run, one after another, make a number by the region's plan or have a + before."""
    if "+" in text[max(0, run.start() - 4) : run.start()] or "\uff0b" in text[max(0, run.start() - 4) : run.start()]:
        return True
    if region is None:
        return False
    plan = _plan(region)
    groups = GROUP.findall(run[0])
    for first in range(len(groups)):
        for digits in accumulate(groups[first : first + MAX_DIGITS]):
            if len(digits) > MAX_DIGITS:
                break
            if len(digits) >= MIN_DIGITS and plan.fullmatch(digits):
                return True
    return False


@lru_cache
def _plan(region: str) -> re.Pattern[str]:
    """Digits of a number as they are dialled in the region: with the prefix for it, abroad, or another country."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

    plan: Any = PhoneMetadata.metadata_for_region(region)
    abroad, home = plan.international_prefix or "00", plan.national_prefix_for_parsing or plan.national_prefix or ""
    # Regions with one country code, as in North America, are dialled alike.
    plans = map(PhoneMetadata.metadata_for_region, COUNTRY_CODE_TO_REGION_CODE[plan.country_code])
    kinds = (getattr(of_region, kind) for of_region in plans for kind in KINDS)
    number = "|".join(kind.national_number_pattern for kind in kinds if kind and kind.national_number_pattern)
    return re.compile(rf"(?:{abroad})\d+|(?:{plan.country_code})?(?:{home})?(?:{number})")
