"""Bytes per token beside GPT-2's vocabulary, whose ids are the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers

from tokenizer.samples import example
from wyrmling.core.records import LEDGER_SCHEMA
from wyrmling.tokenizer import bulk
from wyrmling.tokenizer.efficiency import compare, gpt2, languages_of, lines
from wyrmling.tokenizer.tokenizer import Tokenizer


# From llama.cpp's test vectors, models/ggml-vocab-gpt-2.gguf.inp and .out.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (" Hello, world!", [18435, 11, 995, 0]),
        ("Führer", [37, 9116, 71, 11751]),
        ("\n\n\n", [628, 198]),
        ("\t\n", [197, 198]),
        (" this is 🦙.cpp", [428, 318, 12520, 99, 247, 13, 20322]),
        ("Cửa Việt", [34, 157, 119, 255, 64, 16049, 157, 119, 229, 83]),
        ("    Hello\n    Hello", [220, 220, 220, 18435, 198, 220, 220, 220, 18435]),
        ("333333333", [24840, 2091, 20370]),
    ],
)
def test_gpt2_has_its_own_ids(theirs: tokenizers.Tokenizer, text: str, ids: list[int]) -> None:
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids) == text


ROWS = [
    example("0", "document", text="my card my card", source="a"),
    example("1", "document", "val", text="naïve 🙂", source="a"),
    example(
        "2",
        "conversation",
        source="b",
        messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
    ),
]


@pytest.fixture(scope="module")
def theirs() -> tokenizers.Tokenizer:
    return gpt2()


@pytest.fixture(scope="module")
def found(scratch: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    encoder = bulk.encoder(scratch, tokenizer, [], [])
    return compare(encoder, ROWS, {"0": "en", "1": "fr"})


def test_ratios_are_bytes_over_tokens(
    found: dict[str, Any], tokenizer: Tokenizer, theirs: tokenizers.Tokenizer
) -> None:
    texts = [["my card my card"], ["naïve 🙂"], ["hi", "yo"]]

    def expected(*rows: int) -> dict[str, float]:
        of_rows = [text for row in rows for text in texts[row]]
        n_bytes = sum(len(text.encode()) for text in of_rows)
        own = sum(len(tokenizer.encode(text)) for text in of_rows)
        other = sum(len(theirs.encode(text).ids) for text in of_rows)
        return {"bytes": n_bytes, "own": n_bytes / own, "gpt2": n_bytes / other}

    assert found["all"] == expected(0, 1, 2)
    assert found["split"] == {"train": expected(0, 2), "val": expected(1)}
    assert found["source"] == {"a": expected(0, 1), "b": expected(2)}
    assert found["language"] == {"en": expected(0), "fr": expected(1)}


def test_the_table_names_every_group(found: dict[str, Any]) -> None:
    table = lines(found)
    assert [line[2:16].strip() for line in table[1:]] == [
        "all", "split train", "split val", "source a", "source b", "language en", "language fr",
    ]  # fmt: skip
    assert f"{found['all']['own']:.2f}" in table[1] and f"{found['all']['gpt2']:.2f}" in table[1]


def test_nothing_to_count_is_no_ratio(scratch: Path, tokenizer: Tokenizer) -> None:
    nothing = compare(bulk.encoder(scratch, tokenizer, [], []), [], {})
    assert nothing["all"] == {"bytes": 0, "own": None, "gpt2": None}
    assert lines(nothing)[1].split() == ["all", "-", "-"]


def test_languages_come_from_the_ledger(tmp_path: Path) -> None:
    rows = [
        dict.fromkeys(LEDGER_SCHEMA.names) | {"row_id": str(i), "language": ["en", "de", None][i]} for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA), tmp_path / "ledger.parquet")
    assert languages_of(tmp_path / "ledger.parquet", ["1", "2", "9"]) == {"1": "de"}
    assert languages_of(tmp_path / "none.parquet", ["1"]) == {}
