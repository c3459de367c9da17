from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrmling.config import Source
from wyrmling.data.content import Content
from wyrmling.data.tables import Item, Problem, read_csv, read_json, read_jsonl, read_parquet

CSV = Source(path="x.csv")
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def values(found: Any) -> list[Any]:
    return [item.value for item in found]


@given(st.lists(st.tuples(CELL, CELL, CELL), max_size=20))
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str, str]]) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["a", "b", "c"])
    writer.writerows(rows)
    kept = [dict(zip("abc", row, strict=True)) for row in rows if any(cell.strip() for cell in row)]
    assert values(read_csv(out.getvalue(), Source(path="x.csv", delimiter=","))) == kept


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(delimiter: str) -> None:
    text = f'id{delimiter}text\n1{delimiter}"one, two; three"\n2{delimiter}four\n'
    assert values(read_csv(text, CSV)) == [{"id": "1", "text": "one, two; three"}, {"id": "2", "text": "four"}]


def test_the_place_of_a_row_is_the_line_it_starts_in() -> None:
    found = list(read_csv('text\n"one\ntwo"\n\nthree\n', Source(path="x.csv", delimiter=",")))
    assert [(item.place, item.value) for item in found if isinstance(item, Item)] == [
        (":2", {"text": "one\ntwo"}),
        (":5", {"text": "three"}),
    ]


def test_rows_with_too_many_cells_and_open_quotes_are_problems_not_silence() -> None:
    found = list(read_csv('a,b\n1,2\n1,2,3\n4,"open\n5,6\n', CSV))
    assert found[1] == Problem(":3", "3 cells, but the header has 2 columns", (3, 3))
    assert found[2] == Problem(":4", "a quote opened here is never closed; it takes in lines 4 to 5", (4, 5))
    assert len(found) == 3


def test_stray_quotes_in_tab_separated_text_swallow_no_line() -> None:
    text = 'ham\tHe said "hi\nspam\t"Win now\nham\tok\n'
    source = Source(path="x.tsv", text="2", label="1")
    assert values(read_csv(text, source, tabs=True)) == [
        {"1": "ham", "2": 'He said "hi'},
        {"1": "spam", "2": '"Win now'},
        {"1": "ham", "2": "ok"},
    ]


def test_quoted_cells_in_tab_separated_text_are_unquoted() -> None:
    assert values(read_csv('a\tb\n"x ""y"" z"\t1\n', CSV, tabs=True)) == [{"a": 'x "y" z', "b": "1"}]


def test_columns_without_a_name_or_with_the_same_name_stay_apart() -> None:
    assert values(read_csv(",a,a\n1,2,3\n", CSV)) == [{"column 1": "1", "a": "2", "a (3)": "3"}]


def test_a_broken_json_line_is_named_by_its_number_and_the_others_are_read() -> None:
    text = '{"text": "a"}\n{"text": "b"\n\n"plain"\n[1]\n{"text": "line\u2028separator"}\n'
    found = list(read_jsonl(text))
    assert [item.value for item in found if isinstance(item, Item)] == [
        {"text": "a"},
        "plain",
        {"text": "line\u2028separator"},
    ]
    problems = [item for item in found if isinstance(item, Problem)]
    assert problems[0].place == ":2"
    assert "not valid JSON" in problems[0].message
    assert problems[1] == Problem(":5", "a JSON list, where an object or a string is expected", (5, 5))


def test_absurd_json_is_a_problem_not_a_crash() -> None:
    found = list(read_jsonl("[" * 100_000 + "\n" + "1" * 5000 + "\n"))
    assert all(isinstance(item, Problem) for item in found)
    assert len(found) == 2


@pytest.mark.parametrize(
    "value",
    [[{"text": "a"}, {"text": "b"}], {"version": 1, "data": [{"text": "a"}, {"text": "b"}]}],
)
def test_json_arrays_and_objects_around_one_array_are_read(value: Any) -> None:
    assert list(read_json(json.dumps(value))) == [Item(" item 1", {"text": "a"}), Item(" item 2", {"text": "b"})]


def test_json_that_is_one_conversation_or_json_lines_is_read_as_such() -> None:
    one = {"messages": [{"role": "user", "content": "hi"}]}
    assert values(read_json(json.dumps(one))) == [one]
    assert values(read_json('{"text": "a"}\n{"text": "b"}\n')) == [{"text": "a"}, {"text": "b"}]
    (broken,) = read_json('[{"text": "a"},\n {"text": ')
    assert isinstance(broken, Problem)
    assert broken.place == ":2"


def test_parquet_rows_come_back_and_a_broken_file_is_a_problem(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", None], "n": [1, 2]}), tmp_path / "x.parquet")
    assert list(read_parquet(Content("x.parquet", tmp_path / "x.parquet"))) == [
        Item(" row 1", {"text": "a", "n": 1}),
        Item(" row 2", {"text": None, "n": 2}),
    ]
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    (problem,) = read_parquet(Content("x.parquet", tmp_path / "x.parquet"))
    assert isinstance(problem, Problem)
    assert "not a readable Parquet file" in problem.message


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_readers(raw: bytes) -> None:
    text = raw.decode("latin-1")
    for found in (read_csv(text, CSV), read_csv(text, CSV, tabs=True), read_json(text), read_jsonl(text)):
        assert all(isinstance(item, (Item, Problem)) for item in found)
