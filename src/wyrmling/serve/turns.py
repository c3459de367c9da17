"""One after the other: work beside the engine that would only slow itself down if it were done at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from wyrmling.serve.openai import overloaded


class Turns:
    """A queue of requests; at most `room` of them wait."""

    def __init__(self, room: int) -> None:
        self._lock, self._room, self._here = asyncio.Lock(), room, 0

    @contextlib.asynccontextmanager
    async def mine(self) -> AsyncIterator[None]:
        """The block runs when it is this request's turn. Raises ApiError 503 when too many wait."""
        if self._here > self._room:
            raise overloaded("too many requests are waiting; try again", retry_after_seconds=1)
        self._here += 1
        try:
            async with self._lock:
                yield
        finally:
            self._here -= 1
