"""How much a key may ask: requests and tokens by the minute, money by the month."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from wyrmling.core.store import Store
from wyrmling.core.tables import ApiKey
from wyrmling.serve.openai import ApiError


@dataclass
class Bucket:
    """Holds what may be spent at once, `size` of it, and fills up by `size` a minute. May go below zero."""

    size: float
    level: float
    at: float

    def fill(self, now: float) -> None:
        self.level = min(self.size, self.level + (now - self.at) * self.size / 60)
        self.at = now

    def wait(self, wanted: float) -> float:
        """Seconds until so much is there; 0 when it is."""
        return max(0.0, (wanted - self.level) * 60 / self.size)


@dataclass
class Limits:
    """The buckets of every limited key since the server started; the money is what the database says."""

    store: Store
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    def admit(self, key: ApiKey) -> dict[str, str]:
        """Count one request; headers that say what is left.

        How long an answer gets is not known before it is given: a request is let in while there is any token left, and
        what it took beyond that is waited for by the next one.
        Raises   ApiError 429 with `retry-after`
        """
        if key.usd_per_month is not None:
            self._check_money(key, key.usd_per_month)
        asked = [("requests", key.requests_per_minute, 1.0, 1.0), ("tokens", key.tokens_per_minute, 0.0, 1.0)]
        found = [(name, self._bucket(key.id, name, size), takes, needs) for name, size, takes, needs in asked if size]
        headers: dict[str, str] = {}
        for name, bucket, _, needs in found:
            if (wait := bucket.wait(needs)) > 0:
                raise self._refusal(f"this key may use {bucket.size:,.0f} {name} a minute", wait, headers)
        for name, bucket, takes, _ in found:
            bucket.level -= takes
            headers |= {
                f"x-ratelimit-limit-{name}": f"{bucket.size:.0f}",
                f"x-ratelimit-remaining-{name}": f"{max(0, math.floor(bucket.level))}",
                f"x-ratelimit-reset-{name}": f"{bucket.wait(bucket.size):.3f}s",
            }
        return headers

    def spend(self, key: ApiKey, tokens: int) -> None:
        """Count the tokens of an answer."""
        if key.tokens_per_minute is not None:
            self._bucket(key.id, "tokens", key.tokens_per_minute).level -= tokens

    def _bucket(self, key_id: str, name: str, size: float) -> Bucket:
        now = self.clock()
        bucket = self._buckets.setdefault((key_id, name), Bucket(size, size, now))
        bucket.fill(now)
        return bucket

    def _check_money(self, key: ApiKey, limit: float) -> None:
        now = datetime.now(UTC)
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        spent = self.store.spent(key.id, month.isoformat())
        if spent >= limit:
            following = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
            raise ApiError(
                429,
                f"this key has spent its {limit:g} US dollars of this month",
                code="insufficient_quota",
                kind="insufficient_quota",
                # Clients need not try again within the minute.
                headers={"retry-after": str(int((following - now).total_seconds())), "x-should-retry": "false"},
            )

    @staticmethod
    def _refusal(message: str, wait: float, headers: dict[str, str]) -> ApiError:
        return ApiError(
            429,
            f"{message}; try again in {wait:.1f} s",
            code="rate_limit_exceeded",
            kind="rate_limit_error",
            headers=headers | {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))},
        )
