"""New tokens on a base's vocabulary: the base's own encoding with neighbours joined, and what the model is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, trainers
from transformers import PreTrainedTokenizerFast

from tokenizer.samples import ODD_TEXTS
from wyrmling.core.errors import BadSetting
from wyrmling.tokenizer import bpe, bulk, folder
from wyrmling.tokenizer.extend import EXTENSION_FILE, extend
from wyrmling.tokenizer.tokenizer import Tokenizer

TICKET = "<|ticket|>"
BASE = 512


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, corpus: list[str]) -> Path:
    """A byte-level BPE whose added tokens are not in its vocabulary, as Qwen's: 506 tokens, five special, one plain."""
    path = tmp_path_factory.mktemp("base")
    folder.write(path, bpe.train(corpus, 511), ends=False)
    hf = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    hf.add_tokens([AddedToken("<plain>", special=False, normalized=False)])
    hf.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def extended(base: Path, corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("extended") / "tokenizer"
    shutil.copytree(base, path)
    assert len(extend(path, corpus, 100, [TICKET, "<plain>"])) == 101
    return path


@pytest.fixture(scope="module")
def pieces(extended: Path) -> dict[int, list[int]]:
    record = json.loads((extended / EXTENSION_FILE).read_text(encoding="utf-8"))
    assert record["base_vocab_size"] == BASE
    assert [new["id"] for new in record["new"]] == list(range(BASE, BASE + 101))
    assert all(0 <= piece < BASE for new in record["new"] for piece in new["pieces"])
    return {new["id"]: new["pieces"] for new in record["new"]}


def in_pieces(ids: list[int], pieces: dict[int, list[int]]) -> Iterator[int]:
    for id_ in ids:
        yield from pieces.get(id_, [id_])


def test_encoding_is_the_bases_with_neighbours_joined(
    base: Path, extended: Path, pieces: dict[int, list[int]], corpus: list[str]
) -> None:
    before, after = Tokenizer.load(base), Tokenizer.load(extended)
    used: set[int] = set()
    shorter = 0
    for text in (*corpus[:300], *ODD_TEXTS):
        old, new = before.encode(text), after.encode(text)
        assert list(in_pieces(new, pieces)) == old
        assert after.decode(new) == text
        used |= pieces.keys() & set(new)
        shorter += len(old) - len(new)
    assert len(used) > 50
    assert shorter > 300


@given(text=st.text())
def test_any_text_comes_back_from_an_extended_vocabulary(
    base: Path, extended: Path, pieces: dict[int, list[int]], text: str
) -> None:
    before, after = _loaded(base), _loaded(extended)
    ids = after.encode(text)
    assert after.decode(ids) == text
    assert list(in_pieces(ids, pieces)) == before.encode(text)


_TOKENIZERS: dict[Path, Tokenizer] = {}


def _loaded(path: Path) -> Tokenizer:
    return _TOKENIZERS.setdefault(path, Tokenizer.load(path))


def test_a_piece_list_spells_its_token(base: Path, extended: Path, pieces: dict[int, list[int]]) -> None:
    before, after = Tokenizer.load(base), Tokenizer.load(extended)
    for id_, of_base in pieces.items():
        assert after.token_bytes(id_) == b"".join(map(before.token_bytes, of_base))


def test_the_first_new_token_is_the_most_frequent_pair_inside_a_word(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "b")
    pair = Tokenizer.load(base).encode(" zyx")[-2:]
    new = extend(tmp_path / "b", ["zyx zyx zyx zyx", "a zyx wyrmling"], 3, [])
    assert list(new[0].pieces) == pair
    assert all(len(token.pieces) >= 2 for token in new)


def test_the_ids_of_the_base_stay(base: Path, extended: Path) -> None:
    before = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    after = tokenizers.Tokenizer.from_file(str(extended / "tokenizer.json"))
    new = after.get_vocab(with_added_tokens=True)
    assert {token: new[token] for token in before.get_vocab(with_added_tokens=True)} == before.get_vocab(
        with_added_tokens=True
    )
    assert [after.token_to_id(token) for token in (*bpe.SPECIALS, "<plain>")] == list(range(506, BASE))
    assert set(Tokenizer.load(extended).special_ids) == set(bpe.SPECIALS)


def test_a_token_of_ones_own_is_one_token_and_text(extended: Path) -> None:
    tokenizer = Tokenizer.load(extended)
    text = f"see {TICKET}, not <|im_end|>"
    ids = tokenizer.encode(text)
    assert ids.count(BASE + 100) == 1
    assert not set(ids) & set(tokenizer.special_ids.values())
    assert tokenizer.decode(ids) == text


def test_an_ordinary_token_of_the_base_can_be_made_one_wherever_it_stands(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "b")
    before = Tokenizer.load(base)
    # A token that is cut up between other letters.
    words = {before.token_bytes(id_).decode("utf-8", "replace"): id_ for id_ in range(256, 506)}
    word, id_ = next((w, i) for w, i in words.items() if w.isalpha() and i not in before.encode(f"n{w}s"))
    assert extend(tmp_path / "b", [], 0, [word]) == []
    after = Tokenizer.load(tmp_path / "b")
    assert after.encode(f"n{word}s") == [*before.encode("n"), id_, *before.encode("s")]
    assert after.decode(after.encode(f"n{word}s")) == f"n{word}s"
    assert after.vocab_size == before.vocab_size


def test_other_libraries_give_the_same_ids(extended: Path, corpus: list[str]) -> None:
    tokenizer = Tokenizer.load(extended)
    texts = [*corpus[:100], *ODD_TEXTS, f"{TICKET} <plain> {TICKET}"]
    encoder = bulk.encoder(extended, tokenizer, texts, [""] * len(texts))
    assert encoder.library == "fastokens"
    theirs = PreTrainedTokenizerFast.from_pretrained(extended)
    assert len(theirs) == tokenizer.vocab_size == BASE + 101
    for text in (text for text in texts if "<|endoftext|>" not in text):
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)


def test_the_same_text_gives_the_same_tokens_in_any_order(base: Path, corpus: list[str], tmp_path: Path) -> None:
    for name, texts in (("a", corpus[:200]), ("b", corpus[:200][::-1])):
        shutil.copytree(base, tmp_path / name)
        extend(tmp_path / name, texts, 20, [])
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_it_stops_when_no_pair_occurs_twice(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "b")
    assert len(extend(tmp_path / "b", ["wyrm"], 50, [])) == 0
    assert not (tmp_path / "b" / EXTENSION_FILE).exists()
    assert (tmp_path / "b/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_a_vocabulary_that_is_not_byte_level_is_refused(wordpiece: Path, tmp_path: Path) -> None:
    shutil.copytree(wordpiece, tmp_path / "w")
    with pytest.raises(BadSetting, match="only a byte-level BPE"):
        extend(tmp_path / "w", ["text"], 5, [])


def test_joining_is_bpe_on_the_bases_tokens(base: Path, corpus: list[str], tmp_path: Path) -> None:
    """The judge: `tokenizers` trained on the base's tokens, each written as one character."""
    shutil.copytree(base, tmp_path / "b")
    hf = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    words = [word for text in corpus[:500] for word, _ in hf.pre_tokenizer.pre_tokenize_str(text)]
    spelled = ["".join(chr(0x10000 + token.id) for token in hf.model.tokenize(word)) for word in words]
    judge = tokenizers.Tokenizer(models.BPE())
    alphabet = len({letter for word in spelled for letter in word})
    judge.train_from_iterator(
        # One word to a text: without a pre-tokenizer nothing is joined across texts.
        spelled,
        trainers.BpeTrainer(vocab_size=alphabet + 30, show_progress=False, limit_alphabet=alphabet),
    )
    by_id = sorted(judge.get_vocab().items(), key=lambda pair: pair[1])[alphabet:]
    theirs = [tuple(ord(letter) - 0x10000 for letter in token) for token, _ in by_id]
    ours = [token.pieces for token in extend(tmp_path / "b", corpus[:500], 30, [])]
    # They may break a tie between equally frequent pairs differently, which moves a few of the last.
    assert ours[:15] == theirs[:15]
    assert len(set(ours) & set(theirs)) >= 26
