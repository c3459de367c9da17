"""A challenger on trial: it answers a share of the requests until enough of its answers show whether people mind."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from wyrmling.config import Project
from wyrmling.core.errors import UsageError
from wyrmling.core.reviews import Reviews, Said
from wyrmling.core.store import ModelRecord, Store, Usage
from wyrmling.core.tables import Decided
from wyrmling.evaluate import statistics
from wyrmling.evaluate.statistics import Difference

Verdict = Literal["PROMOTE", "HOLD", "INCONCLUSIVE"]
EXIT_CODES: dict[Verdict, int] = {"PROMOTE": 0, "HOLD": 3, "INCONCLUSIVE": 4}


@dataclass(frozen=True)
class Served:
    """What one model did since the trial began: answers, those that failed, those somebody minded."""

    answers: int
    failed: int
    minded: int


def judge(project: Project) -> tuple[dict[str, Any], str, int]:
    """Promote the challenger on trial, withdraw it, or wait for more answers; what was decided, and the exit code.

    It is withdrawn when more of its answers failed, were rated down or corrected than of the champion's in the same
    time, and the whole interval of the difference says so.
    Raises   UsageError when no challenger is on trial
    """
    name = project.settings.name
    with closing(Store.open(project.database_url)) as store:
        reviews = Reviews(store)
        pointed = store.pointed(name)
        challenger, champion = pointed.get("challenger"), pointed.get("champion")
        if challenger is None or champion is None or challenger.verdict != "PASS":
            raise UsageError(
                f"no challenger of {name} is on trial", fix="set serve.canary, then train one with: wyrmling retrain"
            )
        decided = [one for one in reviews.decisions(name) if one.version == challenger.version]
        since = decided[-1].created if decided else challenger.created
        usage, said = store.usage(since=since), reviews.find()
        new, old = (served(usage, said, model) for model in (challenger, champion))
        verdict, why = compare(new, old, project.settings.retrain.canary_answers)
        if verdict == "PROMOTE":
            store.promote(f"{name}:{challenger.version}")
        elif verdict == "HOLD":
            store.withdraw(name)
        if verdict != "INCONCLUSIVE":
            reviews.log(Decided(name, verdict, challenger.version, champion.version, f"canary: {why}", []))
    text = f"{verdict}: {name}:{challenger.version} against {name}:{champion.version}: {why}"
    document = {"verdict": verdict, "why": why, "challenger": vars(new), "champion": vars(old)}
    return document, text, EXIT_CODES[verdict]


def served(usage: list[Usage], said: list[Said], model: ModelRecord) -> Served:
    """What a model did in these answers."""
    answers = {one.id: one for one in usage if one.model_digest == model.digest}
    bad = [one.feedback.answer_id for one in said if one.feedback.rating == -1 or one.feedback.correction is not None]
    failed = sum(one.finish_reason == "error" for one in answers.values())
    return Served(len(answers), failed, len(set(bad) & set(answers)))


def compare(new: Served, old: Served, wanted: int) -> tuple[Verdict, str]:
    """Whether the challenger's answers are worse received than the champion's."""
    if not old.answers or new.answers < wanted:
        return "INCONCLUSIVE", f"{new.answers:,} of {wanted:,} answers so far"
    differences = {
        "failed": statistics.unpaired_proportions(new.failed, new.answers, old.failed, old.answers),
        "were minded": statistics.unpaired_proportions(new.minded, new.answers, old.minded, old.answers),
    }
    told = "; ".join(
        f"{mine / new.answers:.1%} of {new.answers:,} {what}, champion {theirs / old.answers:.1%} of {old.answers:,}"
        for what, mine, theirs in (("failed", new.failed, old.failed), ("were minded", new.minded, old.minded))
    )
    return ("HOLD" if any(_worse(one) for one in differences.values()) else "PROMOTE"), told


def _worse(difference: Difference) -> bool:
    return difference.low is not None and difference.low > 0
