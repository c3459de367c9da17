"""A server that was told a name rather than a version keeps up with it: when the champion changes, the next request is
answered by the new one, and an accepted challenger gets its share of the requests. No request is lost on the way: each
is finished by the weights it began with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from wyrmling.core.store import ModelRecord
from wyrmling.model.folder import locate
from wyrmling.serve.loaded import Found
from wyrmling.serve.pool import DRAIN_SECONDS, Engines, Member
from wyrmling.serve.service import Canary, Service

LOOK_SECONDS = 0.1
# A request may have been handed an engine just before it was let go.
LINGER_SECONDS = 5.0

_log = logging.getLogger("wyrmling.serve")


class Follower(Engines):
    """A thread that looks at the aliases of the served name.

    load   makes a member with a started engine
    put    makes a service the one that the next requests get
    The champion before stays in memory, so that going back takes no time.
    """

    def __init__(self, service: Service, load: Callable[[Found], Member], put: Callable[[Service], None]) -> None:
        self._service, self._load, self._put = service, load, put
        first = Member(service.loaded, service.engine, service.metrics)
        self._members = {service.loaded.found.digest: first}
        self._leaving: list[tuple[float, Member]] = []
        self._broken: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Change nothing any more."""
        self._stopping.set()
        self._thread.join()

    def _all(self) -> list[Member]:
        return [*self._members.values(), *(member for _, member in self._leaving)]

    def _work(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self._look()
            except Exception:
                # The edge of the thread: the database may be locked or away for a moment.
                _log.exception("the server could not look at the aliases of %s", self._service.name)

    def _look(self) -> None:
        pointed = self._service.store.pointed(self._service.name)
        champion, challenger = pointed.get("champion"), pointed.get("challenger")
        share = self._service.settings.canary
        on_canary = challenger if share and challenger is not None and challenger.verdict == "PASS" else None
        here = None if champion is None else self._member(champion)
        trying = None if on_canary is None else self._member(on_canary)
        if here is not None:
            canary = None if trying is None or trying is here else Canary(trying, share)
            now = self._service
            if now.engine is not here.engine or now.canary != canary:
                self._switch(here, canary)
        kept = {self._service.loaded.found.digest}
        kept |= {record.digest for record in (champion, pointed.get("previous"), on_canary) if record is not None}
        self._let_go(kept)

    def _member(self, record: ModelRecord) -> Member | None:
        """The model in memory; None when it can't be loaded, which is said once."""
        if record.digest not in self._members and record.digest not in self._broken:
            found = Found(record.name, locate(record.path), record.digest, record.version)
            try:
                self._members[record.digest] = self._load(found)
            except Exception:
                _log.exception("%s:%s can't be served; the model before goes on", record.name, record.version)
                self._broken.add(record.digest)
        return self._members.get(record.digest)

    def _switch(self, champion: Member, canary: Canary | None) -> None:
        self._service = self._service.on(champion, canary)
        self._put(self._service)
        found = champion.loaded.found
        beside = (
            "" if canary is None else f", {canary.share:.0%} of the requests by {canary.member.loaded.found.version}"
        )
        _log.warning("%s is now answered by version %s%s", found.name, found.version, beside)

    def _let_go(self, kept: set[str]) -> None:
        for digest in [digest for digest in self._members if digest not in kept]:
            self._leaving.append((time.monotonic(), self._members.pop(digest)))
        for since, member in self._leaving:
            if member.engine.ready and time.monotonic() > since + LINGER_SECONDS:
                member.engine.drain(DRAIN_SECONDS)
        self._leaving = [(since, member) for since, member in self._leaving if member.engine.alive]
