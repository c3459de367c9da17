"""When to train again: enough accepted feedback, time gone by, or drift; and a simple loop that does it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.errors import BadSetting, UsageError, WyrmlingError
from wyrmling.core.log import say, warn
from wyrmling.core.reviews import Reviews
from wyrmling.core.store import Store
from wyrmling.flow import canary, retrain

UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def reasons(project: Project) -> list[str]:
    """Why to train again now; empty when nothing calls for it.

    Raises   UsageError when there is no champion to train again.
    """
    with closing(Store.open(project.database_url)) as store:
        reviews, name = Reviews(store), project.settings.name
        champion = store.resolve(name)
        decisions = reviews.decisions(name)
        last = max([champion.created, *(one.created for one in decisions[-1:])])
        return list(_reasons(project, reviews, last))


def _reasons(project: Project, reviews: Reviews, last: str) -> Iterator[str]:
    settings = project.settings.retrain
    unused = reviews.counts()["unused"]
    if unused >= settings.min_feedback:
        yield f"{unused:,} accepted feedback that no training has used (retrain.min_feedback {settings.min_feedback:,})"
    if settings.every is not None:
        due = datetime.fromisoformat(last) + period(settings.every)
        if due <= datetime.now(UTC):
            yield f"the last decision is older than {settings.every} (retrain.every)"
    drift = reviews.last_drift()
    if drift is not None and drift["status"] == "drift" and drift["created"] > last:
        yield f"drift was found at {drift['created']}: {', '.join(drift['alarms'])}"


def period(text: str) -> timedelta:
    """A length of time such as 12h, 7d or 4w."""
    return timedelta(**{UNITS[text[-1]]: int(text[:-1])})


def with_period(project: Project, every: str) -> Project:
    """The project with another `retrain.every`. Raises UsageError for what is no length of time."""
    raw = project.settings.model_dump(mode="json", exclude_unset=True)
    raw["retrain"] = {**raw.get("retrain", {}), "every": every}
    try:
        return replace(project, settings=config.parse(raw, where="--every"))
    except BadSetting as error:
        raise UsageError(f"--every {every} is no length of time", fix="write 12h, 7d or 4w") from error


def waiting(project: Project) -> str:
    """What `--when-needed` is waiting for."""
    with closing(Store.open(project.database_url)) as store:
        unused = Reviews(store).counts()["unused"]
    settings = project.settings.retrain
    every = "" if settings.every is None else f", or {settings.every} after the last decision"
    return f"not needed: {unused:,} of {settings.min_feedback:,} accepted feedback{every}"


def watch(project: Project, every_seconds: float) -> None:
    """Look again and again, and train when something calls for it, until the process is stopped."""
    say(f"looking every {every_seconds:g} s; stop with Ctrl-C")
    while True:
        try:
            if project.settings.serve.canary and _on_trial(project):
                document, text, _ = canary.judge(project)
                if document["verdict"] != "INCONCLUSIVE":
                    say(text)
            elif found := reasons(project):
                say(f"training again: {'; '.join(found)}")
                say(retrain.run(project).text())
        except WyrmlingError as error:
            if error.exit_code == 75:
                raise
            # Tomorrow's data may be better; a watch that ends unseen helps nobody.
            warn(str(error))
        time.sleep(every_seconds)


def _on_trial(project: Project) -> bool:
    with closing(Store.open(project.database_url)) as store:
        challenger = store.pointed(project.settings.name).get("challenger")
    return challenger is not None and challenger.verdict == "PASS"
