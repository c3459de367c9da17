"""The tables of the project database, and the records that are read from them and written to them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

# Raised when a table changes; a database with a higher number is of a newer wyrmling.
SCHEMA_VERSION = 1

metadata = sa.MetaData()
about = sa.Table(
    "about", metadata, sa.Column("key", sa.String(64), primary_key=True), sa.Column("value", sa.String(64))
)
models = sa.Table(
    "models",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("verdict", sa.String(32)),
    sa.UniqueConstraint("name", "version"),
    sa.UniqueConstraint("name", "digest"),
)
aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("alias", sa.String(32), primary_key=True),
    sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id"), nullable=False),
)
usage = sa.Table(
    "usage",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created", sa.String(32), nullable=False, index=True),
    sa.Column("key_id", sa.String(32)),
    sa.Column("endpoint", sa.String(64), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("model_digest", sa.String(64), nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("latency_ms", sa.Float, nullable=False),
    sa.Column("wh", sa.Float, nullable=False),
    sa.Column("finish_reason", sa.String(32), nullable=False),
    sa.Column("prompt_sha256", sa.String(64), nullable=False),
    sa.Column("prompt", sa.Text),
    sa.Column("answer", sa.Text),
)
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("answer_id", sa.String(64), sa.ForeignKey("usage.id"), nullable=False, index=True),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("key_id", sa.String(32)),
    sa.Column("model_digest", sa.String(64), nullable=False),
    sa.Column("rating", sa.Integer),
    sa.Column("correction", sa.Text),
    sa.Column("comment", sa.Text),
    sa.Column("status", sa.String(16), nullable=False),
)
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("prefix", sa.String(16), nullable=False, index=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("revoked", sa.String(32)),
)
forecasts = sa.Table(
    "forecasts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("machine", sa.String(200), nullable=False, index=True),
    sa.Column("work", sa.String(200), nullable=False),
    sa.Column("forecast", sa.JSON, nullable=False),
    sa.Column("actual", sa.JSON, nullable=False),
)

Alias = Literal["champion", "challenger", "previous"]
ALIASES: tuple[Alias, ...] = ("champion", "challenger", "previous")


def now() -> str:
    """The time in UTC, ISO 8601, to the microsecond: rows sort by it as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class ModelRecord:
    """One registered version of a model: the folder that holds it and the aliases that point at it."""

    name: str
    version: int
    path: Path
    digest: str
    created: str
    metrics: dict[str, Any]
    verdict: str | None
    aliases: tuple[Alias, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path), "aliases": list(self.aliases)}


@dataclass(frozen=True)
class Usage:
    """One answered request. `id` is the answer's id on the wire; prompt and answer are None unless logging is on."""

    id: str
    endpoint: str
    model: str
    model_digest: str
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    wh: float
    finish_reason: str
    prompt_sha256: str
    key_id: str | None = None
    prompt: str | None = None
    answer: str | None = None
    created: str = field(default_factory=now)


@dataclass(frozen=True)
class Feedback:
    """What a person said about one answer: a rating of -1, 0 or 1, what it should have been, a remark."""

    id: str
    answer_id: str
    model_digest: str
    rating: int | None = None
    correction: str | None = None
    comment: str | None = None
    key_id: str | None = None
    status: str = "new"
    created: str = field(default_factory=now)


@dataclass(frozen=True)
class ApiKey:
    """An API key as it is kept: never the secret itself."""

    id: str
    name: str
    prefix: str
    created: str
    revoked: str | None


@dataclass(frozen=True)
class ForecastRecord:
    """What was forecast for a piece of work on a machine, and what it took."""

    machine: str
    work: str
    forecast: dict[str, Any]
    actual: dict[str, Any]
    created: str
