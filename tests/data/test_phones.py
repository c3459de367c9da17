from __future__ import annotations

import random

import phonenumbers
import pytest
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from wyrmling.data import phones
from wyrmling.data.phones import find_phones

TYPES = (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE, PhoneNumberType.TOLL_FREE)


def found(text: str, region: str) -> list[tuple[int, int]]:
    return list(find_phones(text, [(0, len(text))], region))


@pytest.mark.parametrize("at_home", [True, False])
def test_a_quick_look_at_digits_never_hides_what_the_matcher_would_find(at_home: bool) -> None:
    rng = random.Random(0)
    seen = 0
    regions = sorted(phonenumbers.SUPPORTED_REGIONS)[::4]
    for region in regions:
        numbers = [phonenumbers.example_number_for_type(region, kind) for kind in TYPES]
        home = region if at_home else rng.choice(regions)
        written = [
            phonenumbers.format_number(number, style)
            for number in numbers
            if number is not None
            for style in (PhoneNumberFormat.NATIONAL, PhoneNumberFormat.INTERNATIONAL, PhoneNumberFormat.E164)
        ]
        text = "".join(f"call 2019-11 {number} or 12 {rng.randrange(10**9, 10**11)},\n" for number in written)
        quick = found(text, home)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(phones, "_may_be_phone", lambda text, run, region: True)
            assert quick == found(text, home), (region, home)
        seen += len(quick)
    assert seen > 150


def test_columns_of_numbers_are_not_shown_to_the_matcher(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "0.00 0.00 0.00 0.00 0.00\n" * 20
    monkeypatch.setattr(phonenumbers, "PhoneNumberMatcher", lambda *args: pytest.fail("not worth it"))
    assert found(rows, "US") == []


def test_a_decimal_is_no_phone_number() -> None:
    text = "3.398346389\n2.193249238"
    assert list(phonenumbers.PhoneNumberMatcher(text, "US"))
    assert found(text, "US") == []
