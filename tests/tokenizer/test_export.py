"""The tokens as Parquet hold what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tokenizer.samples import data_artifact, example
from wyrmling.core.errors import UsageError
from wyrmling.tokenizer import export as exporting
from wyrmling.tokenizer import run
from wyrmling.tokenizer.export import export
from wyrmling.tokenizer.tokens import NO_TAG, SPLITS, TokenStore


@pytest.fixture
def artifact(project: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of all kinds in three shards; the second has no tagged row."""
    monkeypatch.setattr(run, "SHARD_BYTES", 1)
    rows = [
        example("d0", "document", text="my card " * 20),
        example("t0", "tagged", text="Ada met", words=["Ada", "met"], tags=["B-P", "O"]),
        example("l0", "labelled", text="lost", label="card"),
        example("l1", "labelled", "val", text="kept", label="cash"),
        example("l2", "labelled", "test", text="", label="cash"),
    ]
    made = project()
    return run.run(made, data_artifact(made, rows, rows_per_group=2)).path


def test_every_row_is_exported_with_what_is_learned_of_it(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_GROUP_TOKENS", 10)
    done = export(artifact, to="parquet", out=tmp_path / "out")
    assert (done["rows"], done["files"]) == (5, 4)
    for split in SPLITS:
        store = TokenStore.open(artifact, split)
        rows = [
            row for path in sorted((tmp_path / "out").glob(f"{split}-*")) for row in pq.read_table(path).to_pylist()
        ]
        assert len(rows) == len(store)
        for i, row in enumerate(rows):
            assert row["input_ids"] == store.tokens(i).tolist()
            assert row["loss_mask"] == store.learn(i).tolist()
            assert (row["row_id"], row["origin"]) == (store.rows["row_id"][i], store.rows["origin"][i])
            label = int(store.rows["label"][i])
            assert row["label"] == (store.labels[label] if label >= 0 else None)
            names = [store.tag_names[tag] if tag != NO_TAG else None for tag in store.tags(i)]
            assert row["tags"] == (names if row["kind"] == "tagged" else None)


def test_an_unknown_format_and_a_full_folder_are_refused(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no export format 'csv'"):
        export(artifact, to="csv", out=tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").touch()
    with pytest.raises(UsageError, match="already exists and is not empty"):
        export(artifact, to="parquet", out=tmp_path / "full")
    assert not list(tmp_path.glob(".*work"))
