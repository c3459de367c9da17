"""What several tests share: one small project, made once, and no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from shell import write_small_project, wyrmling

# As the command line does: idle threads soon sleep instead of spinning, so a busy machine does not stall the suite.
# conftest is read before any test imports torch.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, run once for the whole session, by whichever process comes first. Tests must not change it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "small" / "support-desk"
    with FileLock(shared / "small.lock"):
        if not (done := shared / "small.done").exists():
            write_small_project(folder)
            run = wyrmling("run", "--project", folder, "--quiet", check=False)
            assert run.returncode == 0, run.stdout + run.stderr
            done.touch()
    return folder


@pytest.fixture(autouse=True, scope="session")
def _offline() -> Iterator[None]:
    """No test may look anything up outside this machine."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    yield
