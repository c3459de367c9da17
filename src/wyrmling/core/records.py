"""The shapes that travel between the data stage and the stages after it.

`examples.parquet` of a data artifact has one row per kept record, in the columns of `EXAMPLE_SCHEMA`; which columns are
filled depends on `kind`. `ledger.parquet` has one row per record read, in the columns of `LEDGER_SCHEMA`.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

Kind = Literal["document", "labelled", "tagged", "conversation", "pair", "rating"]
SplitName = Literal["train", "val", "test"]
Verdict = Literal["kept", "changed", "dropped", "error"]

# Stands before each label of a row that may have several: a row without any is this sign alone.
SEVERAL = "\x1f"


def labels_of(label: str | None) -> list[str]:
    """The labels of a row: none, one, or several."""
    if label is None:
        return []
    return (
        label.split(SEVERAL)[1:]
        if label.startswith(SEVERAL) and label != SEVERAL
        else []
        if label == SEVERAL
        else [label]
    )


MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])

EXAMPLE_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),  # 16 hexadecimal digits, stable over reruns
        ("source", pa.string()),  # name under data.sources
        ("origin", pa.string()),  # where a person finds it: "data/tickets.csv:12", "guide.pdf page 3"
        ("kind", pa.string()),  # document | labelled | tagged | conversation | pair | rating
        ("split", pa.string()),  # train | val | test
        ("text", pa.string()),  # document, labelled; for tagged the words joined by spaces
        ("label", pa.string()),  # labelled
        ("labels", pa.list_(pa.string())),  # labelled, where a row may have several
        ("words", pa.list_(pa.string())),  # tagged
        ("tags", pa.list_(pa.string())),  # tagged, BIO, one per word
        ("messages", pa.list_(MESSAGE)),  # conversation, rating; for a pair the turns before the answers
        ("chosen", pa.string()),  # pair: the better answer
        ("rejected", pa.string()),  # pair: the other one
        ("rating", pa.bool_()),  # rating: whether the last answer was called good
        ("cluster", pa.string()),  # near-duplicate cluster, null when alone
        ("licence", pa.string()),  # of the source, null when it names none
        ("kept", pa.string()),  # JSON {column: value} of the columns that the source keeps, null when it keeps none
        ("byte_start", pa.int64()),  # of the lines of its file that hold it, null when it is no stretch of lines
        ("byte_end", pa.int64()),
    ]
)

LEDGER_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("origin", pa.string()),
        ("verdict", pa.string()),  # kept | changed | dropped | error; changed rows are kept too
        ("rule", pa.string()),  # what decided: "exact_duplicate", "empty", "unreadable", "unicode,pii" ...
        ("value", pa.string()),  # the measured value or the error message; never the private text itself
        ("threshold", pa.string()),
        ("kept_id", pa.string()),  # for a duplicate: the row that was kept instead
        ("cluster", pa.string()),
        ("redactions", pa.string()),  # JSON {type: count}
        ("split", pa.string()),
        ("language", pa.string()),  # ISO 639-1, "und" when it can't be told, null when it was not looked for
        ("byte_start", pa.int64()),  # as in EXAMPLE_SCHEMA
        ("byte_end", pa.int64()),
    ]
)
