"""The one thread that writes the records of answers; those that wait for it share a transaction."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import sqlalchemy as sa

from wyrmling.core.store import Store, Usage

_log = logging.getLogger("wyrmling.serve")

Waiting = tuple[Usage, "Future[None]"]


class Recorder:
    """Keeps usage rows of one database in the order in which they came. `close` writes what is left."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[Waiting] = deque()
        self._executor = ThreadPoolExecutor(1, "recorder")
        # Of its own: to take one from the pool for each answer costs as much as to write the row.
        self._connection: sa.Connection | None = None

    def keep(self, usage: Usage) -> Future[None]:
        """Done once the row is committed, or failed with what the database said. Cancelling it stops nothing."""
        kept: Future[None] = Future()
        self._waiting.append((usage, kept))
        self._executor.submit(self._write)
        return kept

    def close(self) -> None:
        """Write what waits, and let go of the database."""
        self._executor.submit(self._let_go)
        self._executor.shutdown()

    # ---- the recorder's thread ----

    def _write(self) -> None:
        taken: list[Waiting] = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        # Nothing is left where an earlier turn took the row along.
        if taken:
            self._commit(taken)

    def _commit(self, rows: Sequence[Waiting]) -> None:
        failed: Exception | None = None
        try:
            if self._connection is None:
                self._connection = self._store.connected()
            self._store.add_usage(*(usage for usage, _ in rows), connection=self._connection)
        except Exception as error:  # the edge of the thread: whoever waits must hear of it
            failed = error
            self._let_go()
        if failed is not None and len(rows) > 1:
            # A row that the database refuses must not take others with it.
            for one in rows:
                self._commit([one])
            return
        if failed is not None:
            _log.error("the usage of answer %s could not be kept: %s", rows[0][0].id, failed)
        for _, kept in rows:
            # Whoever waited may have gone.
            if kept.set_running_or_notify_cancel():
                kept.set_exception(failed) if failed is not None else kept.set_result(None)

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
