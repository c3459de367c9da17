"""The stage as a whole: the same rows give the same bytes, and a base model brings its own tokenizer."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from tokenizer.samples import data_artifact, example
from wyrmling.core import artifact
from wyrmling.core.artifact import MANIFEST, Artifact
from wyrmling.core.errors import BadSetting, NothingToLearn
from wyrmling.tokenizer import bpe, folder, run
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore


@pytest.fixture
def rows(corpus: list[str]) -> list[dict[str, Any]]:
    kinds = ["train"] * 8 + ["val", "test"]
    return [
        example(str(i), "labelled", kinds[i % 10], text=text, label=f"l{i % 3}") for i, text in enumerate(corpus[:600])
    ]


@pytest.fixture
def base(scratch: Path, tmp_path: Path) -> Path:
    """A base model, as far as its tokenizer goes."""
    path = tmp_path / "base"
    shutil.copytree(scratch, path)
    (path / "config.json").write_text("{}", encoding="utf-8")
    return path


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


STAGE = """
import os, signal, sys
from pathlib import Path
from wyrmling import config
from wyrmling.core import artifact
from wyrmling.tokenizer import folder, run, writer

root, data, when = sys.argv[1:]
run.SHARD_BYTES = 1
calls = 0

def kill_before(function, at):
    def wrapped(*args, **options):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return wrapped

if when == "vocabulary":
    artifact.write_durably = kill_before(artifact.write_durably, 1)
elif when.startswith("shard"):
    writer._append_line = kill_before(writer._append_line, int(when[-1]))
elif when == "end":
    run._counts = kill_before(run._counts, 1)
made = run.run(config.load(Path(root)), artifact.open_artifact(Path(data)))
"""


def test_a_run_killed_at_any_point_goes_on_to_the_same_bytes(project: Any, rows: list[dict[str, Any]]) -> None:
    undisturbed, killed = project("complete", "one"), project("complete", "other")
    data = data_artifact(undisturbed, rows, rows_per_group=200)
    shutil.copytree(undisturbed.runs, killed.runs)

    def attempt(made: Any, when: str) -> int:
        at = made.runs / data.path.relative_to(undisturbed.runs)
        return subprocess.run([sys.executable, "-c", STAGE, str(made.root), str(at), when], check=False).returncode

    assert attempt(undisturbed, "never") == 0
    (expected,) = (undisturbed.runs / "tokenizer").glob("desk-*")
    for when in ("vocabulary", "shard2", "end"):
        assert attempt(killed, when) == -signal.SIGKILL
        assert not list((killed.runs / "tokenizer").glob("desk-*"))
    (work,) = (killed.runs / "tokenizer").glob(".desk-*.work")
    finished = {path: path.stat().st_mtime_ns for path in (work / "store").glob("*-0000[012].*")}
    assert len(finished) > 6
    assert attempt(killed, "never") == 0
    (found,) = (killed.runs / "tokenizer").glob("desk-*")
    assert found.name == expected.name
    one, other = artifact.open_artifact(expected), artifact.open_artifact(found)
    assert files(one) == files(other)
    assert one.figures == other.figures
    # What was finished was not made again.
    assert {found / "store" / path.name: time for path, time in finished.items()}.items() <= {
        path: path.stat().st_mtime_ns for path in (found / "store").iterdir()
    }.items()


@pytest.mark.parametrize(
    ("setting", "check"),
    [
        ('pattern="gpt2"', lambda encode: len(encode(" 1234")) == 1),
        ("digits=1", lambda encode: len(encode("1234")) == 4),
        ('whitespace="single"', lambda encode: len(encode(" a")) == 2 and len(encode("    ")) == 4),
        ('whitespace="apart"', lambda encode: len(encode(" my")) == 2),
        ('special_tokens=["<|ticket|>", "zqz"]', lambda encode: len(encode("<|ticket|>zqz<|ticket|>")) == 3),
    ],
)
def test_settings_shape_the_tokens_and_the_id(
    project: Any, rows: list[dict[str, Any]], setting: str, check: Callable[[Callable[[str], list[int]]], bool]
) -> None:
    numbers = [example(f"n{i}", "document", text="1234 " * 50) for i in range(20)]
    plain = project()
    data = data_artifact(plain, [*rows, *numbers])
    without = run.run(plain, data)
    artifact = run.run(project("complete", "project", f"tokenizer.{setting}"), data)
    assert artifact.id != without.id
    tokenizer = Tokenizer.load(artifact.path)
    assert check(tokenizer.encode)
    assert not check(Tokenizer.load(without.path).encode)
    assert tokenizer.vocab_size == Tokenizer.load(without.path).vocab_size
    assert tokenizer.decode(tokenizer.encode("12  <|ticket|> 345\n")) == "12  <|ticket|> 345\n"
    assert artifact.figures["encoder"] == "fastokens"


def test_tokens_of_ones_own_are_found_in_rows_and_are_not_special(project: Any, rows: list[dict[str, Any]]) -> None:
    made = project("complete", "project", 'tokenizer.special_tokens=["<|ticket|>"]')
    artifact = run.run(made, data_artifact(made, [*rows, example("m", "document", text="a <|ticket|> b <|im_end|>")]))
    tokenizer = Tokenizer.load(artifact.path)
    store = TokenStore.open(artifact.path, "train")
    ids = store.tokens(len(store) - 1)
    own = tokenizer.encode("<|ticket|>")
    assert len(own) == 1 and own[0] in ids
    assert tokenizer.im_end_id not in ids
    assert tokenizer.decode(ids) == "a <|ticket|> b <|im_end|>"
    assert set(tokenizer.special_ids) == set(bpe.SPECIALS)
    assert store.rows["n_bytes"][-1] == len("a <|ticket|> b <|im_end|>")


def test_a_base_gets_new_tokens(project: Any, rows: list[dict[str, Any]], tmp_path: Path, corpus: list[str]) -> None:
    base = tmp_path / "small"
    base.mkdir()
    folder.write(base, bpe.train(corpus[:50], 300), ends=False)
    (base / "config.json").write_text("{}", encoding="utf-8")
    made = project("complete", "project", f"model.base={base}", "tokenizer.extend=50")
    data = data_artifact(made, rows)
    artifact = run.run(made, data)
    record = json.loads((artifact.path / "vocab_extension.json").read_text(encoding="utf-8"))
    assert record["base_vocab_size"] == 300
    assert [new["id"] for new in record["new"]] == list(range(300, 350))
    assert "50 tokens added" in artifact.figures["reason"]
    plain = run.run(project("complete", "project", f"model.base={base}"), data)
    assert not (plain.path / "vocab_extension.json").exists()
    assert artifact.figures["tokens"] < 0.9 * plain.figures["tokens"]
    tokens = TokenStore.open(artifact.path, "train").tokens(0)
    assert Tokenizer.load(artifact.path).decode(tokens) == rows[0]["text"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tokenizer.extend=5"], "adds to the tokenizer of a base model"),
        (["tokenizer.special_tokens=['<|mask|>']"], "'<|mask|>', which is empty, named twice or there already"),
        (["tokenizer.special_tokens=['a', 'a']"], "named twice"),
        (["tokenizer.special_tokens=[' ']"], "empty"),
        (["tokenizer.special_tokens=['§']"], "can't be told from how a vocabulary spells bytes"),
        (["tokenizer.vocab_size=264", f"tokenizer.special_tokens={list('abcd')}"], "4 special tokens leave no room"),
        (["tokenizer.pattern='['"], "neither a named pattern nor"),
    ],
)
def test_settings_that_cannot_be_are_named(
    project: Any, rows: list[dict[str, Any]], settings: list[str], message: str
) -> None:
    made = project("complete", "project", *settings)
    with pytest.raises(BadSetting, match=re.escape(message)):
        run.run(made, data_artifact(made, rows))


@pytest.mark.parametrize("setting", ["pattern='gpt2'", "digits=1", "whitespace='apart'"])
def test_what_shapes_a_new_tokenizer_is_refused_beside_a_base(
    project: Any, rows: list[dict[str, Any]], base: Path, setting: str
) -> None:
    made = project("complete", "project", f"model.base={base}", f"tokenizer.{setting}")
    with pytest.raises(BadSetting, match=rf"tokenizer\.{setting.partition('=')[0]} shapes a new tokenizer"):
        run.run(made, data_artifact(made, rows))


def test_figures_add_up(project: Any, rows: list[dict[str, Any]]) -> None:
    made = project()
    figures = run.run(made, data_artifact(made, rows)).figures
    assert figures["rows"] == {"train": 480, "val": 60, "test": 60}
    assert figures["tokens"] == sum(figures["tokens_by_split"].values())
    train_bytes = sum(len(row["text"].encode()) for row in rows if row["split"] == "train")
    assert figures["train_bytes"] == train_bytes
    assert figures["asked_vocab_size"] == bpe.default_vocab_size(train_bytes).value
    assert figures["bytes_per_token"]["source"].keys() == {"labelled"}
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
