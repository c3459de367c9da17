"""The connection behind the project database: what SQLite needs to be shared, and its errors in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, NoSuchModuleError, SQLAlchemyError

from wyrmling.core.errors import BadInput, BadSetting, CorruptArtifact

# A writer waits this long for another process to finish its transaction.
BUSY_MILLISECONDS = 10_000
# Any number that no other program of the same PostgreSQL database locks.
LOCK = 0x3779726D


def connect(url: str) -> tuple[sa.Engine, sa.Engine, Path | None]:
    """The engine for reading, the same one for writing, and the folder of a SQLite file."""
    try:
        parsed = sa.make_url(url)
        engine = sa.create_engine(parsed)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise BadSetting(
            f"database: this address can't be used: {error}",
            where="database",
            fix="write a SQLAlchemy URL such as sqlite:///wyrmling.db, and install the driver it names",
        ) from error
    if parsed.get_backend_name() != "sqlite":
        return engine, engine, None
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    root = Path(parsed.database).resolve().parent if parsed.database and parsed.database != ":memory:" else None
    if root is not None and not root.is_dir():
        raise BadSetting(
            f"database: the folder {root} does not exist", where="database", fix=f"make it: mkdir -p {root}"
        )
    return engine, engine.execution_options(writes=True), root


def _prepare_sqlite(connection: Any, _: object) -> None:
    # The driver must not begin transactions by itself; `_begin_sqlite` says when.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"pragma busy_timeout = {BUSY_MILLISECONDS}")
    cursor.execute("pragma journal_mode = wal")
    cursor.execute("pragma synchronous = normal")
    cursor.execute("pragma foreign_keys = on")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes the lock at once: asking for it after a read fails instead of waiting.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("begin immediate" if writes else "begin")


def explained(error: SQLAlchemyError, where: str) -> Exception:
    reason = str(getattr(error, "orig", None) or error)
    if "not a database" in reason or "malformed" in reason:
        return CorruptArtifact(
            f"the project database can't be read: {reason}",
            where=where,
            fix="restore it from a backup, or move it away",
        )
    if isinstance(error, (DatabaseError, InterfaceError)) and "locked" in reason:
        return BadInput(
            "another process keeps the project database locked", where=where, fix="stop that process and try again"
        )
    return BadInput(
        f"the project database refused: {reason}", where=where, fix="check the address, the disk and the permissions"
    )


def alone(connection: sa.Connection) -> None:
    """Until this transaction ends no other may do such work. On SQLite a transaction that writes is alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def bring_up_to_date(connection: sa.Connection, metadata: sa.MetaData, about: sa.Table, version: int) -> int:
    """Make the tables and columns that are missing; the schema the database had, or `version` for a new one.

    A database of a later version is left as it is.
    """
    alone(connection)
    inspector = sa.inspect(connection)
    known = set(inspector.get_table_names())
    marked = sa.select(about.c.value).where(about.c.key == "schema_version")
    found = connection.execute(marked).scalar() if about.name in known else None
    had = version if found is None else int(found)
    if had > version:
        return had
    if had < version:
        for table in metadata.sorted_tables:
            if table.name in known:
                _add_columns(connection, table, {column["name"] for column in inspector.get_columns(table.name)})
    metadata.create_all(connection)
    if found is None:
        connection.execute(about.insert().values(key="schema_version", value=str(version)))
    elif had < version:
        connection.execute(about.update().where(about.c.key == "schema_version").values(value=str(version)))
    return had


def _add_columns(connection: sa.Connection, table: sa.Table, known: set[str]) -> None:
    name = connection.dialect.identifier_preparer.format_table(table)
    for column in table.columns:
        if column.name not in known:
            definition = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
            connection.execute(sa.text(f"ALTER TABLE {name} ADD COLUMN {definition}"))
    for index in table.indexes:
        index.create(connection, checkfirst=True)
