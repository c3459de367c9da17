"""The stage as a whole: the same rows give the same bytes, and a base model brings its own tokenizer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from tokenizer.samples import data_artifact, example
from wyrmling.core.artifact import MANIFEST, Artifact
from wyrmling.core.errors import BadSetting, NothingToLearn
from wyrmling.tokenizer import bpe, run
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore


@pytest.fixture
def rows(corpus: list[str]) -> list[dict[str, Any]]:
    kinds = ["train"] * 8 + ["val", "test"]
    return [
        example(str(i), "labelled", kinds[i % 10], text=text, label=f"l{i % 3}") for i, text in enumerate(corpus[:600])
    ]


def files(artifact: Artifact) -> dict[str, bytes]:
    return {
        file.relative_to(artifact.path).as_posix(): file.read_bytes()
        for file in artifact.path.rglob("*")
        if file.is_file() and file.name != MANIFEST
    }


def test_the_same_rows_give_the_same_bytes(project: Any, rows: list[dict[str, Any]]) -> None:
    one, other = project("complete", "one"), project("complete", "other")
    a, b = run.run(one, data_artifact(one, rows)), run.run(other, data_artifact(other, rows))
    assert a.id == b.id
    assert files(a) == files(b)


def test_an_unchanged_run_is_reused_and_a_changed_setting_is_not(project: Any, rows: list[dict[str, Any]]) -> None:
    made = project()
    data = data_artifact(made, rows)
    first = run.run(made, data)
    assert not first.reused
    assert run.run(made, data).reused
    changed = run.run(project("complete", "project", "tokenizer.vocab_size=600"), data)
    assert changed.id != first.id
    assert changed.figures["vocab_size"] == 600


def test_the_vocabulary_knows_only_training_rows(project: Any) -> None:
    made = project()
    rows = [example(f"a{i}", "document", text="aaaa bbbb " * 20) for i in range(20)]
    rows += [example(f"z{i}", "document", split, text="zyzzyva " * 500) for i, split in enumerate(["val", "test"])]
    artifact = run.run(made, data_artifact(made, rows))
    vocabulary = {Tokenizer.load(artifact.path).token_bytes(id_) for id_ in range(artifact.figures["vocab_size"])}
    assert any(len(token) > 1 and b"a" in token for token in vocabulary)
    assert not any(len(token) > 1 and b"z" in token for token in vocabulary)


def test_figures_add_up(project: Any, rows: list[dict[str, Any]]) -> None:
    made = project()
    figures = run.run(made, data_artifact(made, rows)).figures
    assert figures["rows"] == {"train": 480, "val": 60, "test": 60}
    assert figures["tokens"] == sum(figures["tokens_by_split"].values())
    train_bytes = sum(len(row["text"].encode()) for row in rows if row["split"] == "train")
    assert figures["train_bytes"] == train_bytes
    assert figures["asked_vocab_size"] == bpe.default_vocab_size(train_bytes).value
    assert (figures["trainer"], figures["encoder"]) == ("rustbpe", "fastokens")


@pytest.mark.parametrize(("task", "ended"), [("complete", False), ("chat", False), ("classify", True), ("tag", True)])
def test_a_decoders_prompt_stays_open_and_an_encoders_text_is_closed(
    project: Any, rows: list[dict[str, Any]], task: str, ended: bool
) -> None:
    made = project(task)
    artifact = run.run(made, data_artifact(made, rows))
    tokenizer = Tokenizer.load(artifact.path)
    hf = tokenizers.Tokenizer.from_file(str(artifact.path / "tokenizer.json"))
    assert hf.encode("my card").ids == (tokenizer.document("my card") if ended else tokenizer.prompt("my card"))


@pytest.fixture
def base(scratch: Path, tmp_path: Path) -> Path:
    """A base model, as far as its tokenizer goes."""
    path = tmp_path / "base"
    shutil.copytree(scratch, path)
    (path / "config.json").write_text("{}", encoding="utf-8")
    return path


def test_a_base_model_brings_its_tokenizer(project: Any, rows: list[dict[str, Any]], base: Path) -> None:
    made = project("complete", "project", f"model.base={base}")
    artifact = run.run(made, data_artifact(made, rows))
    theirs, ours = (tokenizers.Tokenizer.from_file(str(path / "tokenizer.json")) for path in (base, artifact.path))
    assert theirs.to_str() == ours.to_str()
    assert artifact.figures["trainer"] == "base"
    store = TokenStore.open(artifact.path, "train")
    assert store.tokens(0).tolist() == Tokenizer.load(base).document(rows[0]["text"])


def test_a_tokenizer_fastokens_cannot_read_is_encoded_by_tokenizers(
    project: Any, rows: list[dict[str, Any]], base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sorted({word for row in rows for word in row["text"].split()})
    vocab = {word: i for i, word in enumerate([*words, "[UNK]", "[SEP]"])}
    hf = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    hf.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    hf.save(str(base / "tokenizer.json"))
    (base / "tokenizer_config.json").write_text('{"sep_token": "[SEP]", "unk_token": "[UNK]"}', encoding="utf-8")
    made = project("complete", "project", f"model.base={base}")
    artifact = run.run(made, data_artifact(made, rows))
    assert artifact.figures["encoder"] == "tokenizers"
    assert "encoded by tokenizers instead of the faster fastokens" in capsys.readouterr().err
    tokens = TokenStore.open(artifact.path, "train").tokens(0)
    assert tokens.tolist() == [*(vocab[word] for word in rows[0]["text"].split()), vocab["[SEP]"]]


def test_a_base_without_an_end_of_text_is_refused(project: Any, rows: list[dict[str, Any]], base: Path) -> None:
    (base / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    made = project("complete", "project", f"model.base={base}")
    with pytest.raises(BadSetting, match="names no end-of-text token"):
        run.run(made, data_artifact(made, rows))
    assert not list((made.runs / "tokenizer").glob("desk-*"))


def test_no_training_text_is_an_error(project: Any) -> None:
    made = project()
    with pytest.raises(NothingToLearn):
        run.run(made, data_artifact(made, [example("0", "document", "test", text="only a test row")]))


def test_the_stage_does_not_import_torch_or_transformers() -> None:
    heavy = "{'torch', 'transformers', 'rustbpe', 'fastokens'}"
    code = f"import sys, wyrmling.tokenizer.run; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_token_of_the_store_is_in_the_vocabulary(project: Any, rows: list[dict[str, Any]]) -> None:
    made = project()
    store = TokenStore.open(run.run(made, data_artifact(made, rows)).path, "train")
    assert all(np.all(store.tokens(i) < store.vocab_size) for i in range(len(store)))
