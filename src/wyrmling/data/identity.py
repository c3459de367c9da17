"""National identity numbers: their written form, and the check digit by which each tells itself from other numbers.

A form that many other numbers have too counts only in its own country (`data.clean.region`) or after a word for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import NamedTuple

from wyrmling.data.spots import Part

CONTEXT_CHARS = 40


class Identity(NamedTuple):
    """Numbers of `country` that are written like `form` and pass `valid`, which is given them without spaces and marks.

    words   what stands before such a number; None: the form alone says enough
    """

    type: str
    country: str
    form: str
    valid: Callable[[str], bool]
    words: re.Pattern[str] | None = None


def find_identities(text: str, parts: Iterable[Part], region: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and type of each identity number in these parts of the text."""
    for begin, end in parts:
        for match in ANY_FORM.finditer(text, begin, end):
            for identity, pattern in FORMS:
                found = pattern.match(text, match.start())
                if found is not None and _is_identity(identity, text, *found.span(), region):
                    yield *found.span(), identity.type
                    break


def _is_identity(identity: Identity, text: str, start: int, end: int, region: str) -> bool:
    if not identity.valid(re.sub(r"[\s./-]", "", text[start:end])):
        return False
    if identity.words is None or region == identity.country:
        return True
    return identity.words.search(text[max(0, start - CONTEXT_CHARS) : start]) is not None


def _words(*words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _weighted(digits: str, weights: range | tuple[int, ...]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def is_social_security(value: str) -> bool:
    """United States: no check digit; area, group and serial that are given out (20 CFR 422.103)."""
    return value[:3] not in ("000", "666") and value[0] != "9" and value[3:5] != "00" and value[5:] != "0000"


def is_national_insurance(value: str) -> bool:
    """United Kingdom: no check digit; prefixes that are given out (HMRC manual NIM39110)."""
    return value[:2] not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")


def is_tax_id(value: str) -> bool:
    """Germany, Steuer-ID: of the first ten digits one comes twice or three times; ISO 7064 MOD 11,10."""
    counts = sorted(Counter(value[:10]).values())
    if value[0] == "0" or counts[-1] not in (2, 3) or counts[-2] != 1:
        return False
    rest = 10
    for digit in value[:10]:
        rest = ((int(digit) + rest) % 10 or 10) * 2 % 11
    return (11 - rest) % 10 == int(value[10])


def is_nir(value: str) -> bool:
    """France, NIR: the last two digits are 97 less the number modulo 97; Corsica's 2A and 2B count as 19 and 18."""
    number = int(value[:13].replace("2A", "19").replace("2B", "18"))
    return 97 - number % 97 == int(value[13:])


def is_dni(value: str) -> bool:
    """Spain, DNI and NIE: the letter is the number modulo 23; X, Y, Z of a NIE count as 0, 1, 2."""
    number = int(value[:-1].translate(str.maketrans("XYZ", "012")))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == value[-1]


ODD_DIGITS = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21)
ODD_LETTERS = (*ODD_DIGITS, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


def is_codice_fiscale(value: str) -> bool:
    """Italy: the last letter is the sum modulo 26, odd places by table (decree of 23 December 1976)."""
    even = sum(int(char) if char.isdigit() else ord(char) - ord("A") for char in value[1:15:2])
    odd = sum(ODD_DIGITS[int(char)] if char.isdigit() else ODD_LETTERS[ord(char) - ord("A")] for char in value[:15:2])
    return chr((odd + even) % 26 + ord("A")) == value[15]


def is_cpf(value: str) -> bool:
    """Brazil, CPF: two check digits modulo 11; eleven equal digits are none."""
    first, second = (_weighted(value[:n], range(n + 1, 1, -1)) * 10 % 11 % 10 for n in (9, 10))
    return len(set(value)) > 1 and value[9:] == f"{first}{second}"


VERHOEFF = [[(a + b) % 5 if a < 5 and b < 5 else (a + b) % 5 + 5 if a < 5 else (a - b) % 5 + 5 if b < 5 else (a - b) % 5
             for b in range(10)] for a in range(10)]  # fmt: skip
VERHOEFF_STEP = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def is_aadhaar(value: str) -> bool:
    """India: Verhoeff's check digit (multiplication in the dihedral group of ten elements)."""
    check, step = 0, list(range(10))
    for digit in reversed(value):
        check = VERHOEFF[check][step[int(digit)]]
        step = [VERHOEFF_STEP[place] for place in step]
    return check == 0


def is_pesel(value: str) -> bool:
    """Poland: a date of birth (the century is in the month) and a check digit modulo 10."""
    century, month = divmod(int(value[2:4]), 20)
    try:
        date((1900, 2000, 2100, 2200, 1800)[century] + int(value[:2]), month, int(value[4:6]))
    except ValueError:
        return False
    return _weighted(value, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def is_ahv(value: str) -> bool:
    """Switzerland, AHV: the check digit of an EAN-13."""
    return _weighted(value, (1, 3) * 6 + (1,)) % 10 == 0


def is_bsn(value: str) -> bool:
    """The Netherlands: weights 9 to 2 and -1, divisible by 11."""
    return value != "000000000" and _weighted(value, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


IDENTITIES = (
    Identity("SSN", "US", r"\d{3}-\d{2}-\d{4}", is_social_security, _words("ssn", "social security")),
    Identity(
        "NINO", "GB", r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]", is_national_insurance
    ),
    Identity(
        "STEUERID", "DE", r"\d{2} \d{3} \d{3} \d{3}|\d{11}", is_tax_id,
        _words("steuer-?id(?:entifikationsnummer)?", "steuernummer", "idnr", "tax id"),
    ),
    Identity("NIR", "FR", r"[12378] ?\d{2} ?(?:0[1-9]|[1-9]\d) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}", is_nir),
    Identity("DNI", "ES", r"(?:\d{8}|[XYZ]-?\d{7})[ -]?[A-HJ-NP-TV-Z]", is_dni),
    Identity("CODICEFISCALE", "IT", r"[A-Z]{6}\d{2}[ABCDEHLMPRST]\d{2}[A-Z]\d{3}[A-Z]", is_codice_fiscale),
    Identity("CPF", "BR", r"\d{3}\.\d{3}\.\d{3}-\d{2}", is_cpf),
    Identity("CPF", "BR", r"\d{11}", is_cpf, _words("cpf")),
    Identity(
        "AADHAAR", "IN", r"[2-9]\d{3}(?: \d{4} |-\d{4}-|\d{4})\d{4}", is_aadhaar, _words("aadhaa?r", "uidai", "uid")
    ),
    Identity(
        "SIN", "CA", r"[1-79]\d{2}(?: \d{3} |-\d{3}-|\d{3})\d{3}", luhn, _words("sin", "social insurance", "nas")
    ),
    Identity("PESEL", "PL", r"\d{11}", is_pesel, _words("pesel")),
    Identity("AHV", "CH", r"756\.\d{4}\.\d{4}\.\d{2}", is_ahv),
    Identity("BSN", "NL", r"\d{9}", is_bsn, _words("bsn", "burgerservicenummer", "sofinummer")),
)  # fmt: skip


def _alone(form: str) -> re.Pattern[str]:
    """The form where no letter or digit and no further part of a number stands beside it."""
    return re.compile(rf"(?<!\w)(?<!\d[.,/-])(?:{form})(?!\w|[.,/-]\d)", re.ASCII)


FORMS = tuple((identity, _alone(identity.form)) for identity in IDENTITIES)
ANY_FORM = _alone("|".join(identity.form for identity in IDENTITIES))
