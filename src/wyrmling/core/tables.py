"""The tables of the project database. What is kept in them is described by the records of `core/store.py`."""

from __future__ import annotations

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
