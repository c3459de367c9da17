"""Rows read in a stream: what is counted and drawn does not depend on how they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenizer.samples import example
from wyrmling.core.records import EXAMPLE_SCHEMA
from wyrmling.tokenizer import examples
from wyrmling.tokenizer.examples import Corpus, Examples, batches, clip

CHAT = example(
    "c", "conversation", messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "good day"}]
)
TAGGED = example("t", "tagged", text="Ada met", words=["Ada", "met"], tags=["O", "O"])


def save(path: Path, rows: list[dict[str, Any]], rows_per_group: int = 1000) -> Examples:
    pq.write_table(pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA), path, row_group_size=rows_per_group)
    return Examples(path)


def documents(n: int) -> list[dict[str, Any]]:
    splits = ["train"] * 8 + ["val", "test"]
    return [
        example(f"{i:016x}", "document", splits[i % 10], text="ü" * (i % 97 + 1), source=f"s{i % 2}") for i in range(n)
    ]


def test_words_of_conversations_and_tags_are_trained_on(tmp_path: Path) -> None:
    held_out = example("v", "document", "val", text="not this")
    found = save(tmp_path / "a.parquet", [CHAT, TAGGED, held_out])
    assert list(Corpus(found, 100)) == ["hi", "good day", "Ada met"]
    assert found.survey(seed=0).train_bytes == len("higood dayAda met")
    assert [examples.chars(row) for row in found.rows()] == [10, 7, 8]


def test_the_survey_counts_every_row_and_training_bytes_up_to_the_cap(tmp_path: Path) -> None:
    rows = [*documents(500), example("long", "document", text="x" * 50_000)]
    survey = save(tmp_path / "a.parquet", rows, 37).survey(seed=0)
    assert survey.rows == 501
    short = sum(len(row["text"].encode()) for row in rows[:-1] if row["split"] == "train")
    assert survey.train_bytes == short + 10_000


def test_what_is_drawn_does_not_depend_on_the_row_groups_but_on_the_seed(tmp_path: Path) -> None:
    rows = documents(1500)
    one, other = save(tmp_path / "a.parquet", rows), save(tmp_path / "b.parquet", rows, 11)
    assert one.survey(seed=0) == other.survey(seed=0)
    assert one.survey(seed=0).check != one.survey(seed=1).check
    # What ends up in figures must not change with the seed of the project.
    assert one.survey(seed=0).sample == one.survey(seed=1).sample


def test_random_rows_and_the_longest_are_checked(tmp_path: Path) -> None:
    rows = documents(3000) + [example(f"l{i}", "document", text="y" * (200 + i)) for i in range(50)]
    check = save(tmp_path / "a.parquet", rows).survey(seed=0).check
    ids = [row["row_id"] for row in check]
    assert {f"l{i}" for i in range(50)} <= set(ids)
    assert examples.RANDOM_ROWS <= len(ids) == len(set(ids)) <= examples.RANDOM_ROWS + examples.LONGEST_ROWS
    positions = sorted(int(id_, 16) for id_ in ids if not id_.startswith("l"))
    assert positions[0] < 300 and positions[-1] > 2700


def test_each_source_and_split_is_sampled(tmp_path: Path) -> None:
    rows = [*documents(2000), example("rare", "document", "val", text="one row", source="small")]
    sample = save(tmp_path / "a.parquet", rows).survey(seed=0).sample
    groups = {(row["source"], row["split"]) for row in sample}
    assert groups == {(row["source"], row["split"]) for row in rows}
    for group in groups:
        there = sum((row["source"], row["split"]) == group for row in rows)
        drawn = sum((row["source"], row["split"]) == group for row in sample)
        assert drawn == min(there, examples.SAMPLE_ROWS)


def test_a_large_corpus_is_thinned_out_evenly(tmp_path: Path) -> None:
    rows = [example(f"{i:016x}", "document", text=f"{i:05d}") for i in range(4000)]
    corpus = Corpus(save(tmp_path / "a.parquet", rows), 20_000, 5_000)
    texts = list(corpus)
    assert texts == list(corpus)
    assert 800 < len(texts) < 1200
    by_quarter = [sum(int(text) // 1000 == quarter for text in texts) for quarter in range(4)]
    assert min(by_quarter) > 180


def test_long_texts_are_cut_before_they_are_kept() -> None:
    assert clip(CHAT, 3)["messages"] == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "goo"}]
    assert clip(TAGGED, 1) == {**TAGGED, "text": "A", "words": ["Ada"], "tags": ["O"]}
    assert clip(CHAT, 100) == CHAT


def test_shards_are_runs_of_row_groups_that_cover_every_row(tmp_path: Path) -> None:
    rows = documents(1000)
    found = save(tmp_path / "a.parquet", rows, 50)
    for n_bytes in (1, 30_000, 10**9):
        shards = found.shards(n_bytes)
        assert [group for shard in shards for group in shard] == list(range(20))
        assert [row for shard in shards for row in found.rows(shard)] == list(found.rows())
    assert [len(found.shards(n)) for n in (1, 10**9)] == [20, 1]
    assert 1 < len(found.shards(30_000)) < 20


def test_an_empty_file_has_no_shard(tmp_path: Path) -> None:
    found = save(tmp_path / "a.parquet", [])
    assert [row for shard in found.shards(10) for row in found.rows(shard)] == []
    assert found.survey(seed=0) == (0, 0, [], [])


@pytest.mark.parametrize(("max_rows", "max_chars"), [(20, 10_000), (1000, 200), (7, 90)])
def test_batches_keep_the_order_and_stay_small(max_rows: int, max_chars: int) -> None:
    rows = documents(500)
    parts = list(batches(rows, max_rows=max_rows, max_chars=max_chars))
    assert [row for part in parts for row in part] == rows
    for part in parts:
        assert len(part) <= max_rows
        assert sum(map(examples.chars, part)) <= max_chars or len(part) == 1
