"""Bytes to text: which character encoding a file is in."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from wyrmling.core.errors import BadSetting


class Decoded(NamedTuple):
    """`note` says what was guessed or replaced, None when the bytes left no doubt."""

    text: str
    encoding: str
    note: str | None = None


class Undecodable(Exception):
    """The bytes are not text in the named encoding, or no text at all."""


# UTF-32 first: its little-endian mark starts with the one of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

SAMPLE_BYTES = 65_536

# Names for what is in truth a larger set (WHATWG Encoding Standard, section 4.2); Python takes the small one literally.
SUPERSETS = {
    "shift_jis": "cp932", "shift-jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "euc-kr": "cp949",
    "iso-8859-1": "cp1252", "latin-1": "cp1252", "us-ascii": "cp1252", "iso-8859-9": "cp1254", "tis-620": "cp874",
}  # fmt: skip
# Where each set keeps its punctuation, syllables and the characters of its first, frequent level.
COMMON_CHARACTERS = (
    ("cp932", 0x8140, 0x9872),
    ("gb18030", 0xA1A1, 0xD7F9),
    ("big5hkscs", 0xA140, 0xC67E),
    ("cp949", 0xA1A1, 0xC8FE),
    ("euc_jp", 0xA1A1, 0xCFD3),
)
XML_ENCODING = re.compile(rb"""\s*<\?xml[^>]*?encoding=["']([A-Za-z0-9._-]+)["']""")


def decode(raw: bytes, encoding: str | None = None, *, html: bool = False) -> Decoded:
    """The text of `raw`: byte order mark, strict UTF-8, NUL pattern, detection, and cp1252 as the last resort.

    encoding  named by the user, then nothing is guessed
    html      True also believes the charset that the page or the XML declares
    Raises    Undecodable; BadSetting for an encoding that Python does not know
    """
    if encoding is not None:
        return Decoded(_named(raw, encoding), encoding)
    for mark, name in BYTE_ORDER_MARKS:
        if raw.startswith(mark):
            return _lenient(raw[len(mark) :], name)
    if (wide := _wide(raw)) is not None:
        return _lenient(raw, wide)
    if is_binary(raw):
        raise Undecodable("the file is binary, not text")
    try:
        return Decoded(raw.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        return _guess(raw, html)


def is_binary(raw: bytes) -> bool:
    """True when the first bytes hold NULs or more than 10 % control characters, which no text has."""
    sample = raw[:SAMPLE_BYTES]
    controls = sum(sample.count(bytes([c])) for c in range(32) if c not in (8, 9, 10, 12, 13, 26, 27))
    return (b"\0" in sample and controls > 0.01 * len(sample)) or controls > 0.1 * len(sample)


def _named(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise BadSetting(
            f"encoding = {encoding!r} is not known", fix="such as utf-8, cp1252, shift_jis, utf-16"
        ) from error
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Undecodable(f"not valid {encoding} at line {line}, byte {error.start}") from error


def _lenient(raw: bytes, encoding: str) -> Decoded:
    text = raw.decode(encoding, "replace")
    bad = text.count("\ufffd")
    note = f"{bad} characters are not valid {encoding}" if bad else None
    return Decoded(text, encoding, note)


def _wide(raw: bytes) -> str | None:
    """UTF-16 without a mark: for mostly Latin text every second byte is NUL."""
    sample = raw[:SAMPLE_BYTES]
    half = len(sample) // 2
    if half < 2 or len(raw) % 2:
        return None
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if odd > 0.4 * half and even < 0.1 * half:
        return "utf-16-le"
    if even > 0.4 * half and odd < 0.1 * half:
        return "utf-16-be"
    return None


def _declared(raw: bytes) -> str | None:
    """The encoding in the first line of an XML text, when Python knows it."""
    found = XML_ENCODING.match(raw[:1024])
    try:
        return codecs.lookup(found[1].decode("ascii")).name if found else None
    except LookupError:
        return None


def _east_asian(raw: bytes) -> str | None:
    """The only East Asian set in which nearly all that is not ASCII is a common character; for texts of a few words."""
    fitting: list[str] = []
    for name, low, high in COMMON_CHARACTERS:
        text = raw[:SAMPLE_BYTES].decode(name, "replace")
        signs = [sign.encode(name, "replace") for sign in text if sign > "\x7f"]
        common = sum(len(sign) == 2 and low <= int.from_bytes(sign) <= high for sign in signs)
        if len(signs) >= 3 and common >= 0.9 * len(signs):
            fitting.append(name)
    return fitting[0] if len(fitting) == 1 else None


def _guess(raw: bytes, html: bool) -> Decoded:
    text = raw.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    good = sum(1 for char in text if char > "\x7f") - bad
    if good > 10 * bad:
        # A few broken bytes in a UTF-8 file must not turn all its other characters into mojibake.
        return Decoded(text, "utf-8", f"{bad} broken UTF-8 characters were replaced")
    from resiliparse.parse.encoding import detect_encoding

    found = _declared(raw) if html else None
    found = found or detect_encoding(raw, from_html_meta=html)
    found = SUPERSETS.get((found or "").lower(), found)
    # The detector answers utf-8 when it does not know; strict UTF-8 has already failed.
    if found and found.lower().replace("_", "-") not in ("utf-8", "utf8"):
        try:
            return Decoded(raw.decode(found), found)
        except (UnicodeDecodeError, LookupError):
            pass
    if (found := _east_asian(raw)) is not None:
        return _lenient(raw, found)
    return Decoded(raw.decode("cp1252", "replace"), "cp1252", "the encoding could not be told, read as cp1252")
