"""Answers to test rows, written to an artifact and read back, to compare systems that ran on other days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput
from wyrmling.evaluate import entities, systems, tasks
from wyrmling.evaluate.answer_outcome import AnswerOutcome, WithAnswers
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.evaluate.label_set_outcome import LabelSetOutcome
from wyrmling.evaluate.outcomes import Outcome, taken
from wyrmling.evaluate.statistics import Ints
from wyrmling.evaluate.tag_outcome import TagOutcome
from wyrmling.evaluate.tasks import Example, Rows
from wyrmling.evaluate.text_outcome import TextOutcome

ANSWERS = "answers.parquet"

Columns = Mapping[str, list[Any]]


def write(folder: Path, rows: Sequence[Example], rows_N: Ints | None, columns: Columns) -> None:
    """Keep the answers to the rows, or to `rows_N` of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen = rows if rows_N is None else [rows[i] for i in rows_N.tolist()]
    table = pa.table({"row_id": [row["row_id"] for row in chosen], **columns})
    pq.write_table(table, folder / ANSWERS, compression="zstd")


def read(made: Artifact, rows: Sequence[Example]) -> dict[str, list[Any]]:
    """The columns of a cheap rung or an evaluation, one entry per test row; None where it gave no answer.

    Raises   BadInput when an answer is to a row that is not among these: another test cannot be compared
    """
    import pyarrow.parquet as pq

    own = made.path / ANSWERS
    table = pq.read_table(own if own.is_file() else made.path / "predictions.parquet")
    place = {row["row_id"]: i for i, row in enumerate(rows)}
    found: dict[str, list[Any]] = {name: [None] * len(rows) for name in table.column_names}
    for name in table.column_names:
        for row_id, value in zip(table["row_id"].to_pylist(), table[name].to_pylist(), strict=True):
            if row_id not in place:
                raise BadInput(
                    f"the answer to row {row_id} is to none of the {len(rows):,} test rows",
                    where=made.path,
                    fix="delete the folder and run the same command again",
                )
            found[name][place[row_id]] = value
    return found


def outcomes(
    task: str, rows: Rows, systems_columns: Mapping[str, Columns], labels: Sequence[str], resamples: int
) -> dict[str, Outcome]:
    """The outcome of each system from its columns, all on the same rows and in the same labels.

    A missing prediction is wrong. Tasks with written answers are compared in these.
    """
    if task == "classify":
        of = _label_sets if tasks.several(rows.test) else _classes
        return {name: of(rows, columns, labels, resamples) for name, columns in systems_columns.items()}
    if task == "tag":
        return _tags(rows, systems_columns, resamples)
    if task in tasks.ANSWERED:
        return {name: _answers(rows, columns) for name, columns in systems_columns.items()}
    return {name: _text(rows, columns) for name, columns in systems_columns.items()}


def _classes(rows: Rows, columns: Columns, labels: Sequence[str], resamples: int) -> Outcome:
    gold_N = np.array(tasks.gold_labels(rows.test, labels), dtype=np.int64)
    predicted_N = systems.numbers_of(columns["predicted"], labels)
    return ClassOutcome(labels, gold_N, predicted_N, None, resamples, systems.clusters(rows.test))


def _label_sets(rows: Rows, columns: Columns, labels: Sequence[str], resamples: int) -> Outcome:
    given = columns["predicted"]
    gold_NC, said_NC = (tasks.label_table(sets, labels) for sets in ([row["labels"] for row in rows.test], given))
    answered_N = np.array([names is not None for names in given])
    return LabelSetOutcome(labels, gold_NC, said_NC, resamples, systems.clusters(rows.test), answered_N)


def _tags(rows: Rows, systems_columns: Mapping[str, Columns], resamples: int) -> dict[str, Outcome]:
    gold = [row["tags"] for row in rows.test]
    given = {
        name: [["O"] * len(g) if p is None else p for g, p in zip(gold, columns["predicted"], strict=True)]
        for name, columns in systems_columns.items()
    }
    types = entities.entity_types(gold, *given.values())
    groups = systems.clusters(rows.test)
    return {name: TagOutcome(gold, predicted, types, resamples, groups) for name, predicted in given.items()}


def _answers(rows: Rows, columns: Columns) -> Outcome:
    there_N: Ints = np.flatnonzero([answer is not None for answer in columns["answer"]]).astype(np.int64)
    expected = [systems.right_answer(rows.test[i]) for i in there_N.tolist()]
    groups = taken(systems.clusters(rows.test), there_N)
    given = [columns["answer"][i] for i in there_N.tolist()]
    return WithAnswers(None, AnswerOutcome(expected, given, groups), there_N)


def _text(rows: Rows, columns: Columns) -> Outcome:
    nats_N = np.array(columns["text_nats"], dtype=np.float64)
    bytes_N = np.array(columns["bytes"], dtype=np.float64) if "bytes" in columns else systems.bytes_of(rows.test)
    return TextOutcome(nats_N, bytes_N, cluster_N=systems.clusters(rows.test))
