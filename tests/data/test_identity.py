from __future__ import annotations

import random

import pytest

from wyrmling.data.pii import mask


def masked(text: str, region: str = "US") -> str:
    return mask([text], region)[0][0]


# Numbers that the authorities or the usual handbooks give as examples, and the same with one digit or letter changed.
@pytest.mark.parametrize(
    ("type", "region", "valid", "invalid"),
    [
        ("SSN", "US", ["219-09-9999", "123-45-6789"], ["000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567"]),
        ("NINO", "GB", ["AB123456C", "AB 12 34 56 D"], ["BG123456C", "AB123456E", "DA123456C"]),
        ("STEUERID", "DE", ["86 095 742 719", "47036892816", "65929970489"], ["86 095 742 718", "12345678901"]),
        ("NIR", "FR", ["255081416802538", "2 55 08 14 168 025 38"], ["255081416802539", "2 55 08 14 168 026 38"]),
        ("DNI", "ES", ["12345678Z", "X1234567L", "00000000-T"], ["12345678A", "X1234567M"]),
        ("CODICEFISCALE", "IT", ["RSSMRA85T10A562S", "MRTMTT91D08F205J"], ["RSSMRA85T10A562T", "RSSMRA85Z10A562S"]),
        ("CPF", "BR", ["529.982.247-25", "52998224725"], ["529.982.247-26", "111.111.111-11"]),
        ("AADHAAR", "IN", ["2341 2341 2346", "234123412346"], ["2341 2341 2347", "1341 2341 2346"]),
        ("SIN", "CA", ["130 692 544", "130-692-544"], ["130 692 545", "830 692 544"]),
        ("PESEL", "PL", ["44051401359", "02070803628"], ["44051401358", "44131401353"]),
        ("AHV", "CH", ["756.9217.0769.85"], ["756.9217.0769.84"]),
        ("BSN", "NL", ["111222333"], ["111222334", "000000000"]),
    ],
)
def test_identity_numbers_are_masked_when_their_check_digit_is_right(
    type: str, region: str, valid: list[str], invalid: list[str]
) -> None:
    for value in valid:
        assert masked(f"given as {value}, thanks", region) == f"given as <{type}_1>, thanks"
        assert masked(f"given as A{value}7, thanks", region) == f"given as A{value}7, thanks"
    for value in invalid:
        assert f"<{type}" not in masked(f"given as {value}, thanks", region)


@pytest.mark.parametrize(
    ("text", "type"),
    [
        ("my Steuer-ID: 47036892816", "STEUERID"),
        ("CPF 52998224725", "CPF"),
        ("Aadhaar no. 234123412346", "AADHAAR"),
        ("social insurance number 130692544", "SIN"),
        ("PESEL 44051401359", "PESEL"),
        ("BSN: 111222333", "BSN"),
    ],
)
def test_bare_numbers_count_abroad_only_after_a_word_for_them(text: str, type: str) -> None:
    assert f"<{type}_1>" in masked(text)
    number = text.split()[-1]
    assert masked(f"row {number} of the table") == f"row {number} of the table"


TYPES = {"DE": "<STEUERID", "BR": "<CPF", "PL": "<PESEL", "IN": "<AADHAAR"}


def test_few_of_many_random_numbers_pass_for_identity_numbers_at_home() -> None:
    rng = random.Random(0)
    for region, digits, share in (("DE", 11, 0.05), ("BR", 11, 0.03), ("PL", 11, 0.03), ("IN", 12, 0.12)):
        numbers = [str(rng.randrange(10 ** (digits - 1), 10**digits)) for _ in range(400)]
        assert sum(TYPES[region] in masked(f"row {number} here", region) for number in numbers) <= share * 400


KEYS = [
    "AKIAIOSFODNN7EXAMPLE", "AIza" + "Sy1-" * 8 + "abc", "ya29." + "a0Af_" * 6, "GOCSPX-" + "aB3_" * 7,
    "ghp_" + "a1B2" * 9, "github_pat_" + "11AB_" * 6, "glpat-" + "aB3_" * 6, "sk-proj-" + "a1B2_" * 8,
    "sk-ant-api03-" + "a1B2-" * 8, "gsk_" + "a1B2" * 12, "hf_" + "abCD" * 9, "r8_" + "a1B2" * 9 + "x",
    "pplx-" + "a1b2" * 12, "xoxb-" + "1234567890-", "xapp-1-" + "A1B2" * 6, "sk_live_" + "a1B2" * 6,
    "whsec_" + "a1B2" * 8, "sq0atp-" + "a1B2" * 6, "SG." + "a1B2_" * 4 + "." + "a1B2-" * 8, "key-" + "0a1b" * 8,
    "SK" + "0a1b" * 8, "npm_" + "a1B2" * 9, "pypi-" + "AgEIcHlw" * 8, "dckr_pat_" + "a1B2-" * 5,
    "dop_v1_" + "0a1b" * 16, "dapi" + "0a1b" * 8, "hvs." + "a1B2_" * 6, "glsa_" + "a1B2" * 10,
    "shpat_" + "0a1b" * 8, "lin_api_" + "a1B2" * 10, "ntn_" + "a1B2" * 11, "ATATT3" + "xFfGF0_-" * 8 + "=1A2B",
    "123456789:AA" + "a1B2-" * 6 + "xyz", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF_123-xyz",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_services_are_masked_in_short_and_in_long_texts(key: str) -> None:
    key = key.rstrip("-")
    for before, after in (("", ""), ("token = '", "'"), ("plain words " * 60 + "\n", "\n" + "plain words " * 60)):
        assert masked(f"{before}{key}{after}") == f"{before}<KEY_1>{after}"
    assert masked(f"see {key[:9]} there") == f"see {key[:9]} there"


def test_the_key_of_a_storage_account_and_passwords_in_links_are_masked() -> None:
    key = "h4LqKzXw0bTn9Yc7VfUe2+Rm/" * 3 + "GdPaSiJo1Qw" + "=="
    assert masked(f"AccountName=me;AccountKey={key};Suffix=x") == "AccountName=me;AccountKey=<KEY_1>;Suffix=x"
    assert masked("redis://:s3cret@cache:6379/0") == "redis://<CREDENTIAL_1>@cache:6379/0"
    assert masked("postgresql+psycopg://me:p%40ss@db/x") == "postgresql+psycopg://<CREDENTIAL_1>@db/x"
    assert masked("mail me@example or see https://example.org/@me") == "mail me@example or see https://example.org/@me"


@pytest.mark.parametrize("kind", ["RSA ", "OPENSSH ", "EC ", "ENCRYPTED ", ""])
def test_private_keys_are_masked_whole_and_public_ones_stay(kind: str) -> None:
    body = "MIIEow\nAbC=\n" * 20
    private = f"-----BEGIN {kind}PRIVATE KEY-----\n{body}-----END {kind}PRIVATE KEY-----"
    public = private.replace("PRIVATE", "PUBLIC")
    assert masked(f"a\n{private}\nb\n{public}") == f"a\n<PRIVATEKEY_1>\nb\n{public}"
    pgp = "-----BEGIN PGP PRIVATE KEY BLOCK-----\nxyz\n-----END PGP PRIVATE KEY BLOCK-----"
    assert masked(f"{pgp} end") == "<PRIVATEKEY_1> end"
