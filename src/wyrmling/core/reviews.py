"""The feedback of a project beside the answers it is about: what waits for a reviewer, was decided, is erased.

Decisions about challengers and reports on drift, which follow from feedback, are kept here too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from wyrmling.core import tables
from wyrmling.core.store import Store, now
from wyrmling.core.tables import Decided, Feedback, ReviewStatus, Usage

BATCH = 10_000
# What of an answer could say who asked or what; numbers stay.
_PRIVATE = {"prompt": None, "answer": None, "user": None, "sketch": None, "labels": None, "prompt_sha256": ""}


def pseudonym(user: str) -> str:
    """What an end user is known by here. The name itself is not kept, but finds its rows again."""
    return hashlib.sha256(f"wyrmling user\0{user}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Said:
    """Feedback and the answer it is about; `other` is the answer that this one was preferred over."""

    feedback: Feedback
    usage: Usage
    other: Usage | None = None


class Erased(NamedTuple):
    """How many answers lost their texts, and how much feedback is gone."""

    answers: int
    feedback: int


@dataclass(frozen=True)
class Reviews:
    """The feedback of one project."""

    store: Store

    def find(
        self,
        *,
        status: ReviewStatus | None = None,
        ids: Sequence[str] | None = None,
        rating: int | None = None,
        user: str | None = None,
        limit: int | None = None,
    ) -> list[Said]:
        """Feedback with its answers, oldest first.

        ids     feedback ids or answer ids; None: all
        user    the name of an end user, or the id of a key
        """
        said, usage = tables.feedback.c, tables.usage.c
        query = sa.select(tables.feedback, tables.usage).join(tables.usage, said.answer_id == usage.id)
        query = query.order_by(said.created, said.id)
        if status is not None:
            query = query.where(said.status == status)
        if ids is not None:
            query = query.where(sa.or_(said.id.in_(ids), said.answer_id.in_(ids)))
        if rating is not None:
            query = query.where(said.rating == rating)
        if user is not None:
            query = query.where(_of(user, said))
        return self._said(query.limit(limit))

    def find_about(self, user: str) -> list[Said]:
        """What an end user, or a key, said, and what others said about their answers."""
        said, usage = tables.feedback.c, tables.usage.c
        query = sa.select(tables.feedback, tables.usage).join(tables.usage, said.answer_id == usage.id)
        theirs = sa.select(usage.id).where(_of(user, usage))
        return self._said(query.where(sa.or_(_of(user, said), _of(user, usage), said.preferred_over.in_(theirs))))

    def _said(self, query: sa.Select[Any]) -> list[Said]:
        # Without labels the two tables' columns of one name could not be told apart.
        query = query.set_label_style(sa.LABEL_STYLE_TABLENAME_PLUS_COL)
        with self.store.reading() as connection:
            found = [(_read(Feedback, tables.feedback, row), _read(Usage, tables.usage, row))
                     for row in connection.execute(query)]  # fmt: skip
            others = self._others(connection, [feedback for feedback, _ in found])
        return [Said(feedback, usage, others.get(feedback.preferred_over or "")) for feedback, usage in found]

    @staticmethod
    def _others(connection: sa.Connection, said: Sequence[Feedback]) -> dict[str, Usage]:
        others = {}
        for some in _batches([one.preferred_over for one in said if one.preferred_over is not None]):
            for row in connection.execute(sa.select(tables.usage).where(tables.usage.c.id.in_(some))):
                others[row.id] = Usage(**row._mapping)
        return others

    def decide(self, ids: Sequence[str], status: ReviewStatus) -> None:
        """Keep what a reviewer decided about feedback. A later decision replaces an earlier one."""
        self._update(ids, {"status": status, "reviewed": None if status == "new" else now()})

    def mark_used(self, ids: Sequence[str], artifact_id: str) -> None:
        """Note that a training learned from this feedback."""
        self._update(ids, {"used_in": artifact_id})

    def _update(self, ids: Sequence[str], values: dict[str, Any]) -> None:
        with self.store.writing() as connection:
            for some in _batches(ids):
                connection.execute(tables.feedback.update().where(tables.feedback.c.id.in_(some)).values(values))

    def counts(self) -> dict[str, int]:
        """How much feedback is new, accepted and rejected, and how much of the accepted no training has used yet."""
        said = tables.feedback.c
        query = sa.select(said.status, said.used_in.is_(None).label("unused"), sa.func.count()).group_by(
            said.status, said.used_in.is_(None)
        )
        found = {"new": 0, "accepted": 0, "rejected": 0, "unused": 0}
        with self.store.reading() as connection:
            for status, unused, count in connection.execute(query):
                found[status] += count
                found["unused"] += count if unused and status == "accepted" else 0
        return found

    # erasure

    def forget(self, user: str) -> Erased:
        """Erase what an end user, or a key, asked and said. Counts, times and energy of the answers stay."""
        with self.store.writing() as connection:
            return _erase(connection, _of(user, tables.usage.c), _of(user, tables.feedback.c))

    def expire(self, before: str) -> Erased:
        """Erase the texts of answers from before an ISO 8601 time, and feedback on them that was not accepted.

        Answers with accepted feedback stay whole: examples come from them.
        """
        answers, said = tables.usage.c, tables.feedback.c
        kept = sa.select(said.answer_id).where(said.status == "accepted")
        compared = sa.select(said.preferred_over).where(said.status == "accepted", said.preferred_over.is_not(None))
        old = sa.and_(answers.created < before, answers.id.not_in(kept), answers.id.not_in(compared))
        with self.store.writing() as connection:
            return _erase(connection, old, sa.and_(said.created < before, said.status != "accepted"))

    # what follows from it

    def log(self, decided: Decided) -> None:
        """Keep a decision about a challenger."""
        with self.store.writing() as connection:
            connection.execute(tables.decisions.insert().values(asdict(decided)))

    def decisions(self, name: str) -> list[Decided]:
        """The decisions about a model's challengers, oldest first."""
        table = tables.decisions
        query = sa.select(table).where(table.c.name == name).order_by(table.c.number)
        with self.store.reading() as connection:
            return [Decided(**{key: value for key, value in row._mapping.items() if key != "number"})
                    for row in connection.execute(query)]  # fmt: skip

    def keep_drift(self, status: str, report: dict[str, Any]) -> None:
        """Keep a report on drift."""
        with self.store.writing() as connection:
            connection.execute(tables.drift.insert().values(created=now(), status=status, report=report))

    def last_drift(self) -> dict[str, Any] | None:
        """The newest report on drift with its time and status; None when there is none."""
        query = sa.select(tables.drift).order_by(tables.drift.c.number.desc()).limit(1)
        with self.store.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else {"created": row.created, "status": row.status, **row.report}


def _of(user: str, columns: Any) -> Any:
    """The condition that a row is of this end user or key."""
    return sa.or_(columns.user == pseudonym(user), columns.key_id == user)


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Databases take some tens of thousands of values in one statement."""
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def _read(kind: Any, table: sa.Table, row: Any) -> Any:
    return kind(**{column.name: row._mapping[f"{table.name}_{column.name}"] for column in table.columns})


def _erase(connection: sa.Connection, answers: Any, feedback: Any) -> Erased:
    """Blank the answers that meet a condition; delete the feedback on them, and that which meets another."""
    usage, said = tables.usage, tables.feedback
    ids = sa.select(usage.c.id).where(answers)
    gone = sa.or_(feedback, said.c.answer_id.in_(ids), said.c.preferred_over.in_(ids))
    deleted = connection.execute(said.delete().where(gone)).rowcount
    not_yet = sa.and_(answers, usage.c.prompt_sha256 != "")
    blanked = connection.execute(usage.update().where(not_yet).values(_PRIVATE)).rowcount
    return Erased(blanked, deleted)
