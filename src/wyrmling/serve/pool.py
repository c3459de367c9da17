"""The models in memory beside the one that is served: loaded when they are first asked for, let go when others need
the room. An answer that has begun is finished by the weights it began with.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from wyrmling.serve.engine import Engine
from wyrmling.serve.loaded import Found, Loaded
from wyrmling.serve.metrics import Metrics

# How long answers that are being generated may go on after their model was let go or the server told to stop.
DRAIN_SECONDS = 30.0


@dataclass(frozen=True)
class Member:
    """A model in memory with the engine that runs it."""

    loaded: Loaded
    engine: Engine
    metrics: Metrics


class Engines:
    """Models in memory that are told together to stop."""

    def _all(self) -> list[Member]:
        raise NotImplementedError

    def drain(self, seconds: float) -> None:
        """Take nothing new; finish what there is, but fail what is left after `seconds`."""
        for member in self._all():
            member.engine.drain(seconds)

    def join(self) -> None:
        """Wait until all engines have ended after `drain`."""
        for member in self._all():
            member.engine.join()


class Pool(Engines):
    """At most `room` models, by the digest of their folder; the one that was not asked for longest goes first.

    load   makes a member with a started engine; called on another thread
    """

    def __init__(self, load: Callable[[Found], Member], room: int) -> None:
        self._load, self._room = load, room
        self._members: OrderedDict[str, asyncio.Task[Member]] = OrderedDict()
        self._leaving: list[Member] = []

    async def get(self, found: Found) -> Member:
        """The model in memory. Requests that come while it is loaded wait for the same loading.

        Raises   whatever loading it raises; the next request tries again
        """
        task = self._members.get(found.digest)
        if task is None:
            task = asyncio.ensure_future(run_in_threadpool(self._load, found))
            self._members[found.digest] = task
            self._make_room()
        self._members.move_to_end(found.digest)
        try:
            # A client that goes away must not stop the loading that others wait for.
            return await asyncio.shield(task)
        except Exception:
            if self._members.get(found.digest) is task:
                del self._members[found.digest]
            raise

    def _make_room(self) -> None:
        self._leaving = [member for member in self._leaving if member.engine.alive]
        done = [digest for digest, task in self._members.items() if task.done()]
        for digest in done[: max(0, len(self._members) - self._room)]:
            member = self._members.pop(digest).result()
            member.engine.drain(DRAIN_SECONDS)
            self._leaving.append(member)

    def _all(self) -> list[Member]:
        done = [task for task in self._members.values() if task.done() and task.exception() is None]
        return [*self._leaving, *(task.result() for task in done)]
