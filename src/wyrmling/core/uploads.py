"""Uploaded files: their bytes in a folder of the project, each under its id, and their rows in the project database."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from wyrmling.core import tables
from wyrmling.core.store import Store
from wyrmling.core.tables import File, now

Item = TypeVar("Item")


@dataclass(frozen=True)
class Uploads:
    """The files of one project. A key sees its own files; without keys everybody sees everything."""

    store: Store
    folder: Path

    def path(self, file_id: str) -> Path:
        """Where the bytes are. `file_id` comes from a row of the database, never from a request."""
        return self.folder / file_id

    def add(self, file: File) -> None:
        """Keep the row of a file whose bytes are in place."""
        with self.store.writing() as connection:
            connection.execute(tables.files.insert().values(asdict(file)))

    def find(self, file_id: str, key_id: str | None) -> File | None:
        """The file, or None when there is none, it has expired, or it belongs to another key."""
        query = self._visible(key_id).where(tables.files.c.id == file_id)
        with self.store.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else _file(row)

    def same(self, sha256: str, filename: str, purpose: str, key_id: str | None, since: str) -> File | None:
        """A file with these bytes that came in since, for an upload that is sent a second time."""
        files = tables.files.c
        query = self._visible(key_id).where(
            files.sha256 == sha256, files.filename == filename, files.purpose == purpose, files.created >= since
        )
        with self.store.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else _file(row)

    def page(
        self, key_id: str | None, *, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[File], bool]:
        """Some files in the order they came in, and whether there are more. Raises KeyError for an unknown `after`."""
        query = self._visible(key_id)
        if purpose is not None:
            query = query.where(tables.files.c.purpose == purpose)
        with self.store.reading() as connection:
            return page(connection, query, tables.files, after, limit, newest_first=newest_first, of=_file)

    def delete(self, file: File) -> None:
        """Forget the row and remove the bytes."""
        with self.store.writing() as connection:
            connection.execute(tables.files.delete().where(tables.files.c.id == file.id))
        self.path(file.id).unlink(missing_ok=True)

    def delete_expired(self) -> int:
        """How many files were removed because their time is over."""
        with self.store.reading() as connection:
            rows = connection.execute(sa.select(tables.files).where(tables.files.c.expires <= now())).all()
        for row in rows:
            self.delete(_file(row))
        return len(rows)

    def delete_lost(self, older_than_seconds: float) -> int:
        """How many files were removed that no row names: their server was killed while they came in."""
        old = time.time() - older_than_seconds
        paths = [path for path in self.folder.glob("file-*") if path.stat().st_mtime < old]
        with self.store.reading() as connection:
            known = set(connection.execute(sa.select(tables.files.c.id)).scalars()) if paths else set()
        lost = [path for path in paths if path.name not in known]
        for path in lost:
            path.unlink(missing_ok=True)
        return len(lost)

    def _visible(self, key_id: str | None) -> sa.Select[Any]:
        files = tables.files.c
        return sa.select(tables.files).where(
            sa.or_(files.expires.is_(None), files.expires > now()), owned(files.key_id, key_id)
        )


def owned(column: sa.Column[Any], key_id: str | None) -> sa.ColumnElement[bool]:
    """Rows that this key may see: its own. What was made before there were keys is everybody's."""
    return sa.true() if key_id is None else sa.or_(column == key_id, column.is_(None))


def page(
    connection: sa.Connection,
    query: sa.Select[Any],
    table: sa.Table,
    after: str | None,
    limit: int,
    *,
    newest_first: bool,
    of: Callable[[Any], Item],
) -> tuple[list[Item], bool]:
    """One page of a list and whether another follows. Raises KeyError when `after` is no row of the list."""
    number = table.c.number
    if after is not None:
        at = connection.execute(query.where(table.c.id == after)).first()
        if at is None:
            raise KeyError(after)
        query = query.where(number < at.number if newest_first else number > at.number)
    rows = connection.execute(query.order_by(number.desc() if newest_first else number.asc()).limit(limit + 1)).all()
    return [of(row) for row in rows[:limit]], len(rows) > limit


def _file(row: Any) -> File:
    return File(**{name: value for name, value in row._mapping.items() if name != "number"})
