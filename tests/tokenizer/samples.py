"""Texts, rows and data artifacts for the tests of the tokenizer stage."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers

from wyrmling.config import Project
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key
from wyrmling.core.records import EXAMPLE_SCHEMA

EXAMPLES = Path(__file__).parents[2] / "examples"

ODD_TEXTS = [
    "",
    " ",
    "a",
    "Two  spaces,\ttabs\r\nand \n\n\n lines   ",
    "It's 12345678 o'clock; they'll DON'T we've",
    "naïve façade Straße Ελλάδα Привет 你好世界 こんにちは مرحبا שלום ไทย",
    "🙂👩‍👩‍👧‍👦🇪🇺 e\u0301 \u200b\u00a0\u3000\u2028|\ufeff|\ufffd|\x00|\x85|\x1f|",
    "<|endoftext|> <|im_start|>user\nhi<|im_end|> <|mask|><|pad|> [MASK] <s>",
    "x" * 3000,
]


def messages_of_customers(n: int) -> list[str]:
    with (EXAMPLES / "support-desk/data/train.csv").open(newline="", encoding="utf-8") as handle:
        return [row["text"] for row, _ in zip(csv.DictReader(handle), range(n), strict=False)]


def example(row_id: str, kind: str, split: str = "train", **columns: Any) -> dict[str, Any]:
    """A row of examples.parquet."""
    row = dict.fromkeys(EXAMPLE_SCHEMA.names) | {"row_id": row_id, "kind": kind, "split": split}
    return row | {"source": kind, "origin": f"data/{kind}.csv:{row_id}"} | columns


def data_artifact(project: Project, rows: list[dict[str, Any]], *, rows_per_group: int = 1000) -> Artifact:
    """What the data stage would have left for these rows."""
    tags = {tag for row in rows for tag in row["tags"] or ()} - {"O"}
    labels = {
        "labels": sorted({row["label"] for row in rows if row["label"] is not None}),
        "tags": ["O", *sorted(tags)] if tags else [],
    }
    key = Key("data", project.settings.name, inputs={"rows": artifact.digest(rows)}, settings={}, version=1)
    with artifact.create(project.runs, key, project.meter()) as draft:
        table = pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)
        pq.write_table(table, draft.path / "examples.parquet", row_group_size=rows_per_group)
        (draft.path / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    return draft.done


def save(path: Path, hf: tokenizers.Tokenizer, config: dict[str, Any], model_config: dict[str, Any]) -> Path:
    """A model folder of somebody else: a tokenizer, and what its settings say of it."""
    path.mkdir(exist_ok=True)
    hf.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "config.json").write_text(json.dumps(model_config), encoding="utf-8")
    return path
