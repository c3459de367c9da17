from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrmling.core.errors import BadSetting
from wyrmling.data.decode import Undecodable, decode

GERMAN = "Die Straße führt über die Brücke, und die Mädchen grüßen schön. " * 20
RUSSIAN = "Это предложение написано по-русски, чтобы проверить кодировку файла. " * 20
JAPANESE = "これは日本語の文章です。文字コードを調べるために書きました。" * 20


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_utf_8_with_and_without_a_mark_comes_back(text: str) -> None:
    assert decode(codecs.BOM_UTF8 + text.encode()).text == text
    if not text.startswith("\ufeff"):
        assert decode(text.encode()) == (text, "utf-8", None)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_wide_encodings_are_told_by_their_mark_or_their_nuls(encoding: str) -> None:
    assert decode(GERMAN.encode(encoding)).text == GERMAN


@pytest.mark.parametrize(("text", "encoding"), [(GERMAN, "cp1252"), (RUSSIAN, "cp1251"), (JAPANESE, "shift_jis")])
def test_older_encodings_are_detected(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).text == text


def test_a_few_broken_bytes_do_not_turn_a_utf_8_file_into_mojibake() -> None:
    found = decode(GERMAN.encode() + b"\xff\xfe broken")
    assert found.encoding == "utf-8"
    assert found.text.startswith(GERMAN)
    assert found.note == "2 broken UTF-8 characters were replaced"


def test_bytes_that_nothing_fits_are_read_as_cp1252_and_say_so() -> None:
    found = decode(b"\xe9\x81\xff\x8d ")
    assert found.encoding == "cp1252"
    assert found.note is not None
    assert "could not be told" in found.note


def test_a_named_encoding_is_believed() -> None:
    assert decode("€".encode("cp1252"), "cp1252").text == "€"
    with pytest.raises(Undecodable, match="not valid ascii at line 2"):
        decode("a\né".encode(), "ascii")
    with pytest.raises(BadSetting, match="klingon"):
        decode(b"x", "klingon")


def test_a_page_that_declares_its_charset_is_believed() -> None:
    page = '<html><head><meta charset="windows-1251"></head><body>привет</body></html>'
    assert decode(page.encode("cp1251"), html=True).text == page


@given(st.binary(max_size=300))
def test_any_bytes_give_text_or_a_clear_refusal(raw: bytes) -> None:
    try:
        assert isinstance(decode(raw).text, str)
    except Undecodable as error:
        assert "binary" in str(error)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("名前,年齢,住所\r\n髙橋太郎,30,東京都千代田区\r\n", "cp932"),
        ("姓名,年龄,住址\r\n王小明,三十,北京市朝阳区\r\n", "gb18030"),
    ],
)
def test_short_tables_of_japanese_and_chinese_companies_are_read(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).text == text


def test_an_xml_text_is_read_in_the_encoding_that_it_names() -> None:
    raw = '<?xml version="1.0" encoding="windows-1251"?><a>Привет</a>'.encode("cp1251")
    assert "Привет" in decode(raw, html=True).text
    assert "a" in decode(raw.replace(b"windows-1251", b"no-such-one"), html=True).text
