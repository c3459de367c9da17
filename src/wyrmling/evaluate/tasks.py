"""From a task to its test and training rows. Rows are dicts in the columns of core.records.EXAMPLE_SCHEMA."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wyrmling.config import Data, Project, Source
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.evaluate.metrics import Bools

if TYPE_CHECKING:
    from wyrmling.data.rows import Row

Example = dict[str, Any]

MAIN_METRIC = {"classify": "macro_f1", "tag": "entity_f1"} | dict.fromkeys(
    ("complete", "chat", "answer", "summarize"), "bpb"
)
# Which rows answer for a task, and which head of a model can.
KINDS: dict[str, tuple[str, ...]] = {
    "classify": ("labelled",),
    "tag": ("tagged",),
    "complete": ("document", "labelled"),
} | dict.fromkeys(("chat", "answer", "summarize"), ("conversation", "pair", "rating"))
# Whose answers are also written out and compared with the expected ones.
ANSWERED = ("answer", "summarize")
HEADS = {"classify": "classes", "tag": "tags"} | dict.fromkeys(("complete", "chat", "answer", "summarize"), "next")
# The columns that a source of such rows may name.
_NAMING = {"classify": ("label",), "tag": ("tags",), "complete": ("text",)} | dict.fromkeys(
    ("chat", "answer", "summarize"), ("prompt", "messages", "chosen")
)
_COLUMNS = ["row_id", "source", "origin", "kind", "text", "label", "labels", "words", "tags", "messages", "cluster"]
# Columns that only examples.parquet has so: what makes a conversation of a pair or a rated answer, and kept columns.
_STORED = ["chosen", "rating", "kept"]


@dataclass(frozen=True)
class Rows:
    """The rows of one evaluation: `test` is scored, `train` is what the baselines may learn from.

    val         what a temperature is fitted on
    own_file    True when the test rows are a file of the user's instead of the project's own
    given_away  test rows of such a file of which a row of any kind that may be learned from holds long runs of words
    """

    test: list[Example]
    train: list[Example]
    val: list[Example]
    own_file: bool = False
    given_away: frozenset[int] = frozenset()


def from_artifact(data: Artifact, task: str) -> Rows:
    """The test and training rows of a data artifact. Raises BadInput when there is no test row for the task."""
    test = read_split(data, task, "test")
    if not test:
        raise BadInput(
            f"the data has no test row for the task {task!r} (kinds: {', '.join(KINDS[task])})",
            where=data.path / "examples.parquet",
            fix='raise data.split.test, give a source split = "test", or name a file with --test FILE',
        )
    languages = _languages(data)
    for row in test:
        row["language"] = languages.get(row["row_id"])
    return Rows(test, read_split(data, task, "train"), read_split(data, task, "val"))


def _languages(data: Artifact) -> dict[str, str]:
    """Language of each test row, where the data stage looked for it."""
    import pyarrow.parquet as pq

    table = pq.read_table(
        data.path / "ledger.parquet", columns=["row_id", "language"], filters=[("split", "=", "test")]
    )
    rows = zip(table["row_id"].to_pylist(), table["language"].to_pylist(), strict=True)
    return {row_id: language for row_id, language in rows if language is not None}


def text_of(row: Example) -> str:
    """All text of a row: a document, the words of a sentence, or every turn of a conversation."""
    if row["kind"] == "conversation":
        return "\n".join(message["content"] for message in row["messages"])
    return str(row["text"])


def from_file(project: Project, data: Artifact, file: Path) -> Rows:
    """Test rows from a file of the user, read and cleaned like the project's own; training rows from the artifact."""
    task = project.settings.objective.task
    train, val = (read_split(data, task, split) for split in ("train", "val"))
    test = read_file(project, file)
    return Rows(test, train, val, own_file=True, given_away=_given_away(data, [text_of(row) for row in test]))


def _given_away(data: Artifact, texts: Sequence[str]) -> frozenset[int]:
    """Which texts share 13 words in sequence, or most 8-word runs, with a training row of whatever kind.

    The project's own test rows need no such look: what gives them away was dropped by the data stage.
    """
    import pyarrow.parquet as pq

    from wyrmling.data.contamination import Index

    index, found = Index.build((text, False) for text in texts), set[int]()
    columns = ["split", "text", "messages", "chosen"]
    for batch in pq.ParquetFile(data.path / "examples.parquet").iter_batches(1000, columns=columns):
        for row in batch.to_pylist():
            if row["split"] == "train":
                turns = [turn["content"] for turn in row["messages"] or ()]
                found |= index.all_in("\n".join(part for part in (row["text"], *turns, row["chosen"]) if part))
    return frozenset(found)


def read_split(data: Artifact, task: str, split: str, sources: Sequence[str] | None = None) -> list[Example]:
    """The rows of one split that answer for a task. sources: only those of these. None: of all."""
    import pyarrow.parquet as pq

    wanted: list[tuple[str, str, Any]] = [("split", "=", split), ("kind", "in", KINDS[task])]
    if sources is not None:
        wanted.append(("source", "in", list(sources)))
    table = pq.read_table(data.path / "examples.parquet", columns=[*_COLUMNS, *_STORED], filters=wanted)
    rows = [{**row, "kept": json.loads(row["kept"]) if row["kept"] else {}} for row in table.to_pylist()]
    return [talk for row in rows if (talk := _conversation(row)) is not None]


def _conversation(row: Example) -> Example | None:
    """The row, a pair or rated answer as the conversation that ends in the good answer; None when it is a bad one."""
    if row["kind"] == "pair":
        answer = {"role": "assistant", "content": row["chosen"]}
        return {**row, "kind": "conversation", "messages": [*row["messages"], answer]}
    if row["kind"] == "rating":
        return {**row, "kind": "conversation"} if row["rating"] else None
    return row


def read_file(project: Project, file: Path) -> list[Example]:
    """The rows of a test file, with the columns of the project's first source that names some.

    Raises   BadInput naming the first row that can't be read or has nothing to score: a test is never cut silently
    """
    from wyrmling.data import origins, read
    from wyrmling.data.tidy import tidy

    task = project.settings.objective.task
    if not file.is_file():
        raise BadInput(f"{file} does not exist", where="--test", fix="name a file that can be read")
    data = project.settings.data
    origin = origins.find_origin("test", _source_for(data, task, file), project.root)
    # A test file may lack the columns that the sources keep: then it is not sliced by them.
    rows = read.read_source(origin, read.Columns(keep=data.kept))
    # Cleaned like the training rows, but not judged: the quality of a test row is the user's business.
    tidy(rows, data.clean.model_copy(update={"profile": None, "min_chars": 1}), project.root)
    for row in rows:
        if (problem := _problem(row, task)) is not None:
            raise BadInput(
                problem, where=row.origin, fix="mend the row, take it out, or name the columns in the source"
            )
    return [talk for row in rows if (talk := _conversation(_example(row))) is not None]


def _problem(row: Row, task: str) -> str | None:
    """Why a row can't be scored; None when it can."""
    if row.verdict == "error":
        return row.value or "the row can't be read"
    if not row.alive:
        return f"the row can't be scored: {row.rules[-1].replace('_', ' ')}"
    if row.kind not in KINDS[task]:
        return f"the task {task!r} needs rows of kind {' or '.join(KINDS[task])}, this one is {row.kind}"
    return None if row.body.strip() else "the row has no text"


def _example(row: Row) -> Example:
    whole = {name: getattr(row, name) for name in (*_COLUMNS, "language", "kept")}
    if row.labels is not None:
        whole["label"] = None
    messages = [message._asdict() for message in row.messages]
    if row.kind == "pair":
        whole |= {"chosen": messages[-2]["content"]}
        messages = messages[:-2]
    return {**whole, "rating": row.label == "good", "text": row.body, "messages": messages}


def _source_for(data: Data, task: str, file: Path) -> Source:
    """The first source that names the task's columns (else the first of all), with the file in the place of its own."""
    sources = list(data.sources.values())
    named = [source for source in sources if any(getattr(source, column) for column in _NAMING[task])]
    columns = {"text", "label", "label_separator", "prompt", "response", "messages", "chosen", "rejected", "rating"}
    columns |= {"words", "tags", "separator", "delimiter", "encoding"}
    return Source(path=str(file.resolve()), split="test", **(named or sources)[0].model_dump(include=columns))


def gold_labels(rows: Sequence[Example], labels: Sequence[str]) -> list[int]:
    """Index of each row's label among the model's. Raises BadInput naming the first row with a label it lacks."""
    index = {label: i for i, label in enumerate(labels)}
    found = []
    for row in rows:
        label = row["label"]
        if label not in index:
            raise BadInput(
                f"the model does not know the label {label!r}",
                where=f"{row['origin']} (row {row['row_id']})",
                fix=f"correct the label, or train with rows that have it; the model has {len(labels)} labels",
            )
        found.append(index[label])
    return found


def gold_label_sets(rows: Sequence[Example], labels: Sequence[str]) -> Bools:
    """(N, C) whether each row has each label. Raises BadInput naming the first row with a label the model lacks."""
    for row in rows:
        if unknown := [label for label in row["labels"] or () if label not in labels]:
            raise BadInput(
                f"the model does not know the label {unknown[0]!r}",
                where=f"{row['origin']} (row {row['row_id']})",
                fix=f"correct the label, or train with rows that have it; the model has {len(labels)} labels",
            )
    return label_table([row["labels"] for row in rows], labels)


def label_table(sets: Sequence[Collection[str] | None], labels: Sequence[str]) -> Bools:
    """(N, C) whether each set holds each label; None holds none."""
    held = [[label in (names or ()) for label in labels] for names in sets]
    return np.array(held, dtype=np.bool_).reshape(len(sets), len(labels))


def several(rows: Sequence[Example]) -> bool:
    """Whether the rows of a classifier may have any number of labels."""
    return any(row["labels"] is not None for row in rows)


def check_tags(rows: Sequence[Example], tags: Sequence[str]) -> None:
    """Raises BadInput naming the first row with a tag that the model does not know."""
    known = set(tags)
    for row in rows:
        for word, tag in zip(row["words"], row["tags"], strict=True):
            if tag not in known:
                raise BadInput(
                    f"the model does not know the tag {tag!r} of the word {word!r}",
                    where=f"{row['origin']} (row {row['row_id']})",
                    fix=f"correct the tag, or train with rows that have it; the model has: {', '.join(tags)}",
                )


def check_head(task: str, head: str, model: Path) -> None:
    """Raises BadSetting when a model with this head can't do the task."""
    if head != HEADS[task]:
        raise BadSetting(
            f"the model has the head {head!r}, the task {task!r} needs {HEADS[task]!r}",
            where=model,
            fix="evaluate the model of the last training step, or correct objective.task",
        )
