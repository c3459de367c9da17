"""The small project, made once for the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from train.small import PROJECT, Small, write_rows
from wyrmling import config
from wyrmling.data import run as data
from wyrmling.tokenizer import run as tokenizer


def _finished(root: Path, text: str) -> Small:
    (root / "wyrmling.toml").write_text(text)
    project = config.load(root)
    rows = data.run(project)
    return Small(project, rows, tokenizer.run(project, rows))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    root = tmp_path_factory.mktemp("small")
    write_rows(root)
    return _finished(root, PROJECT)


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Small]:
    """A function that makes a project from the text of its file and the contents of others: a_csv is a.csv."""

    def make(text: str, **files: str) -> Small:
        for name, content in files.items():
            (tmp_path / name.replace("_", ".")).write_text(content)
        return _finished(tmp_path, text)

    return make
