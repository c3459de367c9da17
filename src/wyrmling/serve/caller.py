"""Who asks: the key behind one request, and what the request turned out to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wyrmling.core.tables import ApiKey
from wyrmling.serve.limits import Limits


@dataclass(frozen=True)
class Caller:
    """One request that was let in. `key` is None where none is asked for."""

    request_id: str
    key: ApiKey | None
    limits: Limits
    user: str | None = None
    """The end user that the request names, as the caller calls them."""
    noted: dict[str, Any] = field(default_factory=dict)
    """What the access log says of the answer: its id, model, tokens and end; never a text."""

    @property
    def key_id(self) -> str | None:
        return None if self.key is None else self.key.id

    def spend(self, tokens: int, noted: dict[str, Any]) -> None:
        """Count the tokens of an answer against the key, and note what it was."""
        self.noted.update(noted)
        if self.key is not None:
            self.limits.spend(self.key, tokens)
