"""Fine-tuning jobs in the project database. The server, the workers and the command line meet here and nowhere else.

A worker owns a job while `worker` names it: it takes it over with a compare-and-set, so that two never do.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from wyrmling.core import tables
from wyrmling.core.store import Store
from wyrmling.core.tables import EventType, Job, JobEvent, Level, Wanted
from wyrmling.core.uploads import owned, page

OVER = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Jobs:
    """The jobs of one project. A key sees its own jobs; without keys everybody sees everything."""

    store: Store

    def add(self, job: Job) -> None:
        """Keep a new job."""
        with self.store.writing() as connection:
            connection.execute(tables.jobs.insert().values(_row(asdict(job))))

    def find(self, job_id: str, key_id: str | None = None) -> Job | None:
        """The job, or None when there is none or it belongs to another key."""
        query = sa.select(tables.jobs).where(tables.jobs.c.id == job_id, owned(tables.jobs.c.key_id, key_id))
        with self.store.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else _job(row)

    def of_model(self, model: str, key_id: str | None) -> Job | None:
        """The succeeded job whose model answers to this name; None for no such job or another key's."""
        jobs = tables.jobs.c
        query = sa.select(tables.jobs).where(jobs.fine_tuned_model == model, owned(jobs.key_id, key_id))
        with self.store.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else _job(row)

    def models(self, key_id: str | None) -> list[Job]:
        """The succeeded jobs whose models answer, oldest first."""
        jobs = tables.jobs.c
        query = sa.select(tables.jobs).where(jobs.fine_tuned_model.is_not(None), owned(jobs.key_id, key_id))
        with self.store.reading() as connection:
            return [_job(row) for row in connection.execute(query.order_by(jobs.number))]

    def unfinished(self) -> list[Job]:
        """The jobs of all keys that are not over, oldest first."""
        query = sa.select(tables.jobs).where(tables.jobs.c.state.not_in(OVER)).order_by(tables.jobs.c.number)
        with self.store.reading() as connection:
            return [_job(row) for row in connection.execute(query)]

    def since(self, key_id: str | None, created: str) -> list[Job]:
        """The jobs of a key that were made since, oldest first."""
        jobs = tables.jobs.c
        query = sa.select(tables.jobs).where(jobs.created >= created, owned(jobs.key_id, key_id)).order_by(jobs.number)
        with self.store.reading() as connection:
            return [_job(row) for row in connection.execute(query)]

    def page(
        self, key_id: str | None, *, after: str | None, limit: int, metadata: dict[str, str]
    ) -> tuple[list[Job], bool]:
        """Some jobs, newest first, and whether there are more. Raises KeyError for an unknown `after`."""
        query = sa.select(tables.jobs).where(owned(tables.jobs.c.key_id, key_id))
        for name, value in metadata.items():
            query = query.where(tables.jobs.c.asked[("metadata", name)].as_string() == value)
        with self.store.reading() as connection:
            return page(connection, query, tables.jobs, after, limit, newest_first=True, of=_job)

    def claim(self, job: Job, worker: str) -> bool:
        """Become the worker of a job; False when it is over, or another one was faster."""
        jobs = tables.jobs.c
        same = jobs.worker.is_(None) if job.worker is None else jobs.worker == job.worker
        with self.store.writing() as connection:
            done = connection.execute(
                tables.jobs.update()
                .where(jobs.id == job.id, same, jobs.state.not_in(OVER))
                .values(worker=worker, attempts=jobs.attempts + 1)
            )
            return done.rowcount == 1

    def want(self, job_id: str, wanted: Wanted) -> bool:
        """Say what a job should do; False when it is over."""
        return self.change(job_id, wanted=wanted)

    def change(self, job_id: str, **values: Any) -> bool:
        """Change what is known of a job; False when it is over, which nothing changes."""
        jobs = tables.jobs.c
        with self.store.writing() as connection:
            done = connection.execute(
                tables.jobs.update().where(jobs.id == job_id, jobs.state.not_in(OVER)).values(_row(values))
            )
            return done.rowcount == 1

    def forget_model(self, job_id: str) -> None:
        """Take the name of its model from a job."""
        with self.store.writing() as connection:
            connection.execute(tables.jobs.update().where(tables.jobs.c.id == job_id).values(fine_tuned_model=None))

    def say(
        self,
        job_id: str,
        message: str,
        *,
        type: EventType = "message",
        level: Level = "info",
        data: dict[str, Any] | None = None,
    ) -> JobEvent:
        """Keep an event of a job."""
        prefix = "ftckpt" if type == "checkpoint" else "ftevent"
        event = JobEvent(f"{prefix}-{secrets.token_hex(12)}", job_id, type, level, message, data)
        with self.store.writing() as connection:
            connection.execute(tables.job_events.insert().values(asdict(event)))
        return event

    def events(
        self, job_id: str, *, after: str | None = None, limit: int = 20, checkpoints: bool = False
    ) -> tuple[list[JobEvent], bool]:
        """Some events, newest first, and whether there are more. Raises KeyError for an unknown `after`."""
        events = tables.job_events.c
        kind = events.type == "checkpoint" if checkpoints else events.type != "checkpoint"
        query = sa.select(tables.job_events).where(events.job_id == job_id, kind)
        with self.store.reading() as connection:
            return page(connection, query, tables.job_events, after, limit, newest_first=True, of=_event)


def _row(values: dict[str, Any]) -> dict[str, Any]:
    # JSON keeps lists.
    if "result_files" in values:
        values = values | {"result_files": list(values["result_files"])}
    return values


def _job(row: Any) -> Job:
    values = {name: value for name, value in row._mapping.items() if name != "number"}
    return Job(**values | {"result_files": tuple(row.result_files)})


def _event(row: Any) -> JobEvent:
    return JobEvent(**{name: value for name, value in row._mapping.items() if name != "number"})
