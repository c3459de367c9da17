"""Small projects with a data artifact and a model folder of random weights, one per task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.data import run as data_run
from wyrmling.model import folder
from wyrmling.model.heads import HeadName, Model
from wyrmling.model.transformer import ModelConfig, padded_vocab
from wyrmling.tokenizer import run as tokenizer_run

HEADS: dict[str, HeadName] = {"classify": "classes", "tag": "tags", "complete": "next", "chat": "next"}


class Made(NamedTuple):
    project: Project
    data: Artifact
    model: Path


Make = Callable[..., Made]


def write_rows(folder: Path, task: str) -> str:
    """The project's files; returns the sections that describe them."""
    items = ["card", "refund", "account", "transfer"]
    if task == "classify":
        for name, start, stop in (("train", 0, 160), ("test", 160, 240)):
            rows = [
                f'"my {items[i % 4]} number {i} has a problem, please <b>help</b> & hurry",{items[i % 4]},'
                + ("app" if i % 40 < 25 else "web")
                for i in range(start, stop)
            ]
            (folder / f"{name}.csv").write_text("text,label,channel\n" + "\n".join(rows) + "\n")
        columns = 'text = "text"\nlabel = "label"\nkeep = ["channel"]\n'
        train, test = 'path = "train.csv"\n', 'path = "test.csv"\nsplit = "test"\n'
        return f"[data.sources.a]\n{train}{columns}[data.sources.b]\n{test}{columns}"
    if task == "tag":
        for name, start, stop in (("train", 0, 90), ("test", 90, 150)):
            blocks = [
                f"Mr\tO\n{('Anna', 'Karl', 'Paul')[i % 3]}\tB-person\nNr{i}\tI-person\ncame\tO\n"
                for i in range(start, stop)
            ]
            (folder / f"{name}.conll").write_text("\n".join(blocks) + "\n")
        return '[data.sources.a]\npath = "train.conll"\n[data.sources.b]\npath = "test.conll"\nsplit = "test"\n'
    if task == "complete":
        texts = [
            f"Story {i}. " + "Once upon a time there was a dragon of number " * (i % 7 + 1) + f"{i * 7919}."
            for i in range(80)
        ]
        (folder / "stories.txt").write_text("\n###\n".join(texts))
        return '[data.sources.a]\npath = "stories.txt"\nseparator = "###"\n[data.dedup]\nnear = false\n'
    rows = [{"prompt": f"what is {i} plus one?", "response": f"It is {i + 1}, I think."} for i in range(80)]
    (folder / "chat.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return (
        '[data.sources.a]\npath = "chat.jsonl"\nprompt = "prompt"\nresponse = "response"\n[data.dedup]\nnear = false\n'
    )


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """make(task, accept=(...)): the project of a task, made once; other conditions give another view of the same."""
    made: dict[str, Made] = {}

    def make_one(task: str, accept: tuple[str, ...] = ()) -> Made:
        if task not in made:
            made[task] = _make(tmp_path_factory.mktemp(task), task)
        project, data, model = made[task]
        return Made(config.load(project.root, [f"objective.accept={json.dumps(accept)}"]), data, model)

    return make_one


def _make(root: Path, task: str) -> Made:
    sources = write_rows(root, task)
    (root / "wyrmling.toml").write_text(
        f'name = "small"\n[objective]\ntask = "{task}"\ngoal = "Answer <quickly> & well"\n{sources}'
        "[tokenizer]\nvocab_size = 300\n[evaluate]\nresamples = 200\n"
    )
    project = config.load(root)
    data = data_run.run(project)
    tokens = tokenizer_run.run(project, data)
    names = json.loads((data.path / "labels.json").read_text())
    head = HEADS[task]
    labels, tags = (names["labels"] if head == "classes" else []), (names["tags"] if head == "tags" else [])
    vocab = json.loads((tokens.path / "store" / "store.json").read_text())["vocab_size"]
    settings = ModelConfig(
        family="qwen3" if head == "next" else "modernbert",
        vocab_size=padded_vocab(vocab),
        width=32,
        layers=2,
        heads=2,
        kv_heads=2,
        head_dim=16,
        ffn=64,
        context=48,
        tokens=vocab,
    )
    model = Model(settings, head, len(labels or tags), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)
    about = folder.About(task=task, head=head, context=48, objective=task, labels=labels, tags=tags)
    folder.save(model.eval(), root / "model", tokens.path, about)
    return Made(project, data, root / "model")
