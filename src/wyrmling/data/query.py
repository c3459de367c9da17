"""Rows of a database query, through SQLAlchemy: any database it has a driver for. Read only, nothing is committed."""

from __future__ import annotations

import json
import re
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wyrmling.config import Source
from wyrmling.core.errors import BadInput, BadSetting

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

FETCHED_ROWS = 1_000


def read_query(name: str, source: Source, root: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns and rows of the source's query.

    Rows come in the query's order; without an ORDER BY, which leaves the order to the database, they are sorted.
    Raises   BadSetting for a URL that is none; BadInput with the database's own message, the query and no password.
    """
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    where = f"data.sources.{name}"
    assert source.url is not None and source.query is not None
    try:
        url = sqlalchemy.make_url(source.url)
    except SQLAlchemyError as error:
        raise BadSetting(
            "the url is not a database URL", where=f"{where}.url", fix="for example sqlite:///crm.db"
        ) from error
    try:
        engine = _engine(url, root, where)
        with engine.connect() as connection:
            # Only PostgreSQL knows the second; SQLite is opened read only, and nothing is ever committed.
            connection = connection.execution_options(yield_per=FETCHED_ROWS, postgresql_readonly=True)
            # In text() a colon starts a parameter; a query from the project file has none.
            result = connection.execute(sqlalchemy.text(source.query.replace(":", "\\:")))
            columns = list(result.keys())
            rows = [dict(zip(columns, map(_plain, values), strict=True)) for values in result]
        engine.dispose()
    except SQLAlchemyError as error:
        raise _refused(error, url, source.query, where) from error
    except ImportError as error:
        raise BadInput(
            f"the driver for {url.drivername} is missing: {error.name}",
            where=f"{where}.url",
            fix=f"install it in the same environment: pip install {_package(url, error)}",
        ) from error
    if len(set(columns)) < len(columns):
        twice = sorted({c for c in columns if columns.count(c) > 1})
        raise BadInput(f"two columns are named {twice[0]!r}", where=f"{where}.query", fix="rename one with AS")
    if not re.search(r"\border\s+by\b", source.query, re.IGNORECASE):
        rows.sort(key=lambda row: json.dumps(row, default=str, ensure_ascii=False))
    return columns, rows


def _engine(url: URL, root: Path, where: str) -> Engine:
    import sqlalchemy

    if not url.drivername.startswith("sqlite") or not url.database or url.database == ":memory:":
        return sqlalchemy.create_engine(url)
    path = root / url.database
    # SQLite would make an empty database of a missing file.
    if not path.is_file():
        raise BadInput(f"the database {url.database} does not exist", where=f"{where}.url", fix="correct the path")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{quote(path.as_posix())}?mode=ro", uri=True, check_same_thread=False)
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        return connection

    return sqlalchemy.create_engine("sqlite://", creator=connect)


def _refused(error: Exception, url: URL, query: str, where: str) -> BadInput:
    from sqlalchemy.exc import DBAPIError

    message = str(getattr(error, "orig", None) or error).strip()
    if url.password:
        message = message.replace(str(url.password), "***")
    fix = "correct the query or the URL; the query can be tried in the database's own shell"
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        message = f"{message} (the connection was lost while the rows were read)"
        fix = "run the same command again; ask whoever runs the database when it goes on"
    return BadInput(
        f"the database says: {message}",
        where=f"{where}, {url.render_as_string(hide_password=True)}, query: {query.strip()}",
        fix=fix,
    )


def _package(url: URL, error: ImportError) -> str:
    return "'wyrmling[postgres]'" if url.get_backend_name() == "postgresql" else str(error.name)


def _plain(value: Any) -> Any:
    """Dates and UUIDs as text; numbers, text and bytes as they are; decimals as numbers that are written the same."""
    if isinstance(value, Decimal) and value.is_finite():
        number = int(value) if value == value.to_integral_value() else float(value)
        return number if Decimal(repr(number)) == value else str(value)
    return value if value is None or isinstance(value, (str, int, float, bytes, list, dict)) else str(value)
