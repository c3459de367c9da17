"""Training and conversion of a byte-level BPE, judged by a plain reading of the algorithm and by `tokenizers`."""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from tokenizer.samples import ODD_TEXTS
from wyrmling.config import Tokenizer as Settings
from wyrmling.core.errors import NothingToLearn
from wyrmling.tokenizer import bpe
from wyrmling.tokenizer.patterns import word_pattern


def merge(parts: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    """`parts` with every occurrence of the pair joined, from left to right."""
    joined: list[bytes] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] = joined[-1] + part
        else:
            joined.append(part)
    return tuple(joined)


def pattern(vocab_size: int) -> str:
    return word_pattern(Settings(), vocab_size)


def split_bytes(word: str) -> tuple[bytes, ...]:
    return tuple(bytes([byte]) for byte in word.encode())


def encode_plainly(vocabulary: bpe.Vocabulary, text: str) -> list[int]:
    """BPE as its authors describe it: cut into words, then apply the merges in rank order."""
    ranks = {pair: rank for rank, pair in enumerate(vocabulary.merges)}
    ids = {token: id_ for id_, token in enumerate(vocabulary.tokens)}
    found = []
    for word in regex.findall(vocabulary.pattern, text):
        parts = split_bytes(word)
        while len(parts) > 1:
            pair = min(itertools.pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
            if pair not in ranks:
                break
            parts = merge(parts, pair)
        found += [ids[part] for part in parts]
    return found


@pytest.mark.parametrize("train", [bpe._train_rustbpe, bpe._train_tokenizers])
def test_every_merge_joins_a_most_frequent_pair(train, corpus: list[str]) -> None:
    vocabulary = train(corpus[:300], 400, pattern(400))
    words = Counter(split_bytes(word) for text in corpus[:300] for word in regex.findall(vocabulary.pattern, text))
    for pair in vocabulary.merges:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for parts, n in words.items():
            for adjacent in itertools.pairwise(parts):
                counts[adjacent] += n
        assert counts[pair] == max(counts.values())
        merged: Counter[tuple[bytes, ...]] = Counter()
        for parts, n in words.items():
            merged[merge(parts, pair)] += n
        words = merged


def test_the_two_trainers_encode_alike(corpus: list[str]) -> None:
    expression = pattern(700)
    ours, theirs = bpe._train_rustbpe(corpus, 700, expression), bpe._train_tokenizers(corpus, 700, expression)
    # They may break a tie between equally frequent pairs differently, so a few of the last merges may differ.
    assert len(set(ours.merges) ^ set(theirs.merges)) <= 4
    assert ours.tokens[:256] == theirs.tokens[:256] == [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_ids_are_those_of_the_plain_algorithm(trained: bpe.Vocabulary, text: str) -> None:
    hf = bpe.build(trained)
    hf.encode_special_tokens = True
    assert hf.encode(text, add_special_tokens=False).ids == encode_plainly(trained, text)


def test_special_tokens_have_the_last_ids(trained: bpe.Vocabulary) -> None:
    hf = bpe.build(trained)
    assert [hf.token_to_id(token) for token in bpe.SPECIALS] == list(range(1024 - len(bpe.SPECIALS), 1024))
    assert hf.get_vocab_size() == 1024


def test_the_order_of_documents_and_the_run_do_not_change_the_vocabulary(corpus: list[str]) -> None:
    shuffled = random.Random(1).sample(corpus, len(corpus))
    assert bpe.build(bpe.train(corpus, 700)).to_str() == bpe.build(bpe.train(shuffled, 700)).to_str()


def test_a_small_text_gives_a_smaller_vocabulary_than_asked() -> None:
    vocabulary = bpe.train(["abab"], 5000)
    assert vocabulary.tokens[256:] == [b"ab", b"abab"]
    assert bpe.build(vocabulary).get_vocab_size() == 258 + len(bpe.SPECIALS)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_nothing_to_train_on_is_an_error(texts: list[str]) -> None:
    with pytest.raises(NothingToLearn, match="training split holds no text"):
        bpe.train(texts, 512)


def test_a_huge_document_counts_only_up_to_the_cap() -> None:
    long = "ab" * bpe.MAX_DOCUMENT_CHARS
    assert bpe.clipped(long) == long[: bpe.MAX_DOCUMENT_CHARS]
    # Beyond the cap stands a letter that would win every count.
    vocabulary = bpe.train(["ab" * (bpe.MAX_DOCUMENT_CHARS // 2) + "xy" * 100_000], 300)
    assert b"xy" not in vocabulary.tokens


def test_lone_surrogates_do_not_stop_training() -> None:
    assert bpe.train(["good \ud800 day"], 300).trainer == "rustbpe"


def test_a_panic_in_rust_is_caught(corpus: list[str]) -> None:
    with pytest.raises(bpe.ConversionError, match="at least 256"):
        bpe._train_rustbpe(corpus[:5], 100, pattern(100))


def test_without_rustbpe_the_vocabulary_comes_from_tokenizers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], corpus: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rustbpe", None)
    vocabulary = bpe.train(corpus, 600)
    assert vocabulary.trainer == "tokenizers"
    assert len(vocabulary.tokens) == 600 - len(bpe.SPECIALS)
    assert "trained by tokenizers instead of rustbpe" in capsys.readouterr().err
    assert bpe.build(vocabulary).encode("my card", add_special_tokens=False).ids == encode_plainly(
        vocabulary, "my card"
    )


@pytest.mark.parametrize(
    "tokens",
    [
        [bytes([byte]) for byte in range(256)] + [b"abc"],
        [bytes([byte]) for byte in range(256)] + [b"ab", b"ab"],
        [bytes([byte]) for byte in reversed(range(256))],
    ],
)
def test_tokens_that_are_not_merges_are_refused(tokens: list[bytes]) -> None:
    with pytest.raises(bpe.ConversionError):
        bpe.find_merges(tokens)


@given(st.binary(max_size=50))
def test_the_letters_of_a_byte_level_vocabulary_stand_for_any_bytes(token: bytes) -> None:
    assert bpe.from_byte_level(bpe.to_byte_level(token)) == token


@pytest.mark.parametrize(
    ("n_bytes", "expected"),
    [(0, 512), (10_000, 512), (500_000, 2048), (2_000_000, 4096), (8_000_000, 8192), (10**12, 65_536)],
)
def test_vocabulary_grows_with_the_text(n_bytes: int, expected: int) -> None:
    assert bpe.default_vocab_size(n_bytes).value == expected


def test_the_default_vocabulary_never_shrinks_as_text_grows() -> None:
    sizes = [bpe.default_vocab_size(n).value for n in range(0, 20_000_000, 50_000)]
    assert sizes == sorted(sizes)
