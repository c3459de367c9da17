"""What several tests share: one small project, made once, and no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shell import write_small_project, wyrmling

# As the command line does: idle threads soon sleep instead of spinning, so a busy machine does not stall the suite.
# conftest is read before any test imports torch.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, run once for the whole session. Tests must not change it."""
    folder = write_small_project(tmp_path_factory.mktemp("small") / "support-desk")
    done = wyrmling("run", "--project", folder, "--quiet", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(autouse=True, scope="session")
def _offline() -> Iterator[None]:
    """No test may look anything up outside this machine."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    yield
