"""The data stage as a whole, and every bad input it must refuse or account for."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput, BadSetting, NothingToLearn, WyrmlingError
from wyrmling.core.records import EXAMPLE_SCHEMA, LEDGER_SCHEMA
from wyrmling.data import run

MakeProject = Callable[..., Project]
Rows = Callable[[Artifact], list[dict[str, Any]]]

SOURCE = '[data.sources.a]\npath = "{}"\n'
TICKETS = "message,team\n" + "".join(
    f'"Message {n}, about {"cards" if n % 2 else "fees"}",{"ab"[n % 2]}\n' for n in range(60)
)
TICKETS_TOML = SOURCE.format("t.csv") + 'text = "message"\nlabel = "team"\n'


def balanced(figures: dict[str, Any]) -> bool:
    return bool(figures["read"] == figures["kept"] + figures["dropped"] + figures["errors"])


def test_every_row_is_accounted_for_in_ledger_figures_and_examples(
    make_project: MakeProject, make_pdf: Callable[..., bytes], ledger: Rows, examples: Rows
) -> None:
    files = {
        "t.csv": TICKETS + ",a\nMessage 0 about fees,a\nno team,\nask me@x.org,b\n",
        "docs/guide.md": "# Guide\n\nHow to use the card.",
        "docs/page.html": "<html><body><p>Fees are due in May.</p></body></html>",
        "docs/old.pdf": make_pdf(["Printed text", None, ""]),
        "talk.jsonl": '{"question": "How?", "answer": "So."}\n{broken\n{"question": "Why?", "answer": ""}\n',
    }
    sources = TICKETS_TOML + '[data.sources.docs]\npath = "docs"\n[data.sources.talk]\npath = "talk.jsonl"\n'
    done = run.run(make_project(files, sources, task="classify"))
    rows, kept = ledger(done), examples(done)
    figures = done.figures
    assert figures["read"] == len(rows) == 64 + 5 + 3
    assert balanced(figures)
    assert all(balanced(counts) for counts in figures["sources"].values())
    assert figures["by_rule"] == {"empty": 2, "unreadable": 2, "exact_duplicate": 1, "no_answer": 1, "no_label": 1}
    assert sum(figures["by_rule"].values()) == figures["dropped"] + figures["errors"]
    assert [row["row_id"] for row in rows if row["verdict"] in ("kept", "changed")] == [row["row_id"] for row in kept]
    assert len({row["row_id"] for row in rows}) == len(rows)
    errors = {row["origin"]: row["value"] for row in rows if row["verdict"] == "error"}
    assert set(errors) == {"talk.jsonl:2", "docs/old.pdf page 2"}
    assert "not valid JSON" in errors["talk.jsonl:2"]
    assert Counter(row["kind"] for row in kept) == {"labelled": 61, "document": 3, "conversation": 1}
    assert figures["redactions"] == {"EMAIL": 1}
    assert not any("x.org" in str(row) for row in rows)
    assert run.load(done).schema.equals(EXAMPLE_SCHEMA)
    assert json.loads((done.path / "labels.json").read_text()) == {"labels": ["a", "b"], "tags": [], "several": False}
    card = (done.path / "card.md").read_text()
    assert "| **all** | 72 | 65 | 5 | 2 |" in card


def test_the_same_input_gives_the_same_bytes_and_is_reused(make_project: MakeProject) -> None:
    project = make_project({"t.csv": TICKETS}, TICKETS_TOML, task="classify")
    first = run.run(project)
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in first.path.glob("*.[pjm]*")}
    assert run.run(project).reused
    shutil.rmtree(first.path)
    again = run.run(project)
    assert not again.reused
    assert again.path == first.path
    del digests["manifest.json"]
    assert {name: hashlib.sha256((again.path / name).read_bytes()).hexdigest() for name in digests} == digests
    assert set(digests) == {"examples.parquet", "ledger.parquet", "labels.json", "card.md"}


def test_every_example_carries_the_licence_of_its_source(make_project: MakeProject, examples: Rows) -> None:
    sources = SOURCE.format("a.txt") + 'licence = "CC-BY-4.0"\n[data.sources.b]\npath = "b.txt"\n'
    done = run.run(make_project({"a.txt": "one text", "b.txt": "another"}, sources))
    assert {row["text"]: row["licence"] for row in examples(done)} == {"one text": "CC-BY-4.0", "another": None}


def test_changed_files_and_settings_give_another_artifact(make_project: MakeProject) -> None:
    one = run.run(make_project({"t.csv": TICKETS}, TICKETS_TOML, task="classify"))
    two = run.run(make_project({"t.csv": TICKETS + "more,a\n"}, TICKETS_TOML, task="classify"))
    three = run.run(config.load(two.path.parents[2], ["data.split.val=0.3"]))
    four = run.run(config.load(two.path.parents[2], ["serve.port=1", "data.split.val=0.3"]))
    assert len({one.id, two.id, three.id}) == 3
    assert four.id == three.id


def test_shuffled_lines_keep_the_same_texts_ids_and_splits(make_project: MakeProject, examples: Rows) -> None:
    header, *lines = TICKETS.splitlines()
    lines += ["MESSAGE 3 about cards,b", '"Message 4, about fees!",a', "x,b", "X,a"]
    kept = []
    for seed in range(3):
        random.Random(seed).shuffle(lines)
        done = run.run(make_project({"t.csv": "\n".join([header, *lines])}, TICKETS_TOML, task="classify"))
        kept.append({(row["row_id"], row["text"], row["label"], row["split"]) for row in examples(done)})
    assert kept[0] == kept[1] == kept[2]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(
        ["x.csv", "x.jsonl", "x.json", "x.txt", "x.tsv", "x.md", "x.html", "x.pdf", "x.parquet", "x.conll"]
    ),
    st.one_of(
        st.binary(max_size=200),
        st.text(st.sampled_from('a,b"\n\t{}[]:é1 '), max_size=120).map(str.encode),
        st.lists(
            st.fixed_dictionaries({"text": st.one_of(st.text(max_size=9), st.none(), st.integers())}), max_size=9
        ).map(lambda rows: "\n".join(json.dumps(row) for row in rows).encode()),
    ),
)
def test_any_bytes_are_accounted_for_or_refused_with_a_message(
    make_project: MakeProject, name: str, raw: bytes
) -> None:
    project = make_project({name: b"text\n" + raw if name == "x.csv" else raw}, SOURCE.format(name))
    try:
        done = run.run(project)
    except WyrmlingError as error:
        assert error.what
        assert error.where
        assert error.fix
    else:
        assert balanced(done.figures)
        assert done.figures["read"] > 0
        shutil.rmtree(done.path)


def refused(make_project: MakeProject, files: dict[str, str | bytes], sources: str, **options: str) -> WyrmlingError:
    with pytest.raises((BadInput, NothingToLearn, BadSetting)) as error:
        run.run(make_project(files, sources, **options))
    assert error.value.fix
    return error.value


def test_a_missing_file_an_empty_file_and_an_empty_folder_are_named(make_project: MakeProject, tmp_path: Path) -> None:
    error = refused(make_project, {}, SOURCE.format("nowhere.csv"))
    assert "nowhere.csv does not exist" in error.what
    assert "data.sources.a.path" in str(error.where)
    for content in ("", " \n\n"):
        assert (
            "empty.csv: the file is empty"
            in refused(make_project, {"empty.csv": content}, SOURCE.format("empty.csv")).what
        )
    (tmp_path / "folder").mkdir()
    assert "no file matches 'folder'" in refused(make_project, {}, SOURCE.format("folder")).what
    assert "no file matches '*.csvx'" in refused(make_project, {}, SOURCE.format("*.csvx")).what
    only_header = refused(make_project, {"h.csv": "text\n"}, SOURCE.format("h.csv"))
    assert "h.csv: the file holds no record" in only_header.what


@pytest.mark.parametrize("path", [".", "*", "**/*"])
def test_what_wyrmling_keeps_in_the_project_is_no_data(make_project: MakeProject, examples: Any, path: str) -> None:
    project = make_project({"notes/runs.txt": "Some text.", "runs.md": "More."}, SOURCE.format(path))
    first = run.run(project)
    (project.root / "wyrmling.db").write_bytes(b"SQLite format 3")
    again = run.run(project)
    assert again.reused and again.path == first.path
    assert {row["origin"] for row in examples(again)} == {"runs.md", "notes/runs.txt"} - (
        {"notes/runs.txt"} if path == "*" else set()
    )
    named = run.run(make_project({"runs/feedback/said.txt": "Named."}, SOURCE.format("runs/feedback")))
    assert [row["origin"] for row in examples(named)] == ["runs/feedback/said.txt"]


def test_a_csv_without_the_named_column_names_it_and_the_nearest(make_project: MakeProject) -> None:
    error = refused(make_project, {"t.csv": TICKETS}, SOURCE.format("t.csv") + 'text = "mesage"', task="classify")
    assert error.what == "there is no column 'mesage'"
    assert "t.csv" in str(error.where)
    assert 'did you mean text = "message"?' in str(error.fix)
    assert "message, team" in str(error.fix)


def test_a_column_of_a_file_without_columns_is_refused(make_project: MakeProject) -> None:
    error = refused(make_project, {"t.txt": "prose"}, SOURCE.format("t.txt") + 'text = "message"')
    assert "a txt file has no columns" in error.what


def test_a_locked_or_scanned_pdf_is_refused_alone_and_an_error_row_among_others(
    make_project: MakeProject, make_pdf: Callable[..., bytes], ledger: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = make_pdf(["secret"], locked=True)
    error = refused(make_project, {"a.pdf": locked}, SOURCE.format("a.pdf"))
    assert "a.pdf: the PDF is protected by a password" in error.what
    scanned = refused(make_project, {"s.pdf": make_pdf([None, None])}, SOURCE.format("s.pdf"))
    assert "s.pdf page 1: the page is a picture" in scanned.what
    done = run.run(make_project({"d/a.pdf": locked, "d/b.txt": "text", "d/c.txt": "more"}, SOURCE.format("d")))
    assert next((row["origin"], row["verdict"]) for row in ledger(done)) == ("d/a.pdf", "error")
    assert "d/a.pdf: the PDF is protected by a password" in capsys.readouterr().err


def test_a_broken_json_line_is_an_error_row_with_its_number(
    make_project: MakeProject, ledger: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run.run(make_project({"x.jsonl": '{"text": "one"}\n{"text": \n{"text": "two"}\n'}, SOURCE.format("x.jsonl")))
    (bad,) = (row for row in ledger(done) if row["verdict"] == "error")
    assert bad["origin"] == "x.jsonl:2"
    assert "x.jsonl:2: not valid JSON" in capsys.readouterr().err
    error = refused(make_project, {"y.jsonl": "{\n{\n"}, SOURCE.format("y.jsonl"))
    assert "y.jsonl:1: not valid JSON" in error.what


def test_all_labels_equal_is_nothing_to_learn_and_names_the_rules(make_project: MakeProject) -> None:
    text = "message,team\nhello there,a\nHELLO there,a\nbye,a\n"
    error = refused(make_project, {"t.csv": text}, TICKETS_TOML, task="classify")
    assert isinstance(error, NothingToLearn)
    assert "the same label 'a'" in error.what
    assert "exact_duplicate (1)" in error.what


def test_no_row_left_names_the_rules_that_dropped_most(make_project: MakeProject) -> None:
    clean = SOURCE.format("t.csv") + "[data.clean]\nmin_chars = 10\n"
    error = refused(make_project, {"t.csv": "text\nshort\ntiny\nnow\n"}, clean)
    assert isinstance(error, NothingToLearn)
    assert "of 3 rows read none is left" in error.what
    assert "too_short (3)" in error.what


def test_a_task_without_its_kind_of_rows_says_which_settings_are_missing(make_project: MakeProject) -> None:
    error = refused(make_project, {"t.txt": "prose"}, SOURCE.format("t.txt"), task="classify")
    assert "learns from labelled rows" in error.what
    assert "text and label" in str(error.fix)


def test_a_label_seen_once_is_a_warning(make_project: MakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    run.run(make_project({"t.csv": TICKETS + "lonely,rare\n"}, TICKETS_TOML, task="classify"))
    assert "'rare'" in capsys.readouterr().err


def test_unread_formats_say_what_to_do(make_project: MakeProject) -> None:
    for name, raw, advice in [
        ("x.csv", b"SQLite format 3\0" + b"\0" * 99, "url ="),
        ("x.gz", b"\x1f\x8b\x08rest", "broken compressed file"),
        ("x.bin", bytes(range(256)) * 4, "binary"),
        ("x.parquet", b"nothing", "not a readable Parquet"),
    ]:
        assert advice in refused(make_project, {name: raw}, SOURCE.format(name)).what


def test_a_single_document_is_learned_from_and_said_to_leave_nothing_to_test(
    make_project: MakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run.run(make_project({"x.txt": "one document"}, SOURCE.format("x.txt")))
    assert done.figures["splits"] == {"train": 1, "val": 0, "test": 0}
    assert "no document row is left to test on" in capsys.readouterr().err


def test_an_unclear_table_among_other_files_is_an_error_row(make_project: MakeProject, ledger: Rows) -> None:
    files = {"d/a.txt": "one", "d/b.md": "two", "d/c.csv": "x,y\n1,2\n"}
    errors = [row for row in ledger(run.run(make_project(files, SOURCE.format("d")))) if row["verdict"] == "error"]
    assert [row["origin"] for row in errors] == ["d/c.csv"]
    assert "data.sources.a" in errors[0]["value"]


def test_a_wrong_region_and_a_group_column_that_is_nowhere_are_refused(make_project: MakeProject) -> None:
    region = TICKETS_TOML + '[data.clean]\nregion = "UK"\n'
    assert "'UK' is no country" in refused(make_project, {"t.csv": TICKETS}, region, task="classify").what
    group = TICKETS_TOML + '[data.split]\ngroup = "customer"\n'
    assert "'customer'" in refused(make_project, {"t.csv": TICKETS}, group, task="classify").what


def test_columns_that_a_source_keeps_travel_with_its_rows_and_change_nothing_else(
    make_project: MakeProject, examples: Rows
) -> None:
    lines = TICKETS.splitlines()
    wide = [f"{lines[0]},channel", *(f"{line},{('web', 'me@x.org', '')[n % 3]}" for n, line in enumerate(lines[1:]))]
    files = {"t.csv": "\n".join(wide) + "\n"}
    plain, kept = (
        examples(run.run(make_project(files, TICKETS_TOML + more, task="classify")))
        for more in ("", 'keep = ["channel"]\n')
    )
    assert [row | {"kept": None} for row in kept] == plain
    said = {json.loads(row["kept"])["channel"] if row["kept"] else None for row in kept}
    assert said == {"web", "<EMAIL_1>", None}


def test_a_kept_column_that_is_not_there_is_refused(make_project: MakeProject) -> None:
    wide = TICKETS.replace("message,team", "message,team,channel", 1).replace(",a\n", ",a,web\n")
    error = refused(make_project, {"t.csv": wide}, TICKETS_TOML + 'keep = ["chanel"]\n', task="classify")
    assert "there is no column 'chanel'" in error.what and "channel" in (error.fix or "")
    text = SOURCE.format("t.txt") + 'keep = ["channel"]\n'
    assert "a txt file has no columns" in refused(make_project, {"t.txt": "No table."}, text).what


def test_a_kept_column_must_not_be_named_like_a_slice_of_every_row(make_project: MakeProject) -> None:
    with pytest.raises(BadSetting, match="keep can't name 'length'"):
        make_project({"t.csv": TICKETS}, TICKETS_TOML + 'keep = ["length"]\n', task="classify")


def database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table solved (question text, answer text, at timestamp)")
        rows = [(f"Question {n}: what about it?", f"Answer {n}", "2024-01-01 10:00:00") for n in range(30)]
        connection.executemany("insert into solved values (?, ?, ?)", rows)
    connection.close()


SQL = '[data.sources.crm]\nurl = "{}"\nquery = "{}"\n'


def test_a_query_gives_rows_in_any_order_the_same_and_nothing_is_written(
    make_project: MakeProject, examples: Rows, tmp_path: Path
) -> None:
    database(tmp_path / "crm.db")
    before = (tmp_path / "crm.db").read_bytes()
    query = "select question, answer from solved where at > '2023-01-01 00:00:00'"
    first = run.run(make_project({}, SQL.format("sqlite:///crm.db", query), task="chat"))
    other = run.run(make_project({}, SQL.format("sqlite:///crm.db", query + " order by question desc"), task="chat"))
    assert first.figures["kept"] == 30
    ids = [[row["row_id"] for row in examples(done)] for done in (first, other)]
    assert sorted(ids[0]) == sorted(ids[1])
    assert ids[0] != ids[1]
    assert (tmp_path / "crm.db").read_bytes() == before


def test_a_sql_error_has_the_databases_message_and_the_query_but_no_password(
    make_project: MakeProject, tmp_path: Path
) -> None:
    database(tmp_path / "crm.db")
    error = refused(make_project, {}, SQL.format("sqlite:///crm.db", "select missing from solved"), task="chat")
    assert "no such column: missing" in error.what
    assert "select missing from solved" in str(error.where)
    assert "does not exist" in refused(make_project, {}, SQL.format("sqlite:///no.db", "select 1"), task="chat").what
    assert (
        "attempt to write a readonly"
        in refused(make_project, {}, SQL.format("sqlite:///crm.db", "delete from solved"), task="chat").what
    )
    assert "not a database URL" in refused(make_project, {}, SQL.format("crm.db", "select 1"), task="chat").what
    secret = refused(make_project, {}, SQL.format("postgresql://me:s3cret@nowhere.invalid/x", "select 1"), task="chat")
    assert "s3cret" not in str(secret)
    assert (
        "no rows"
        in refused(make_project, {}, SQL.format("sqlite:///crm.db", "select * from solved where 1=0"), task="chat").what
    )


def test_passwords_of_database_urls_are_not_in_the_manifest() -> None:
    raw = {
        "name": "x",
        "objective": {"task": "chat"},
        "data": {"sources": {"crm": {"url": "postgresql://me:s3cret@host/x", "query": "select 1"}}},
    }
    text = json.dumps(run._shaping(config.parse(raw, where="test")))
    assert "s3cret" not in text
    assert "postgresql://me:***@host/x" in text


def test_tagged_words_go_through_whole(make_project: MakeProject, examples: Rows) -> None:
    text = "".join(f"In\tO\nParis{n}\tI-LOC\nmail\tO\na{n}@x.org\tO\n\n" for n in range(20))
    done = run.run(make_project({"x.conll": text}, SOURCE.format("x.conll"), task="tag"))
    for row in examples(done):
        assert row["words"][0::2] == ["In", "mail"]
        assert row["words"][3] == "<EMAIL_1>"
        assert row["tags"] == ["O", "B-LOC", "O", "O"]
        assert row["text"] == " ".join(row["words"])
    assert json.loads((done.path / "labels.json").read_text())["tags"] == ["O", "B-LOC"]


def test_official_test_rows_stay_whatever_the_rules(make_project: MakeProject, examples: Rows) -> None:
    test = "message,team\nhi,a\nhi,a\nmessage 4 about fees,a\n"
    official = '[data.sources.official]\npath = "official.csv"\ntext = "message"\nlabel = "team"\nsplit = "test"\n'
    extra = '[data.clean]\nmin_chars = 5\nprofile = "web"\n'
    done = run.run(
        make_project({"t.csv": TICKETS, "official.csv": test}, TICKETS_TOML + official + extra, task="classify")
    )
    kept = [row["text"] for row in examples(done) if row["split"] == "test"]
    assert kept == ["hi", "hi", "message 4 about fees"]
    assert done.figures["by_rule"] == {"in_test": 1}


def test_a_test_file_is_read_like_the_sources(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(
        {"t.csv": TICKETS, "new.csv": "team,message\na,Hello  a@x.org\nb,\n"}, TICKETS_TOML, task="classify"
    )
    table = run.read_examples(project, tmp_path / "new.csv")
    assert isinstance(table, pa.Table)
    assert table.to_pylist()[0]["text"] == "Hello  <EMAIL_1>"
    assert table["split"].to_pylist() == ["test"]
    with pytest.raises(BadInput, match="no column 'message'"):
        run.read_examples(make_project({"bad.csv": "a,b\n1,2\n"}, TICKETS_TOML, task="classify"), tmp_path / "bad.csv")


def test_schemas_are_the_agreed_ones(make_project: MakeProject) -> None:
    import pyarrow.parquet as pq

    done = run.run(make_project({"t.txt": "a text"}, SOURCE.format("t.txt")))
    assert pq.read_schema(done.path / "examples.parquet").equals(EXAMPLE_SCHEMA)
    assert pq.read_schema(done.path / "ledger.parquet").equals(LEDGER_SCHEMA)


def test_importing_the_stage_loads_nothing_heavy() -> None:
    heavy = ("torch", "sqlalchemy", "ftfy", "phonenumbers", "pypdfium2")
    code = f"import sys, wyrmling.data.run; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
