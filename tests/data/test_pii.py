from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrmling.data.pii import mask, mask_row
from wyrmling.data.rows import Message, Row

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAbC=\n-----END RSA PRIVATE KEY-----"


def masked(text: str, region: str = "US") -> str:
    return mask([text], region)[0][0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to ann.lee+x@mail.example.org.", "write to <EMAIL_1>."),
        ("call (415) 555-2671 or +44 20 7946 0958", "call <PHONE_1> or <PHONE_2>"),
        ("my number is 4155552671", "my number is <PHONE_1>"),
        ("IBAN GB82 WEST 1234 5698 7654 32 please", "IBAN <IBAN_1> please"),
        ("card 4111 1111 1111 1111, exp 12/29", "card <CARD_1>, exp 12/29"),
        ("amex 378282246310005", "amex <CARD_1>"),
        ("ssn 219-09-9999", "ssn <SSN_1>"),
        ("ping 8.8.8.8 now", "ping <IP_1> now"),
        ("http://8.8.8.8/x", "http://<IP_1>/x"),
        ("2001:4860:4860::8888", "<IP_1>"),
        ("git clone https://me:s3cret@example.org/r.git", "git clone https://<CREDENTIAL_1>@example.org/r.git"),
        ("AKIAIOSFODNN7EXAMPLE and ghp_" + "a1B2" * 9, "<KEY_1> and <KEY_2>"),
        (f"key:\n{KEY}\nend", "key:\n<PRIVATEKEY_1>\nend"),
    ],
)
def test_private_data_becomes_a_typed_placeholder(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "form 202208-3090-003, order 4111111111111112",  # the first passes Luhn, the second does not
        "see section 6.3.1.4 and version 1.2.3.4",
        "localhost is 127.0.0.1, the host 10.0.0.1",
        "2147483648 is two to the power of 31",
        "IBAN GB82 WEST 1234 5698 7654 33",
        "ssn 666-12-1234, 900-12-1234, 123-00-1234, 123-45-0000",
        "were 38980-28480 = 10500",
        "@paulwalk said a@b and 12:30:45",
        "https://example.org/articles/115003498363-Slack",
        "the number of pages is at most 2147483646",
        "see R-51971-34154",
        "ISBN 978-3-16-148410-0",
    ],
)
def test_numbers_that_only_look_private_stay(text: str) -> None:
    assert masked(text) == text


def test_the_same_value_has_the_same_number_in_all_texts_of_a_row() -> None:
    texts, counts = mask(["a@x.org, B@x.org", "again A@X.ORG <EMAIL_7>"])
    assert texts == ["<EMAIL_8>, <EMAIL_9>", "again <EMAIL_8> <EMAIL_7>"]
    assert counts == Counter(EMAIL=3)


def test_the_region_decides_which_local_numbers_are_phones() -> None:
    text = "ring 020 7946 0958"
    assert masked(text, "GB") == "ring <PHONE_1>"
    assert masked(text, "US") == text


def test_tagged_words_keep_their_number() -> None:
    row = Row(
        "s", "x", "conll", "tagged", words=["Call", "(415)", "555-2671", ",", "Ann"], tags=["O"] * 4 + ["B-person"]
    )
    mask_row(row, "US")
    assert row.words == ["Call", "<PHONE_1>", "<PHONE_1>", ",", "Ann"]
    assert row.redactions == {"PHONE": 1}


def test_conversations_are_masked_in_every_turn() -> None:
    turns = [Message("user", "I am a@x.org"), Message("assistant", "Thanks, a@x.org")]
    row = Row("s", "x", "json", "conversation", messages=turns)
    mask_row(row, "US")
    assert [message.content for message in row.messages] == ["I am <EMAIL_1>", "Thanks, <EMAIL_1>"]
    assert (row.verdict, row.rules, row.redactions) == ("changed", ["pii"], {"EMAIL": 2})


NUMBERS = [
    "8.8.8.8",
    "4155552671",
    "(415) 555-2671",
    "4111 1111 1111 1111",
    "219-09-9999",
    "GB82 WEST 1234 5698 7654 32",
]
NAMES = ["a@x.org", "https://u:p@h.org/", "AKIAIOSFODNN7EXAMPLE", "<EMAIL_1>"]
PIECES = st.sampled_from([*NUMBERS, *NAMES, "host ", "call ", " ", ", ", "1", "-", ".", "x", "\n", "=", ":"])


@given(st.lists(PIECES, max_size=14).map("".join))
def test_masking_twice_is_masking_once(text: str) -> None:
    once = masked(text)
    assert mask([once]) == ([once], Counter())


@given(st.text(st.sampled_from("0123456789 -.+()@:/abE\n"), max_size=80))
def test_no_text_crashes_masking(text: str) -> None:
    assert mask([masked(text)])[1] == Counter()


def luhn(digits: str) -> str:
    total = sum(sum(divmod(2 * int(d), 10)) for d in digits[::-2]) + sum(int(d) for d in digits[-2::-2])
    return digits + str(-total % 10)


@given(st.text("0123456789", min_size=14, max_size=14))
def test_every_visa_number_with_a_right_checksum_is_found_and_none_with_a_wrong_one(digits: str) -> None:
    right = luhn("4" + digits)
    wrong = right[:-1] + str((int(right[-1]) + 1) % 10)
    assert "<CARD_1>" in masked(f"card {right} given")
    assert "<CARD" not in masked(f"card {wrong} given")
