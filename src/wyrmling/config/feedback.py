"""`[feedback]`: what people say about answers, and drift."""

from __future__ import annotations

from pydantic import Field

from wyrmling.config.section import Section


class Feedback(Section):
    keep_days: float | None = Field(default=None, gt=0)
    """Days after which prompts, answers and feedback that was not accepted are erased. None: never."""
    max_per_user: int = Field(default=100, ge=1)
    """Examples that one end user (one API key, where requests name no user) may give the next training at most."""
    regression_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of accepted feedback, chosen by a hash of its text, that is never learned from: every new model is tested
    on it."""
    sketches: bool = True
    """Keep hashed words of each prompt (4,096 places, no text) with its usage, so that a change of topics shows."""
    window: int = Field(default=500, ge=50)
    """Answers in each of the two windows that are compared to find drift: the champion's first, and the newest."""
    false_alarms: float = Field(default=0.01, gt=0, lt=1)
    """Chance that a look at windows without any drift raises an alarm, over all its signals together."""
    webhook: str | None = Field(default=None, pattern=r"^https?://")
    """An address that gets a JSON message by POST when drift is found."""
