"""Vocabularies in older kinds of files give the ids of the programs that wrote them."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer, GPT2Tokenizer

from tokenizer.samples import ODD_TEXTS
from wyrmling.config import Tokenizer as Settings
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.tokenizer import bpe, convert, efficiency, folder
from wyrmling.tokenizer.patterns import word_pattern
from wyrmling.tokenizer.tokenizer import Tokenizer

TEXTS = [
    *ODD_TEXTS,
    "  leading",
    "trailing  ",
    "a  b   c",
    "ﬁne ① Ⅳ",
    "naïve Ünïcödé",
    "<sep> between <sep>",
    "I've 12345 cards!!",
]


def trained_sentencepiece(corpus: list[str], to: Path, **options: Any) -> sentencepiece.SentencePieceProcessor:
    out = io.BytesIO()
    chosen = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"} | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=out, vocab_size=700, minloglevel=2, num_threads=1,
        character_coverage=0.999, user_defined_symbols=["<sep>"], **chosen,
    )  # fmt: skip
    to.mkdir(exist_ok=True)
    (to / "tokenizer.model").write_bytes(out.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
@pytest.mark.parametrize(
    "options",
    [
        {"add_dummy_prefix": True, "remove_extra_whitespaces": False},  # Llama 2
        {"add_dummy_prefix": False, "remove_extra_whitespaces": False},  # Gemma, with symbols of its own
        {"add_dummy_prefix": True, "normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},  # T5
    ],
)
def test_ids_are_those_of_sentencepiece(corpus: list[str], tmp_path: Path, algorithm: str, options: Any) -> None:
    theirs = trained_sentencepiece(corpus[:600], tmp_path, model_type=algorithm, **options)
    ours = Tokenizer.load(tmp_path)
    for text in [*corpus[600:700], *TEXTS]:
        # Not as in sentencepiece: a unigram vocabulary finds a control piece that a text spells out, and the space
        # that opens a text comes behind a user's own symbol.
        if not ("<s>" in text and algorithm == "unigram") and not ("<sep>" in text and options["add_dummy_prefix"]):
            assert ours.encode(text) == theirs.encode(text), text
    assert (ours.bos_id, ours.eos_id, ours.unk_id) == (theirs.bos_id(), theirs.eos_id(), theirs.unk_id())
    assert ours.document("my card") == [theirs.bos_id(), *theirs.encode("my card"), theirs.eos_id()]
    assert ours.decode(theirs.encode("my card")) == "my card"


def test_a_base_with_a_sentencepiece_file_leaves_a_tokenizer_json(corpus: list[str], tmp_path: Path) -> None:
    theirs = trained_sentencepiece(corpus[:600], tmp_path / "base")
    config = {"added_tokens_decoder": {"700": {"content": "<|user|>", "special": True, "rstrip": True}}}
    (tmp_path / "base/tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "copy").mkdir()
    folder.copy(tmp_path / "base", tmp_path / "copy")
    copied, original = Tokenizer.load(tmp_path / "copy"), Tokenizer.load(tmp_path / "base")
    assert not (tmp_path / "copy/tokenizer.model").exists()
    assert copied.encode("my card") == theirs.encode("my card")
    assert (copied.bos_id, copied.eos_id, copied.special_ids["<|user|>"]) == (1, 2, 700)
    assert copied.sha256 == original.sha256
    before = folder.base_digest(tmp_path / "base")
    trained_sentencepiece(corpus[600:1200], tmp_path / "base")
    assert folder.base_digest(tmp_path / "base") != before


@pytest.fixture(scope="module")
def ranks(corpus: list[str]) -> dict[bytes, int]:
    """A vocabulary in tiktoken's form: bytes -> rank."""
    hf = bpe.build(bpe.train(corpus[:800], 700), ends=False)
    plain = {token: id_ for token, id_ in hf.get_vocab(with_added_tokens=False).items() if id_ < 695}
    return {bpe.from_byte_level(token): id_ for token, id_ in plain.items()}


@pytest.mark.parametrize("name", ["gpt2", "cl100k", "llama3", "qwen2", "o200k"])
def test_ids_are_those_of_tiktoken(ranks: dict[bytes, int], name: str) -> None:
    pattern = word_pattern(Settings(pattern=name), len(ranks))
    theirs = tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    ours = convert.from_ranks(ranks, pattern)

    @settings(max_examples=60)
    @given(text=st.one_of(st.text(), st.sampled_from(TEXTS)))
    def same(text: str) -> None:
        assert ours.encode(bpe.without_surrogates(text)).ids == theirs.encode(bpe.without_surrogates(text))

    same()


def test_a_tiktoken_file_of_unknown_size_is_refused(ranks: dict[bytes, int], tmp_path: Path) -> None:
    lines = [base64.b64encode(token) + b" %d" % rank for token, rank in ranks.items()]
    (tmp_path / "qwen.tiktoken").write_bytes(b"\n".join(lines))
    with pytest.raises(BadInput, match=r"qwen\.tiktoken has \d+ ranks"):
        Tokenizer.load(tmp_path)
    (tmp_path / "qwen.tiktoken").write_bytes(b"not base64!")
    with pytest.raises(CorruptArtifact, match=r"qwen\.tiktoken can't be read"):
        Tokenizer.load(tmp_path)


def test_vocab_json_and_merges_are_gpt2s(corpus: list[str], tmp_path: Path) -> None:
    hf = tokenizers.Tokenizer(tokenizers.models.BPE())
    hf.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    hf.train_from_iterator(
        corpus[:600],
        tokenizers.trainers.BpeTrainer(
            vocab_size=600, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
        ),
    )
    hf.model.save(str(tmp_path))
    ours = Tokenizer.load(tmp_path)
    theirs = GPT2Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    for text in TEXTS:
        assert ours.encode(text) == theirs(text, split_special_tokens=True)["input_ids"]
    assert ours.bos_id is None, "GPT-2 opens texts with nothing"
    assert ours.document("my card") == [*ours.encode("my card"), ours.eos_id]
    assert ours.prompt("") == [ours.eos_id]


# Of models/ggml-vocab-gpt-2.gguf.inp and .out in llama.cpp at c392e509 (MIT, ggml authors).
GPT2_IDS = {
    "ied 4 ½ months": [798, 604, 25208, 1933],
    " Hello, world!": [18435, 11, 995, 0],
    "нещо на Български": [
        22177, 16843, 141, 231, 15166, 12466, 121, 16142, 12466, 239, 141, 232, 30143, 140, 111, 16142, 21169, 21727,
        31583, 18849,
    ],
    "    Hello\n    Hello": [220, 220, 220, 18435, 198, 220, 220, 220, 18435],
    "\n =": [198, 796],
    "3333333": [24840, 20370],
}  # fmt: skip


def test_gpt2s_own_files_give_the_ids_that_llama_cpp_gives(tmp_path: Path) -> None:
    efficiency.gpt2().model.save(str(tmp_path))
    ours = Tokenizer.load(tmp_path)
    assert {text: ours.encode(text) for text in GPT2_IDS} == GPT2_IDS


def test_vocab_txt_is_berts(wordpiece: Path, tmp_path: Path) -> None:
    vocab = tokenizers.Tokenizer.from_file(str(wordpiece / "tokenizer.json")).get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.__getitem__)), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    ours, theirs = Tokenizer.load(tmp_path), BertTokenizer(str(tmp_path / "vocab.txt"))
    for text in TEXTS:
        if "[MASK]" not in text:
            assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert (ours.bos_id, ours.eos_id, ours.mask_id) == (2, 3, 4)


def test_a_class_that_numbers_tokens_its_own_way_is_refused_with_the_command(wordpiece: Path, tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"\n\x00")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}', encoding="utf-8")
    with pytest.raises(BadInput, match="XLMRobertaTokenizer may number the tokens") as caught:
        Tokenizer.load(tmp_path)
    assert "save_pretrained" in str(caught.value.fix)


def test_a_cut_off_sentencepiece_file_is_an_error(corpus: list[str], tmp_path: Path) -> None:
    trained_sentencepiece(corpus[:600], tmp_path)
    whole = (tmp_path / "tokenizer.model").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"\n" + bytes(range(40)), b"\n"):
        (tmp_path / "tokenizer.model").write_bytes(damaged)
        with pytest.raises(CorruptArtifact, match="SentencePiece model"):
            Tokenizer.load(tmp_path)


def test_added_tokens_with_other_ids_are_an_error(corpus: list[str], tmp_path: Path) -> None:
    trained_sentencepiece(corpus[:600], tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<pad>": 32000}', encoding="utf-8")
    with pytest.raises(BadInput, match=r"'<pad>' would get the id 700 instead of 32000"):
        Tokenizer.load(tmp_path)


def test_a_folder_without_any_tokenizer_names_the_files_that_are_read(scratch: Path, tmp_path: Path) -> None:
    shutil.copyfile(scratch / "tokenizer_config.json", tmp_path / "tokenizer_config.json")
    with pytest.raises(BadInput, match=r"has no tokenizer\.json"):
        Tokenizer.load(tmp_path)
