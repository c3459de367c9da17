"""The project database: models and their aliases, usage, feedback, API keys, forecasts.

SQLite in the project folder by default, any SQLAlchemy URL otherwise. Model versions never change once registered;
`champion`, `challenger` and `previous` are names that point at them, so promoting and rolling back move a pointer.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from wyrmling.core import database, tables
from wyrmling.core.artifact import file_digest
from wyrmling.core.errors import BadInput, UsageError
from wyrmling.core.tables import ALIASES, SCOPES, Alias, ApiKey, Feedback, ForecastRecord, ModelRecord, Usage, now

__all__ = ["ApiKey", "Feedback", "ForecastRecord", "ModelRecord", "Store", "Usage", "folder_digest", "now"]


# What every secret begins with.
KEY_PREFIX = "sk-"
# Written once: making a statement costs more than SQLite needs to run it, and these are part of every request.
_NEW_USAGE = tables.usage.insert()
_KEYS_LIKE = sa.select(tables.keys).where(
    tables.keys.c.prefix == sa.bindparam("start"), tables.keys.c.revoked.is_(None)
)
_ANY_KEY = sa.select(tables.keys.c.id).limit(1)


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of every file in `folder`: what a model version is identified by.

    Raises   BadInput when the folder is missing or empty.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise BadInput("there is no model in this folder", where=folder, fix="train one with: wyrmling run")
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return whole.hexdigest()


@dataclass(frozen=True)
class Store:
    """An open project database. Made by `Store.open`; safe to use from several threads."""

    url: str
    _reader: sa.Engine
    _writer: sa.Engine
    _root: Path | None

    @staticmethod
    def open(url: str) -> Store:
        """The database at `url`, with its tables made when they are missing.

        url      a SQLAlchemy URL, such as sqlite:///folder/wyrmling.db
        Raises   BadSetting for a URL that can't be used; BadInput for a database of a newer wyrmling;
                 CorruptArtifact for a file that isn't a database
        """
        reader, writer, root = database.connect(url)
        store = Store(url, reader, writer, root)
        with store.writing() as connection:
            found = database.bring_up_to_date(connection, tables.metadata, tables.about, tables.SCHEMA_VERSION)
            if found > tables.SCHEMA_VERSION:
                raise BadInput(
                    f"the database has schema {found}, but this wyrmling knows schema {tables.SCHEMA_VERSION}",
                    where=store._shown,
                    fix="install the wyrmling that wrote it, or a newer one",
                )
        return store

    def close(self) -> None:
        """Let go of the file or the server connection."""
        self._reader.dispose()

    @property
    def _shown(self) -> str:
        return sa.make_url(self.url).render_as_string(hide_password=True)

    @contextlib.contextmanager
    def writing(self, connection: sa.Connection | None = None) -> Iterator[sa.Connection]:
        """A transaction that writes; it is undone when the block raises.

        connection   one of `connected`; None takes one for this transaction
        """
        with self._errors():
            if connection is None:
                with self._writer.begin() as connection:
                    yield connection
            else:
                with connection.begin():
                    yield connection

    def connected(self) -> sa.Connection:
        """A connection to keep, for a thread that writes often; to be closed by it."""
        with self._errors():
            return self._writer.connect()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self._errors(), self._reader.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise database.explained(error, self._shown) from error

    # models

    def register_model(
        self, name: str, path: Path, digest: str, metrics: dict[str, Any], verdict: str | None = None
    ) -> int:
        """The version number of this model under `name`; the newest one becomes the challenger.

        digest   what `folder_digest(path)` says; a digest that is registered already keeps its version
        verdict  PASS, FAIL or INCONCLUSIVE of its evaluation; None when it has none
        """
        _check_name(name)
        with self.writing() as connection:
            database.alone(connection)
            known = connection.execute(
                sa.select(tables.models.c.id, tables.models.c.version).where(
                    tables.models.c.name == name, tables.models.c.digest == digest
                )
            ).first()
            if known is not None:
                # A rerun may have moved the folder or measured again; the weights are the same.
                connection.execute(
                    tables.models.update()
                    .where(tables.models.c.id == known.id)
                    .values(path=self._stored(path), metrics=_plain(metrics), verdict=verdict)
                )
                return int(known.version)
            newest = connection.execute(
                sa.select(sa.func.max(tables.models.c.version)).where(tables.models.c.name == name)
            ).scalar()
            version = (newest or 0) + 1
            model_id = connection.execute(
                tables.models.insert().values(
                    name=name,
                    version=version,
                    path=self._stored(path),
                    digest=digest,
                    created=now(),
                    metrics=_plain(metrics),
                    verdict=verdict,
                )
            ).inserted_primary_key
            assert model_id is not None  # every dialect of SQLAlchemy reports the key of a single inserted row
            _point(connection, name, "challenger", int(model_id[0]))
            return version

    def resolve(self, reference: str) -> ModelRecord:
        """The model version that a reference names.

        reference  `name` (its champion), `name:3` (version 3), or `name:champion`, `name:challenger`, `name:previous`
        Raises     UsageError when there is no such model, listing what there is
        """
        name, _, which = reference.partition(":")
        which = which or "champion"
        records = [record for record in self.list_models() if record.name == name]
        for record in records:
            if which in record.aliases or which == str(record.version):
                return record
        if not records:
            names = sorted({record.name for record in self.list_models()})
            known = f"the registered models are {', '.join(names)}" if names else "no model is registered yet"
            raise UsageError(
                f"there is no model named {name!r}: {known}", fix="train and register one with: wyrmling run"
            )
        versions = ", ".join(str(record.version) for record in records)
        if which == "champion":
            raise UsageError(
                f"{name} has no champion yet; its versions are {versions}",
                fix=f"promote one with: wyrmling models promote {name}:{records[-1].version}, "
                f"or name it as {name}:{records[-1].version}",
            )
        raise UsageError(
            f"{name} has no version or alias {which!r}; its versions are {versions}",
            fix=f"aliases are {', '.join(ALIASES)}",
        )

    def promote(self, reference: str) -> ModelRecord:
        """The new champion. `name` promotes the challenger, `name:3` version 3; the old champion becomes `previous`.

        Promoting the champion again changes nothing. Raises UsageError when there is no such version.
        """
        name, colon, _ = reference.partition(":")
        has_challenger = any(r.name == name and "challenger" in r.aliases for r in self.list_models())
        target = self.resolve(reference if colon or not has_challenger else f"{name}:challenger")
        with self.writing() as connection:
            database.alone(connection)
            model_id = _id_of(connection, target)
            champion = _pointed(connection, name, "champion")
            if champion != model_id:
                if champion is not None:
                    _point(connection, name, "previous", champion)
                _point(connection, name, "champion", model_id)
            if _pointed(connection, name, "challenger") == model_id:
                _point(connection, name, "challenger", None)
        return self.resolve(f"{name}:{target.version}")

    def rollback(self, name: str) -> ModelRecord:
        """The champion after champion and previous changed places. Raises UsageError when there is no previous one."""
        with self.writing() as connection:
            database.alone(connection)
            champion, previous = _pointed(connection, name, "champion"), _pointed(connection, name, "previous")
            if previous is None or champion is None:
                raise UsageError(
                    f"{name} has no previous champion to go back to", fix="see the versions with: wyrmling models list"
                )
            _point(connection, name, "champion", previous)
            _point(connection, name, "previous", champion)
        return self.resolve(name)

    def challenge(self, reference: str) -> ModelRecord:
        """Make a version the challenger. Raises UsageError when there is no such version."""
        target = self.resolve(reference)
        with self.writing() as connection:
            database.alone(connection)
            _point(connection, target.name, "challenger", _id_of(connection, target))
        return self.resolve(f"{target.name}:{target.version}")

    def withdraw(self, name: str) -> None:
        """Take the alias from the challenger; its version stays."""
        with self.writing() as connection:
            _point(connection, name, "challenger", None)

    def list_models(self) -> list[ModelRecord]:
        """Every registered version, by name and then version."""
        with self.reading() as connection:
            pointers: dict[int, list[Alias]] = {}
            for row in connection.execute(sa.select(tables.aliases)):
                pointers.setdefault(row.model_id, []).append(row.alias)
            rows = connection.execute(
                sa.select(tables.models).order_by(tables.models.c.name, tables.models.c.version)
            ).all()
        return [
            self._record(row, tuple(alias for alias in ALIASES if alias in pointers.get(row.id, ()))) for row in rows
        ]

    def pointed(self, name: str) -> dict[Alias, ModelRecord]:
        """The versions that the aliases of a name point at; quick, for those who look often."""
        query = sa.select(tables.models, tables.aliases.c.alias).join(tables.aliases)
        with self.reading() as connection:
            rows = connection.execute(query.where(tables.aliases.c.name == name)).all()
        return {row.alias: self._record(row, (row.alias,)) for row in rows}

    def _record(self, row: Any, aliases: tuple[Alias, ...]) -> ModelRecord:
        return ModelRecord(
            name=row.name,
            version=row.version,
            path=self._located(row.path),
            digest=row.digest,
            created=row.created,
            metrics=row.metrics,
            verdict=row.verdict,
            aliases=aliases,
        )

    def _stored(self, path: Path) -> str:
        """A path inside the project is kept relative to it, so that the project folder can be moved."""
        absolute = path.resolve()
        if self._root is not None and absolute.is_relative_to(self._root):
            return absolute.relative_to(self._root).as_posix()
        return str(absolute)

    def _located(self, stored: str) -> Path:
        return self._root / stored if self._root is not None else Path(stored)

    # usage and feedback

    def add_usage(self, *answered: Usage, connection: sa.Connection | None = None) -> None:
        """Keep answered requests, all or none. connection: see `writing`."""
        with self.writing(connection) as writing:
            writing.execute(_NEW_USAGE, [dict(vars(usage)) for usage in answered])

    def usage(
        self,
        *,
        since: str | None = None,
        limit: int | None = None,
        digest: str | None = None,
        oldest_first: bool = False,
    ) -> list[Usage]:
        """The answered requests, newest first. `since` is an ISO 8601 time in UTC, `digest` that of a model."""
        created = tables.usage.c.created
        query = sa.select(tables.usage).order_by(created if oldest_first else created.desc(), tables.usage.c.id)
        if since is not None:
            query = query.where(created >= since)
        if digest is not None:
            query = query.where(tables.usage.c.model_digest == digest)
        with self.reading() as connection:
            return [Usage(**row._mapping) for row in connection.execute(query.limit(limit))]

    def find_usage(self, answer_id: str) -> Usage | None:
        """The request that was answered under this id."""
        with self.reading() as connection:
            row = connection.execute(sa.select(tables.usage).where(tables.usage.c.id == answer_id)).first()
        return None if row is None else Usage(**row._mapping)

    def spent(self, key_id: str, since: str) -> float:
        """US dollars that the answers and fine-tuning jobs of a key have cost since an ISO 8601 time in UTC."""
        total = 0.0
        with self.reading() as connection:
            for table in (tables.usage, tables.jobs):
                mine = sa.and_(table.c.key_id == key_id, table.c.created >= since)
                total += connection.execute(sa.select(sa.func.sum(table.c.usd)).where(mine)).scalar() or 0.0
        return total

    def add_feedback(self, feedback: Feedback, *, unless_since: str | None = None) -> Feedback:
        """Keep what a person said about an answer; what is kept.

        unless_since   if the same was said since this time, that is what is kept: the caller may be saying it again
        Raises         BadInput when the answer id is unknown
        """
        with self.writing() as connection:
            if unless_since is not None and (same := _same_feedback(connection, feedback, unless_since)) is not None:
                return same
            if (
                connection.execute(sa.select(tables.usage.c.id).where(tables.usage.c.id == feedback.answer_id)).first()
                is None
            ):
                raise BadInput(f"there is no answer {feedback.answer_id!r}", fix="use the id that came with the answer")
            connection.execute(tables.feedback.insert().values(asdict(feedback)))
        return feedback

    def feedback(self, *, since: str | None = None, limit: int | None = None) -> list[Feedback]:
        """The feedback, newest first."""
        query = sa.select(tables.feedback).order_by(tables.feedback.c.created.desc(), tables.feedback.c.id)
        if since is not None:
            query = query.where(tables.feedback.c.created >= since)
        with self.reading() as connection:
            return [Feedback(**row._mapping) for row in connection.execute(query.limit(limit))]

    # keys

    def create_key(
        self,
        name: str,
        *,
        scopes: Sequence[str] = ("infer", "feedback"),
        expires: str | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        usd_per_month: float | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which is known only now: the database keeps its sha256 and first characters.

        scopes   what it may do: infer, feedback, files, train; admin is all of them
        expires  an ISO 8601 time in UTC from which it opens nothing; the limits: None does not limit
        Raises   UsageError for an unknown scope or a limit that lets nothing through
        """
        if not scopes or not set(scopes) <= set(SCOPES):
            raise UsageError(f"{list(scopes)} are no scopes of a key", fix=f"use some of {', '.join(SCOPES)}")
        for limit in (requests_per_minute, tokens_per_minute, usd_per_month):
            if limit is not None and limit <= 0:
                raise UsageError(f"a limit of {limit} lets nothing through", fix="use a limit above 0, or none")
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            id=f"key-{secrets.token_hex(8)}", name=name, prefix=secret[:10], created=now(), revoked=None,
            scopes=tuple(scope for scope in SCOPES if scope in scopes), expires=expires,
            requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, usd_per_month=usd_per_month,
        )  # fmt: skip
        values = asdict(key) | {"sha256": _sha256(secret), "scopes": " ".join(key.scopes)}
        with self.writing() as connection:
            connection.execute(tables.keys.insert().values(values))
        return key, secret

    def check_key(self, secret: str) -> ApiKey | None:
        """The key this secret belongs to, or None when it is unknown, revoked or expired."""
        if not secret.isascii():
            return None
        digest = _sha256(secret)
        with self.reading() as connection:
            rows = connection.execute(_KEYS_LIKE, {"start": secret[:10]}).all()
        for row in rows:
            if hmac.compare_digest(row.sha256, digest) and (key := _api_key(row)).valid:
                return key
        return None

    def has_keys(self) -> bool:
        """Whether a key was ever made."""
        with self.reading() as connection:
            return connection.execute(_ANY_KEY).first() is not None

    def list_keys(self) -> list[ApiKey]:
        """Every key, revoked ones included, oldest first."""
        with self.reading() as connection:
            return [_api_key(row) for row in connection.execute(sa.select(tables.keys).order_by(tables.keys.c.created))]

    def revoke_key(self, key_id: str) -> ApiKey:
        """The key, which no longer opens anything. Raises UsageError when there is no such key."""
        with self.writing() as connection:
            connection.execute(
                tables.keys.update()
                .where(tables.keys.c.id == key_id, tables.keys.c.revoked.is_(None))
                .values(revoked=now())
            )
            row = connection.execute(sa.select(tables.keys).where(tables.keys.c.id == key_id)).first()
        if row is None:
            raise UsageError(f"there is no key {key_id!r}", fix=f"the keys are {[key.id for key in self.list_keys()]}")
        return _api_key(row)

    # forecasts

    def save_forecast(self, machine: str, work: str, forecast: dict[str, Any], actual: dict[str, Any]) -> None:
        """Keep what was forecast beside what happened, so that the next forecast on this machine can be corrected."""
        with self.writing() as connection:
            connection.execute(
                tables.forecasts.insert().values(
                    created=now(), machine=machine, work=work, forecast=_plain(forecast), actual=_plain(actual)
                )
            )

    def forecasts(self, machine: str) -> list[ForecastRecord]:
        """The forecasts made on `machine` and what happened, oldest first."""
        query = sa.select(tables.forecasts).where(tables.forecasts.c.machine == machine).order_by(tables.forecasts.c.id)
        with self.reading() as connection:
            return [
                ForecastRecord(row.machine, row.work, row.forecast, row.actual, row.created)
                for row in connection.execute(query)
            ]


def _same_feedback(connection: sa.Connection, feedback: Feedback, since: str) -> Feedback | None:
    columns = tables.feedback.c
    names = ("rating", "correction", "comment", "key_id", "user", "item", "prompt", "preferred_over")
    same = [columns[name].is_not_distinct_from(getattr(feedback, name)) for name in names]
    query = sa.select(tables.feedback).where(columns.answer_id == feedback.answer_id, columns.created >= since, *same)
    row = connection.execute(query).first()
    return None if row is None else Feedback(**row._mapping)


def _check_name(name: str) -> None:
    if not name or ":" in name or "/" in name:
        raise UsageError(f"{name!r} can't be a model's name", fix="use letters, digits, '.', '_' and '-'")


def _id_of(connection: sa.Connection, record: ModelRecord) -> int:
    query = sa.select(tables.models.c.id).where(
        tables.models.c.name == record.name, tables.models.c.version == record.version
    )
    return int(connection.execute(query).scalar_one())


def _pointed(connection: sa.Connection, name: str, alias: Alias) -> int | None:
    query = sa.select(tables.aliases.c.model_id).where(tables.aliases.c.name == name, tables.aliases.c.alias == alias)
    return connection.execute(query).scalar()


def _point(connection: sa.Connection, name: str, alias: Alias, model_id: int | None) -> None:
    """Let the alias point at the model, or at nothing."""
    connection.execute(tables.aliases.delete().where(tables.aliases.c.name == name, tables.aliases.c.alias == alias))
    if model_id is not None:
        connection.execute(tables.aliases.insert().values(name=name, alias=alias, model_id=model_id))


def _api_key(row: Any) -> ApiKey:
    values = {name: value for name, value in row._mapping.items() if name != "sha256"}
    return ApiKey(**values | {"scopes": tuple(row.scopes.split())})


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """The value as JSON keeps it: numpy numbers and paths become plain ones, so no database driver meets them."""
    plain: dict[str, Any] = json.loads(json.dumps(value, default=_as_json))
    return plain


def _as_json(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
