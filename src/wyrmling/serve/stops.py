"""Stop texts: an answer ends before the first of them, wherever the tokens are cut."""

from __future__ import annotations


class StopScan:
    """Passes on an answer's text as it comes, except what is, or may become, a stop text.

    stops   texts that end the answer and are never part of it
    `text` is what was passed on so far; `stopped` says that a stop text was found.
    """

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._stops = stops
        self._held = ""

    def push(self, piece: str) -> str:
        """The text that is certain with this piece; empty while it may be the beginning of a stop text."""
        if self.stopped:
            return ""
        self._held += piece
        # The stop text that ends first wins, whatever pieces it came in.
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        self.stopped = bool(found)
        if found:
            return self._pass_on(min(found)[1])
        return self._pass_on(len(self._held) - self._beginning())

    def finish(self) -> str:
        """What was held back, when nothing more comes."""
        return "" if self.stopped else self._pass_on(len(self._held))

    def _pass_on(self, length: int) -> str:
        given, self._held = self._held[:length], self._held[length:]
        self.text += given
        return given

    def _beginning(self) -> int:
        """Length of the longest end of the held text that a stop text begins with."""
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(len(self._held), longest), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
