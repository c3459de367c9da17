"""Trained tokenizers and projects that the tests of the tokenizer stage share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tokenizer.samples import messages_of_customers
from wyrmling import config
from wyrmling.config import Project
from wyrmling.tokenizer import bpe, folder
from wyrmling.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return messages_of_customers(2000)


@pytest.fixture(scope="session")
def trained(corpus: list[str]) -> bpe.Vocabulary:
    return bpe.train(corpus, 1024)


@pytest.fixture(scope="session")
def scratch(trained: bpe.Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer folder as the stage writes it for a decoder."""
    path = tmp_path_factory.mktemp("scratch")
    folder.write(path, trained, ends=False)
    return path


@pytest.fixture(scope="session")
def tokenizer(scratch: Path) -> Tokenizer:
    return Tokenizer.load(scratch)


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Project]:
    """A project in a new folder: `project(task, **tokenizer_and_model_settings)`."""

    def make(task: str = "complete", root: str = "project", *overrides: str) -> Project:
        path = tmp_path / root
        path.mkdir(exist_ok=True)
        (path / "wyrmling.toml").write_text(
            f'name = "desk"\n[objective]\ntask = "{task}"\n[data.sources.a]\npath = "a.txt"\n', encoding="utf-8"
        )
        return config.load(path, overrides)

    return make
