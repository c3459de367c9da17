"""The tables of the project database, and the records that are read from them and written to them.

Later versions only add tables and columns; a column added to an older table is nullable or has a default in the
database.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import sqlalchemy as sa

from wyrmling.core.resolve import is_remote

# Raised when a table changes; a database with a higher number is of a newer wyrmling.
SCHEMA_VERSION = 3

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
    sa.Column("usd", sa.Float, nullable=False, server_default="0"),
    sa.Column("user", sa.String(64), index=True),
    sa.Column("items", sa.Integer, nullable=False, server_default="1"),
    sa.Column("chars", sa.Integer),
    sa.Column("labels", sa.JSON(none_as_null=True)),
    sa.Column("confidence", sa.Float),
    sa.Column("formatted", sa.Boolean),
    sa.Column("sketch", sa.LargeBinary),
    sa.Index("usage_of_key", "key_id", "created"),
    sa.Index("usage_of_model", "model_digest", "created"),
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
    sa.Column("user", sa.String(64), index=True),
    sa.Column("item", sa.Integer, nullable=False, server_default="0"),
    sa.Column("prompt", sa.Text),
    sa.Column("preferred_over", sa.String(64)),
    sa.Column("reviewed", sa.String(32)),
    sa.Column("used_in", sa.String(32)),
    sa.Index("feedback_by_status", "status", "created"),
)
# Only ever added to: why each challenger took over, or did not.
decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("name", sa.String(200), nullable=False, index=True),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("champion", sa.Integer),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("lines", sa.JSON, nullable=False),
    sa.Column("used", sa.String(32)),
)
drift = sa.Table(
    "drift",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("report", sa.JSON, nullable=False),
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
    # Keys made before there were scopes could ask and rate.
    sa.Column("scopes", sa.String(100), nullable=False, server_default="infer feedback"),
    sa.Column("expires", sa.String(32)),
    sa.Column("requests_per_minute", sa.Integer),
    sa.Column("tokens_per_minute", sa.Integer),
    sa.Column("usd_per_month", sa.Float),
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

files = sa.Table(
    "files",
    metadata,
    # Files are listed in the order they came in, which their times may not tell.
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("key_id", sa.String(32)),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("expires", sa.String(32)),
)
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("key_id", sa.String(32)),
    sa.Column("state", sa.String(32), nullable=False, index=True),
    sa.Column("wanted", sa.String(16), nullable=False),
    sa.Column("worker", sa.String(64)),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("asked", sa.JSON, nullable=False),
    sa.Column("base", sa.Text, nullable=False),
    sa.Column("finished", sa.String(32)),
    sa.Column("estimated_finish", sa.String(32)),
    sa.Column("fine_tuned_model", sa.String(300), index=True),
    sa.Column("registered", sa.String(250)),
    sa.Column("trained_tokens", sa.BigInteger),
    sa.Column("result_files", sa.JSON, nullable=False),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("usd", sa.Float, nullable=False),
    sa.Column("wh", sa.Float, nullable=False),
)
job_events = sa.Table(
    "job_events",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False, index=True),
    sa.Column("created", sa.String(32), nullable=False),
    # message and metrics are events; a checkpoint is listed apart.
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("level", sa.String(8), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("data", sa.JSON(none_as_null=True)),
)

ReviewStatus = Literal["new", "accepted", "rejected"]
Alias = Literal["champion", "challenger", "previous"]
Scope = Literal["infer", "feedback", "files", "train", "admin"]
JobState = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
Wanted = Literal["run", "pause", "cancel"]
EventType = Literal["message", "metrics", "checkpoint"]
Level = Literal["info", "warn", "error"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
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

    @property
    def remote(self) -> bool:
        """Whether the model is behind an API: its folder says where."""
        return is_remote(self.path)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path), "aliases": list(self.aliases), "remote": self.remote}


@dataclass(frozen=True)
class Usage:
    """One answered request. `id` is the answer's id on the wire; prompt and answer are None unless logging is on.

    prompt      JSON of what was asked: a text, a list of texts or words, messages
    user        the pseudonym of the end user that the request named
    items       texts that were labelled, or answers that one prompt got
    chars       characters of the prompt
    labels      of a classifier: the label of each text; confidence is the mean of their probabilities
    formatted   whether the answer had the form that was demanded; None when none was
    sketch      hashed words of the prompt, see feedback.sketches
    """

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
    usd: float = 0.0
    user: str | None = None
    items: int = 1
    chars: int | None = None
    labels: list[str] | None = None
    confidence: float | None = None
    formatted: bool | None = None
    sketch: bytes | None = None
    created: str = field(default_factory=now)


@dataclass(frozen=True)
class Feedback:
    """What a person said about one answer: a rating of -1, 0 or 1, what it should have been, a remark.

    item            which text of the request, counted from 0
    prompt          JSON of what was asked, where the rater sent it along and its hash was right
    preferred_over  the id of another answer to the same prompt, which is worse
    used_in         the feedback artifact of the last training that learned from it
    """

    id: str
    answer_id: str
    model_digest: str
    rating: int | None = None
    correction: str | None = None
    comment: str | None = None
    key_id: str | None = None
    status: ReviewStatus = "new"
    user: str | None = None
    item: int = 0
    prompt: str | None = None
    preferred_over: str | None = None
    reviewed: str | None = None
    used_in: str | None = None
    created: str = field(default_factory=now)


@dataclass(frozen=True)
class Decided:
    """A decision about a challenger, as it is kept: PROMOTE, HOLD or INCONCLUSIVE, and the reasons.

    champion  the version it was compared with; None when there was none
    used      the feedback artifact it had learned from
    """

    name: str
    verdict: str
    version: int
    champion: int | None
    why: str
    lines: list[str]
    used: str | None = None
    created: str = field(default_factory=now)


@dataclass(frozen=True)
class ApiKey:
    """An API key as it is kept: never the secret itself. A limit that is None does not limit."""

    id: str
    name: str
    prefix: str
    created: str
    revoked: str | None
    scopes: tuple[Scope, ...] = ("infer", "feedback")
    expires: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    usd_per_month: float | None = None

    @property
    def valid(self) -> bool:
        return self.revoked is None and (self.expires is None or self.expires > now())

    def allows(self, scope: Scope) -> bool:
        """Whether this key may do such a thing; admin may do everything."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True)
class File:
    """An uploaded file; its bytes lie under its id. It is gone after `expires`, where that is set."""

    id: str
    key_id: str | None
    filename: str
    purpose: str
    bytes: int
    sha256: str
    expires: str | None = None
    created: str = field(default_factory=now)


@dataclass(frozen=True)
class Job:
    """A fine-tuning job.

    wanted      what its owner wants of it: run, pause or cancel
    worker      the process that does it, as pid:start time; None before it began and while it is paused
    attempts    how often a worker took it up
    asked       the request that made it
    base        the model folder it starts from
    fine_tuned_model   the name that the new model answers to; None until it succeeded
    registered  the version in the registry, as name:version
    """

    id: str
    key_id: str | None
    asked: dict[str, Any]
    base: str
    state: JobState = "validating_files"
    wanted: Wanted = "run"
    worker: str | None = None
    attempts: int = 0
    finished: str | None = None
    estimated_finish: str | None = None
    fine_tuned_model: str | None = None
    registered: str | None = None
    trained_tokens: int | None = None
    result_files: tuple[str, ...] = ()
    error: dict[str, Any] | None = None
    usd: float = 0.0
    wh: float = 0.0
    created: str = field(default_factory=now)

    @property
    def over(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class JobEvent:
    """Something a job reported: a message, metrics of a step, or a checkpoint."""

    id: str
    job_id: str
    type: EventType
    level: Level
    message: str
    data: dict[str, Any] | None = None
    created: str = field(default_factory=now)


@dataclass(frozen=True)
class ForecastRecord:
    """What was forecast for a piece of work on a machine, and what it took."""

    machine: str
    work: str
    forecast: dict[str, Any]
    actual: dict[str, Any]
    created: str
