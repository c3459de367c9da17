"""`wyrmling init`: a new project folder, from a shipped example, from files, or empty with a commented start."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from wyrmling import config
from wyrmling.core.errors import BadInput, UsageError
from wyrmling.flow import import_config

START = """\
# The settings of this project; all of them: wyrmling schema, or docs/settings.md
name = {name}

[objective]
goal = "Say in one sentence what the model is for"
task = {task}          # complete | chat | classify | tag | answer | summarize
accept = []            # such as ["macro_f1 >= 0.85"]; `wyrmling run` then says PASS, FAIL or INCONCLUSIVE
"""

SOURCE = """
[data.sources.{name}]
{lines}
"""

# Records that are read to tell the task.
LOOKED_AT = 10_000
# What rows of each kind are most likely there for, and what they are called.
TASKS = {"document": "complete", "labelled": "classify", "tagged": "tag"} | dict.fromkeys(
    ("conversation", "pair", "rating"), "chat"
)
KINDS = {
    "document": "texts alone",
    "labelled": "texts with a label",
    "tagged": "words with tags",
    "conversation": "conversations",
    "pair": "pairs of a better and a worse answer",
    "rating": "rated answers",
}

EMPTY_SOURCE = 'path = "data/*"      # csv json jsonl parquet txt md html pdf conll; or url and query for a database'


@dataclass(frozen=True)
class Made:
    """The new folder and what was decided for it."""

    folder: Path
    notes: tuple[str, ...]
    next_command: str

    def document(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "notes": list(self.notes), "next": self.next_command}

    def text(self) -> str:
        return "\n".join([f"made {self.folder}", *(f"  {note}" for note in self.notes), f"next: {self.next_command}"])


def examples_folder() -> Path:
    """Where the shipped examples lie: inside the installed package, or beside `src` in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "examples"
    return installed if installed.is_dir() else package.parent.parent / "examples"


def init(folder: Path, *, example: str | None = None, source: Path | None = None) -> Made:
    """Make a project folder.

    example  the name of a shipped example to copy
    source   a file or folder to read from; the task and the columns are proposed from a sample. A YAML file is the
             configuration of another trainer
    Raises   UsageError for an unknown example, missing files, or a folder that already holds something.
    """
    if example is not None and source is not None:
        raise UsageError("give --example or --from, not both")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} already exists and is not empty", fix="choose another folder name")
    if example is not None:
        notes = _copy_example(example, folder)
    elif source is not None and source.suffix.lower() in import_config.SUFFIXES:
        notes = _from_config(source, folder)
    elif source is not None:
        notes = _from_files(source, folder)
    else:
        name, task = _project_name(folder), "complete"
        text = START.format(name=json.dumps(name), task=json.dumps(task))
        _write(folder, text + SOURCE.format(name="documents", lines=EMPTY_SOURCE))
        notes = (f"edit {folder / config.PROJECT_FILE}: the task and the sources",)
    return Made(folder, notes, f"wyrmling plan --project {folder}")


def _copy_example(example: str, folder: Path) -> tuple[str, ...]:
    shipped = examples_folder()
    names = sorted(p.name for p in shipped.iterdir() if (p / config.PROJECT_FILE).is_file()) if shipped.is_dir() else []
    if example not in names:
        raise UsageError(f"there is no example {example!r}", fix=f"the examples are: {', '.join(names)}")
    results = shutil.ignore_patterns("runs", "wyrmling.db*")
    shutil.copytree(shipped / example, folder, dirs_exist_ok=True, ignore=results)
    goal = config.load(folder).settings.objective.goal
    return (goal,) if goal else ()


def _from_config(path: Path, folder: Path) -> tuple[str, ...]:
    """A project like a configuration of another trainer; the notes list what has no equivalent."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist", fix="name a configuration file")
    settings, notes = import_config.load(path)
    _write(folder, import_config.text(_project_name(folder), settings))
    return tuple(notes)


def _from_files(path: Path, folder: Path) -> tuple[str, ...]:
    """A project that reads the files where they are, with the task that their rows suggest."""
    from wyrmling.data import origins, read

    if not path.exists():
        raise UsageError(f"{path} does not exist", fix="name a file or folder that holds your data")
    path = path.resolve()
    name = _plain(path.stem) or "documents"
    try:
        origin = origins.find_origin(name, config.Source(path=str(path)), path.parent)
        rows = list(islice(read.read_rows(origin), LOOKED_AT))
        read.check_source(origin, rows)
        counts = Counter(row.kind for row in rows if row.verdict != "error")
        kind, count = counts.most_common(1)[0]
        task, note = (
            TASKS[kind],
            f"{count:,} of {len(rows):,} records are {KINDS[kind]}, so the task is {TASKS[kind]!r}",
        )
    except BadInput as error:
        task, note = "complete", f"before anything else, edit {folder / config.PROJECT_FILE}: {error}"
    text = START.format(name=json.dumps(_project_name(folder)), task=json.dumps(task))
    lines = f"path = {json.dumps(str(path), ensure_ascii=False)}"
    _write(folder, text + SOURCE.format(name=name, lines=lines))
    config.load(folder)
    return (note,)


def _write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config.PROJECT_FILE).write_text(text, encoding="utf-8")


def _project_name(folder: Path) -> str:
    return _plain(folder.resolve().name) or "project"


def _plain(text: str) -> str:
    """`text` with only what a name may hold."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text).strip("-")
