"""A query of PostgreSQL, asked of a real server, which the fixture `postgres` starts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import URL

from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput
from wyrmling.data import run
from wyrmling.data.origins import find_origin
from wyrmling.data.query import read_query

SCHEMA = """
create table solved (id integer, question text, answer text, hours numeric(8, 2), day date, score real);
"""
ROWS = [
    (1, "Where is my card: lost?", "In the post – it takes three days.", "1.50", "2026-05-01", 0.25),
    (2, "Warum ist die Gebühr so hoch?", "Weil sie jährlich ist.", "2.00", "2026-04-30", 0.5),
    (3, "Can I pay abroad?", None, None, None, None),
    (4, 'Line\nbreak, "quotes", 100 %', "Yes.", "12345.67", "2025-12-31", 1.0),
]


@pytest.fixture
def solved(postgres: URL, make_project: Callable[..., Project]) -> Iterator[tuple[Project, URL]]:
    """A project whose one source is a table of PostgreSQL, and the same table in crm.db."""
    project = make_project({"crm.db": b""}, SOURCE.format(url=postgres.render_as_string(hide_password=False)))
    with sqlite3.connect(project.root / "crm.db") as lite:
        lite.executescript(SCHEMA)
        lite.executemany("insert into solved values (?, ?, ?, ?, ?, ?)", ROWS)
    engine = sqlalchemy.create_engine(postgres)
    with engine.begin() as connection:
        connection.exec_driver_sql("drop table if exists solved")
        connection.exec_driver_sql("create sequence if not exists counted")
        connection.exec_driver_sql(SCHEMA)
        for row in ROWS:
            connection.exec_driver_sql("insert into solved values (%s, %s, %s, %s, %s, %s)", row)
    yield project, postgres
    engine.dispose()


SOURCE = """
[data.sources.crm]
url = "{url}"
query = "select * from solved"
prompt = "question"
response = "answer"
"""


def asked(project: Project, url: str, query: str) -> tuple[list[str], list[dict[str, Any]]]:
    source = project.settings.data.sources["crm"].model_copy(update={"url": url, "query": query})
    return read_query("crm", source, project.root)


@pytest.mark.parametrize("query", ["select * from solved", "select * from solved order by hours desc nulls last, id"])
def test_postgresql_and_sqlite_give_the_same_rows(solved: tuple[Project, URL], query: str) -> None:
    project, url = solved
    ours = asked(project, url.render_as_string(hide_password=False), query)
    assert ours == asked(project, "sqlite:///crm.db", query)
    assert len(ours[1]) == len(ROWS)
    assert {type(row["hours"]) for row in ours[1]} == {float, int, type(None)}


def test_a_table_of_postgresql_becomes_conversations_and_a_change_in_it_a_new_artifact(
    solved: tuple[Project, URL], examples: Callable[[Artifact], list[dict[str, Any]]]
) -> None:
    project, url = solved
    first = run.run(project)
    assert first.manifest["figures"]["by_rule"] == {"no_answer": 1}
    assert {row["messages"][0]["content"] for row in examples(first)} == {row[1] for row in ROWS if row[2]}
    assert url.password is not None
    assert url.password not in (first.path / "manifest.json").read_text()
    assert run.run(project).reused
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("update solved set answer = 'Yes, everywhere.' where id = 3")
    engine.dispose()
    assert run.run(project).id != first.id


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select nothing from solved", 'column "nothing" does not exist'),
        ("select question, answer as question from solved", "two columns are named 'question'"),
        ("insert into solved (id) values (9)", "syntax error"),
        ("select nextval('counted') as text", "read-only transaction"),
    ],
)
def test_what_the_server_refuses_is_said_without_the_password(
    solved: tuple[Project, URL], query: str, message: str
) -> None:
    project, url = solved
    with pytest.raises(BadInput, match=message) as raised:
        asked(project, url.render_as_string(hide_password=False), query)
    assert str(url.password) not in str(raised.value)


def test_a_connection_that_is_lost_while_rows_are_read_is_a_clear_error(solved: tuple[Project, URL]) -> None:
    project, url = solved
    query = """
        select n as id, repeat('text ', 50) as text,
               case when n = 4000 then pg_terminate_backend(pg_backend_pid()) end as ended
        from generate_series(1, 8000) as n
    """
    with pytest.raises(BadInput, match="the connection was lost while the rows were read") as raised:
        asked(project, url.render_as_string(hide_password=False), query)
    assert "data.sources.crm" in str(raised.value.where)
    assert "run the same command again" in str(raised.value.fix)


def test_a_server_that_does_not_answer_is_named_without_the_password(solved: tuple[Project, URL]) -> None:
    project, url = solved
    gone = url.set(port=1).render_as_string(hide_password=False)
    source = project.settings.data.sources["crm"].model_copy(update={"url": gone})
    with pytest.raises(BadInput, match="the database says") as raised:
        find_origin("crm", source, project.root)
    assert str(url.password) not in str(raised.value)
