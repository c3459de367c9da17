"""The ids of a tokenizer folder against `tokenizers` and `transformers`, and the way back to text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tokenizer.samples import ODD_TEXTS
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.tokenizer import bpe
from wyrmling.tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer


@pytest.fixture(scope="module")
def in_transformers(scratch: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(scratch)


@pytest.mark.parametrize("text", [text for text in ODD_TEXTS if "<|" not in text])
def test_ids_are_those_of_tokenizers_and_transformers(
    tokenizer: Tokenizer, in_transformers: Any, scratch: Path, text: str
) -> None:
    ids = tokenizer.encode(text)
    hf = tokenizers.Tokenizer.from_file(str(scratch / TOKENIZER_FILE))
    assert hf.encode(text, add_special_tokens=False).ids == ids
    assert in_transformers(text, add_special_tokens=False)["input_ids"] == ids
    assert in_transformers(text)["input_ids"] == tokenizer.prompt(text)
    assert in_transformers.decode(ids) == text


def test_transformers_knows_the_special_tokens(tokenizer: Tokenizer, in_transformers: Any) -> None:
    theirs = in_transformers
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert (theirs.mask_token_id, theirs.pad_token_id) == (tokenizer.mask_id, tokenizer.pad_id)
    assert len(theirs) == tokenizer.vocab_size
    assert set(theirs.all_special_ids) == set(tokenizer.special_ids.values())
    assert tokenizer.end_ids == tuple(sorted((tokenizer.eos_id, tokenizer.im_end_id)))


def test_special_tokens_in_text_stay_text(tokenizer: Tokenizer) -> None:
    text = "before <|endoftext|> and <|im_end|> after"
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special_ids.values())
    assert tokenizer.decode(ids) == text
    document = tokenizer.document(text)
    assert document == [tokenizer.bos_id, *ids, tokenizer.eos_id]
    assert tokenizer.decode(document) == text


@given(st.text())
def test_decoding_gives_back_any_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == bpe.without_surrogates(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("é\ud83d\ude42", "é🙂"),
        ("\ufeff\ud800", "\ufeff\ufffd"),
        ("né", "né"),
    ],
)
def test_only_lone_surrogates_become_replacement_characters(tokenizer: Tokenizer, text: str, expected: str) -> None:
    assert bpe.without_surrogates(text) == expected
    assert tokenizer.decode(tokenizer.encode(text)) == expected


@given(
    st.one_of(st.binary(), st.text().map(str.encode), st.builds(bytes.__add__, st.text().map(str.encode), st.binary()))
)
def test_any_bytes_come_back(tokenizer: Tokenizer, data: bytes) -> None:
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == data.decode("utf-8", "replace")


@given(st.text())
def test_bytes_that_are_text_have_the_ids_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode_bytes(text.encode()) == tokenizer.encode(text)


def test_bytes_need_a_byte_level_vocabulary(wordpiece: Path) -> None:
    with pytest.raises(BadInput, match="no tokens for bytes"):
        Tokenizer.load(wordpiece).encode_bytes(b"a")


@given(st.lists(st.integers(min_value=-5, max_value=1030), max_size=60))
@settings(max_examples=300)
def test_a_stream_says_exactly_what_decoding_says(tokenizer: Tokenizer, ids: list[int]) -> None:
    stream = tokenizer.stream()
    assert "".join([*(stream.push(id_) for id_ in ids), stream.finish()]) == tokenizer.decode(ids)


def test_a_stream_holds_back_unfinished_characters(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    said = [stream.push(id_) for id_ in "né🙂!".encode()]
    assert said == ["n", "", "é", "", "", "", "🙂", "!"]
    assert stream.finish() == ""
    unfinished = tokenizer.stream()
    assert unfinished.push(0xF0) == ""
    assert unfinished.finish() == "\ufffd"


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Z", "C"]), min_size=1), min_size=1, max_size=12))
def test_words_are_encoded_with_the_space_before_them(tokenizer: Tokenizer, words: list[str]) -> None:
    ids, firsts = tokenizer.encode_words(words)
    assert len(firsts) == len(words)
    assert tokenizer.decode(ids) == "".join(" " + word for word in words)
    ends = [*firsts[1:], len(ids)]
    for word, start, end in zip(words, firsts, ends, strict=True):
        assert tokenizer.decode(ids[start:end]) == " " + word


def test_token_bytes_of_special_and_unknown_ids_are_empty(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(tokenizer.eos_id or 0) == b""
    assert tokenizer.token_bytes(10**9) == tokenizer.token_bytes(-1) == b""


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / TOKENIZER_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(CorruptArtifact, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(tmp_path)
