"""What is exported answers as what was trained, or nothing is exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

from wyrmling.config import Tokenizer as Settings
from wyrmling.core.errors import GateRefused, UsageError
from wyrmling.flow.export import HARD_TEXTS, export
from wyrmling.model import folder, probes
from wyrmling.serve.llamacpp import Engine
from wyrmling.tokenizer import bpe
from wyrmling.tokenizer import folder as tokenizer_folder
from wyrmling.tokenizer.patterns import word_pattern
from wyrmling.tokenizer.tokenizer import Tokenizer

TEXT = (
    "Once upon a time there was a little dragon who lived under a hill. She liked tea, naïve jokes and 日本語. "
    "In 1984, 12 of 365 days were good: you're welcome, I'll say it's what they've done. 🙂  Two  spaces.\n\n"
)


@pytest.fixture
def source(kitchen, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kitchen.model("teller", "next"), tmp_path / "teller" / "model"))


def with_tokenizer(source: Path, settings: Settings) -> Path:
    """The folder with another byte-level vocabulary of about the same size, and its answers to new probes."""
    tokenizer_folder.write(source, bpe.train([TEXT] * 4, 369, word_pattern(settings, 369)), ends=False)
    return with_probes(source)


def with_probes(source: Path) -> Path:
    probes.record(folder.load(source), Tokenizer.load(source), ["a little dragon", "tea in 1984"], source)
    return source


def test_a_hugging_face_folder_is_a_copy_that_was_asked(source: Path, tmp_path: Path) -> None:
    document, text = export(source, to="hf", out=tmp_path / "out")
    assert document["probes"]["max_abs"] < 1e-5 and "greedy answers equal on 100% of 2 probes" in text
    names = {file.name for file in source.iterdir()}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    assert all((tmp_path / "out" / name).read_bytes() == (source / name).read_bytes() for name in names)


@pytest.mark.parametrize("to", ["hf", "gguf", "onnx"])
def test_from_weights_that_are_not_the_trained_ones_nothing_is_made(source: Path, tmp_path: Path, to: str) -> None:
    weights = load_file(source / folder.WEIGHTS)
    name = next(n for n, w in weights.items() if w.dim() == 2 and w.shape[0] == w.shape[1])
    weights[name] = weights[name].t().contiguous()
    save_file(weights, source / folder.WEIGHTS, {"format": "pt"})
    with pytest.raises(GateRefused, match=r"differ from the trained model's: logits differ by up to [0-9.]+") as caught:
        export(source, to=to, out=tmp_path / "out")
    assert caught.value.exit_code == 3
    assert {file.name for file in tmp_path.iterdir()} == {"teller"}


def test_a_gguf_file_gives_the_trained_answers_in_llama_cpp(kitchen, tmp_path: Path) -> None:
    document, _ = export(kitchen.model("talker", "next", chat=True, seed=1), to="gguf", out=tmp_path / "out")
    assert document["probes"]["max_abs"] < 1e-4
    assert document["probes"]["greedy_equal"] == 1


@pytest.mark.parametrize(("pattern", "digits"), [("gpt2", None), ("cl100k", 3), ("cl100k", 1), ("o200k", 3)])
def test_llama_cpp_cuts_text_as_the_tokenizer_does(source: Path, tmp_path: Path, pattern: str, digits: int) -> None:
    with_tokenizer(source, Settings(pattern=pattern, digits=digits))
    export(source, to="gguf", out=tmp_path / "out")
    engine, tokenizer = Engine(tmp_path / "out" / "model.gguf"), Tokenizer.load(source)
    for text in HARD_TEXTS:
        assert engine.ids(text) == tokenizer.encode(text)


def test_a_cut_that_llama_cpp_does_not_know_is_said_and_refused_where_a_probe_shows_it(
    source: Path, tmp_path: Path, capsys
) -> None:
    with_tokenizer(source, Settings(pattern="cl100k", digits=2))
    with pytest.raises(GateRefused, match=r"llama\.cpp gives the text 'tea in 1984' other ids"):
        export(source, to="gguf", out=tmp_path / "out")
    probes.record(folder.load(source), Tokenizer.load(source), ["a little dragon"], source)
    export(source, to="gguf", out=tmp_path / "out")
    assert "llama.cpp has no rule that cuts text as this tokenizer does" in capsys.readouterr().err


def test_a_vocabulary_in_the_manner_of_sentencepiece_travels(source: Path, tmp_path: Path) -> None:
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=365, special_tokens=["<unk>", "<s>", "</s>", *bytes_])
    made.train_from_iterator([word + " " for word in TEXT.split(" ")] * 4, trainer)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    raw = json.loads(made.to_str())
    # As in Llama's file: only these three are special, the bytes are ordinary tokens.
    raw["added_tokens"] = raw["added_tokens"][:3]
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (source / name).unlink(missing_ok=True)
    (source / "tokenizer.json").write_text(json.dumps(raw))
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (source / "tokenizer_config.json").write_text(json.dumps(tokens))
    export(with_probes(source), to="gguf", out=tmp_path / "out")
    engine, tokenizer = Engine(tmp_path / "out" / "model.gguf"), Tokenizer.load(source)
    for text in HARD_TEXTS:
        assert engine.ids(text) == tokenizer.encode(text)


def test_a_rounded_gguf_file_is_smaller_and_says_its_cost(source: Path, tmp_path: Path) -> None:
    whole, _ = export(source, to="gguf", out=tmp_path / "whole")
    rounded, text = export(source, to="gguf", out=tmp_path / "int8", quantize="int8")
    assert rounded["bytes"] < 0.6 * whole["bytes"]
    assert 0 < rounded["probes"]["mean_kl"] < 0.01 and "nats on average" in text


@pytest.mark.parametrize(
    ("to", "quantize", "says"),
    [
        ("hf", "int8", "keeps its whole weights"),
        ("gguf", "int8-dynamic", "no GGUF with --quantize int8-dynamic"),
        ("tflite", None, "there is no export format 'tflite'"),
    ],
)
def test_what_a_format_can_not_do_is_refused(source: Path, tmp_path: Path, to: str, quantize: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        export(source, to=to, out=tmp_path / "out", quantize=quantize)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_program_is_compared_with_what_it_says_itself(source: Path, tmp_path: Path, capsys) -> None:
    for name in ("wyrmling.json", probes.PROBES, probes.LOGITS):
        (source / name).unlink()
    document, _ = export(source, to="gguf", out=tmp_path / "out")
    assert document["probes"]["probes"] == len(HARD_TEXTS)
    assert "has no stored probes" in capsys.readouterr().err
