"""The passes give the same rows however they are cut, whatever runs them, and whenever they are killed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from shell import wyrmling
from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput, NothingToLearn
from wyrmling.data import passes, run

MakeProject = Callable[..., Project]

SOURCES = """
[data.sources.docs]
path = "docs"
[data.sources.tickets]
path = "tickets/*.csv"
text = "message"
label = "team"
[data.sources.talk]
path = "talk.jsonl"
[data.clean]
profile = "manuals"
[data.labels]
check = true
"""
WORDS = [
    first + second for first in ("ba", "ce", "di", "fo", "gu", "ka", "le") for second in ("lar", "mon", "net", "sil")
]


def prose(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def files() -> dict[str, str]:
    """Documents with shared lines, near copies and private data; labelled rows with conflicts; conversations."""
    made = {}
    for n in range(12):
        text = "\n\n".join(prose(11 * n + k, 60) for k in range(4))
        made[f"docs/{n:02}.md"] = f"Home and products and contact\n\n# Page {n}\n\n{text}\n\nAsk p{n}@example.org."
    made["docs/copy.md"] = made["docs/03.md"] + "\n\nOne more line."
    made["docs/broken.json"] = "{"
    for n in range(4):
        rows = [f"{prose(100 + n * 30 + k, 12)},{'ab'[k % 2]}" for k in range(30)]
        made[f"tickets/{n}.csv"] = "message,team\n" + "\n".join([*rows, f"{prose(100, 12)},b", ",a"]) + "\n"
    lines = [f'{{"question": "What about {prose(900 + n, 9)}?", "answer": "{prose(990 + n, 30)}"}}' for n in range(20)]
    made["talk.jsonl"] = "\n".join(lines)
    return made


def digests(made: Artifact) -> dict[str, str]:
    names = ("examples.parquet", "ledger.parquet", "labels.json", "card.md", "label_review.csv")
    return {name: hashlib.sha256((made.path / name).read_bytes()).hexdigest() for name in names}


def again(project: Project, *overrides: str) -> Artifact:
    """The artifact made anew."""
    made = run.run(config.load(project.root, list(overrides)))
    moved = made.path.with_name(f"kept-{time.monotonic_ns()}")
    made.path.rename(moved)
    return Artifact(moved, made.manifest)


@pytest.fixture
def project(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(passes, "UNIT_FILES", 3)
    return make_project(files(), SOURCES, task="classify")


def test_one_process_two_and_ray_give_the_same_bytes(project: Project) -> None:
    made = [
        again(project, f"machine.workers={workers}", f'machine.engine="{engine}"')
        for workers, engine in ((1, "processes"), (2, "processes"), (2, "ray"))
    ]
    assert digests(made[0]) == digests(made[1]) == digests(made[2])
    assert len({one.id for one in made}) == 1
    assert pq.ParquetFile(made[0].path / "examples.parquet").num_row_groups >= 8


def test_rows_and_verdicts_do_not_depend_on_how_the_files_are_cut_into_units(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(made: Artifact) -> list[list[dict[str, Any]]]:
        return [pq.read_table(made.path / name).to_pylist() for name in ("examples.parquet", "ledger.parquet")]

    cut = again(project)
    for limit in (1, 1000):
        monkeypatch.setattr(passes, "UNIT_FILES", limit)
        monkeypatch.setattr(passes, "SHARD_CHARS", 2000 * limit)
        whole = again(project)
        assert rows(whole) == rows(cut)
        assert whole.figures == cut.figures
    rules = {rule for row in rows(cut)[1] for rule in (row["rule"] or "").split(",")}
    assert {"boilerplate", "near_duplicate", "label_conflict", "empty", "unreadable"} <= rules


def test_an_error_of_a_worker_stops_the_stage_and_leaves_nothing(project: Project) -> None:
    with pytest.raises(BadInput, match="no column 'nosuch'"):
        run.run(config.load(project.root, ["machine.workers=2", 'data.sources.tickets.text="nosuch"']))
    with pytest.raises(NothingToLearn):
        run.run(config.load(project.root, ["data.clean.min_chars=100000"]))
    left = [path.name for path in (project.runs / "data").iterdir()]
    assert left == []


def test_a_file_that_changes_while_it_is_read_is_noticed(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project({"a.jsonl": '{"text": "one"}\n' * 3}, '[data.sources.a]\npath = "a.jsonl"\n')
    row = passes.content_hash

    def append(read: Any) -> bytes:
        with (project.root / "a.jsonl").open("a") as file:
            file.write('{"text": "more"}\n')
        return row(read)

    monkeypatch.setattr(passes, "content_hash", append)
    monkeypatch.setattr(passes, "SHARD_ROWS", 1)
    with pytest.raises(BadInput, match="changed while it was read") as error:
        run.run(project)
    assert error.value.where == "a.jsonl"


def test_killed_at_any_instant_and_run_again_it_gives_the_same_artifact(make_project: MakeProject) -> None:
    project = make_project(files(), SOURCES, task="classify")
    whole = again(project)
    stages = [("read", 1), ("tidy", 3), ("overlaps", 1)]
    for folder, count in stages:
        killed_after(project, folder, count)
    wyrmling("data", "--project", project.root, "--quiet")
    (made,) = (project.runs / "data").glob("test-*")
    assert made.name == f"test-{whole.id}"
    assert digests(Artifact(made, {})) == digests(whole)
    assert not (made / "work").exists()


def killed_after(project: Project, folder: str, count: int) -> None:
    """Start the stage and kill it, workers and all, as soon as so many units of a pass are done."""
    command = [sys.executable, "-m", "wyrmling", "data", "--project", str(project.root), "--quiet"]
    running = subprocess.Popen([*command, "--set", "machine.workers=2"], start_new_session=True)
    pattern = f".test-*.work/work/{folder}/*.done"
    while len(list((project.runs / "data").glob(pattern))) < count:
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
