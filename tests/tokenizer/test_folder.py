"""Tokenizers of other people's models: which ids open and end a row, and that nothing is cut, padded or guessed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tokenizer.samples import save
from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.core.store import Store
from wyrmling.tokenizer import folder
from wyrmling.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory, corpus: list[str]) -> Path:
    """As Llama 2's: low lines for spaces, single bytes as tokens, special ids only in config.json."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    hf = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    hf.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    hf.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    hf.train_from_iterator(corpus, trainer)
    raw = json.loads(hf.to_str())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if not token["content"].startswith("<0x")]
    hf = tokenizers.Tokenizer.from_str(json.dumps(raw))
    ids = {"bos_token_id": 1, "eos_token_id": [2], "vocab_size": 900}
    return save(tmp_path_factory.mktemp("sentencepiece"), hf, {}, ids)


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory, scratch: Path) -> Path:
    """As Qwen's: rows open with nothing although config.json has a bos, and the end of a turn ends a text."""
    names = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    hf = tokenizers.Tokenizer.from_file(str(scratch / "tokenizer.json"))
    return save(tmp_path_factory.mktemp("headless"), hf, names, {"bos_token_id": 1019, "eos_token_id": 1021})


def test_an_encoder_opens_with_cls_and_ends_with_sep(wordpiece: Path) -> None:
    tokenizer = Tokenizer.load(wordpiece)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id, tokenizer.pad_id) == (2, 3, 4, 0)
    long = "my card has not arrived " * 20
    theirs = PreTrainedTokenizerFast.from_pretrained(wordpiece)
    assert tokenizer.document(long) == theirs(long, truncation=False, padding=False)["input_ids"]
    assert len(tokenizer.encode(long)) > 16
    assert len(tokenizer.encode("my card")) < 16


def test_each_word_keeps_a_piece_even_if_the_vocabulary_drops_it(wordpiece: Path) -> None:
    tokenizer = Tokenizer.load(wordpiece)
    ids, firsts = tokenizer.encode_words(["card", "\u200b", "🙂", "lost"])
    assert len(firsts) == 4
    assert ids[firsts[1]] == tokenizer.unk_id
    assert len(set(firsts)) == 4


def test_special_ids_may_stand_in_config_json_alone(sentencepiece: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(sentencepiece)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.end_ids == (2,)
    folder.copy(sentencepiece, tmp_path)
    copied = Tokenizer.load(tmp_path)
    assert (copied.bos_id, copied.eos_id, copied.sha256) == (1, 2, tokenizer.sha256)
    assert not (tmp_path / "config.json").exists()


def test_a_null_bos_token_means_none(headless: Path) -> None:
    tokenizer = Tokenizer.load(headless)
    assert tokenizer.bos_id is None
    assert tokenizer.eos_id == tokenizer.im_end_id
    assert tokenizer.document("my card") == [*tokenizer.encode("my card"), tokenizer.eos_id]
    assert tokenizer.prompt("my card") == tokenizer.encode("my card")


@pytest.mark.parametrize("name", ["wordpiece", "sentencepiece", "headless"])
def test_ids_are_those_of_transformers(request: pytest.FixtureRequest, name: str) -> None:
    path = request.getfixturevalue(name)
    theirs = PreTrainedTokenizerFast.from_pretrained(path)
    for text in ("My card was stolen", "naïve 🙂 x", " two  spaces", "</s> [SEP] x"):
        expected = theirs(text, add_special_tokens=False, split_special_tokens=True, truncation=False, padding=False)
        assert Tokenizer.load(path).encode(text) == expected["input_ids"]


@given(ids=st.lists(st.integers(min_value=0, max_value=899), max_size=30))
def test_a_stream_of_low_lines_and_bytes_says_what_decoding_says(sentencepiece: Path, ids: list[int]) -> None:
    tokenizer = Tokenizer.load(sentencepiece)
    stream = tokenizer.stream()
    assert "".join([*(stream.push(id_) for id_ in ids), stream.finish()]) == tokenizer.decode(ids)


def test_token_bytes_undo_low_lines_and_byte_names(sentencepiece: Path) -> None:
    tokenizer = Tokenizer.load(sentencepiece)
    said = b"".join(tokenizer.token_bytes(id_) for id_ in tokenizer.encode("my card 🙂"))
    assert said == " my card 🙂".encode()


def test_a_base_is_a_folder_of_the_project_or_a_train_artifact(project: Any, scratch: Path) -> None:
    assert folder.locate_base(project()) is None
    made = project("complete", "project", f"model.base={scratch}")
    assert folder.locate_base(made) == scratch
    (made.root / "runs/train/x/model").mkdir(parents=True)
    (made.root / "runs/train/x/model/config.json").write_text("{}", encoding="utf-8")
    artifact = project("complete", "project", "model.base=runs/train/x")
    assert folder.locate_base(artifact) == made.root / "runs/train/x/model"


def test_a_base_may_be_a_registered_name(project: Any, scratch: Path) -> None:
    made = project("complete", "project", "model.base=storyteller:1")
    model = made.root / "runs/train/pretrain-1/model"
    shutil.copytree(scratch, model)
    store = Store.open(made.database_url)
    store.register_model("storyteller", model, "digest", {})
    store.close()
    assert folder.locate_base(made) == model


def test_a_base_that_is_nothing_is_an_error_with_its_name(project: Any) -> None:
    with pytest.raises(BadSetting, match=r"model\.base = 'nothing:3' can't be used: "):
        folder.locate_base(project("complete", "project", "model.base=nothing:3"))
    made = project("complete", "project", "model.base=empty")
    (made.root / "empty").mkdir()
    with pytest.raises(BadSetting, match=r"'empty' can't be used: empty is no model folder"):
        folder.locate_base(made)
    with pytest.raises(BadInput, match=r"has no tokenizer\.json"):
        folder.base_digest(made.root / "empty")
