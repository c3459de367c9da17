"""The gate: whether a newly trained model takes over, and why.

PASS, or no conditions at all, makes it the champion; FAIL and INCONCLUSIVE register it as the challenger and leave the
champion where it is. Weights that are registered already keep their version, and a decision that was taken once is not
taken again: after a rollback, a second unchanged run leaves the rollback alone.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.store import ModelRecord, Store, folder_digest
from wyrmling.evaluate.verdict import EXIT_CODES, Status


@dataclass(frozen=True)
class Decision:
    """What the gate decided about a model version."""

    status: Status
    record: ModelRecord
    why: str
    lines: tuple[str, ...]
    """The verdict on each condition of `objective.accept`, as the evaluation words it."""
    reused: bool
    """True when these weights had this verdict before: nothing was changed."""

    @property
    def exit_code(self) -> int:
        """0 accepted, 3 refused, 4 the test rows cannot tell."""
        return EXIT_CODES[self.status]

    def document(self) -> dict[str, Any]:
        return {
            "stage": "gate",
            "name": self.record.name,
            "reused": self.reused,
            "status": self.status,
            "why": self.why,
            "lines": list(self.lines),
            "model": f"{self.record.name}:{self.record.version}",
            "aliases": list(self.record.aliases),
            "exit_code": self.exit_code,
        }


def decide(project: Project, model: Path, evaluation: Artifact) -> Decision:
    """Register the model under the project's name and move the aliases its verdict calls for.

    model        the model folder that was evaluated
    evaluation   its evaluation: the verdict and the metrics are read from the figures
    """
    name = project.settings.name
    status, lines = _verdict(evaluation)
    digest = folder_digest(model)
    with closing(Store.open(project.database_url)) as store:
        known = _known(store, name, digest)
        reused = known is not None and known.verdict == status
        version = store.register_model(name, model, digest, metrics_of(evaluation), status)
        # A version that passed before was promoted then; whoever moved the aliases since had a reason.
        if status == "PASS" and not reused:
            store.promote(f"{name}:{version}")
        record = store.resolve(f"{name}:{version}")
        champion = next((m for m in store.list_models() if m.name == name and "champion" in m.aliases), None)
    return Decision(status, record, _why(status, lines, record, champion), lines, reused)


def _verdict(evaluation: Artifact) -> tuple[Status, tuple[str, ...]]:
    """The evaluation's verdict; one without conditions accepts."""
    verdict = evaluation.figures["verdict"]
    lines = tuple(_worded(line) for line in verdict["lines"])
    return (verdict["status"] if lines else "PASS"), lines


def _worded(line: dict[str, Any]) -> str:
    return f"{line['status']:<12} {line['criterion']}: {line['reason']}"


def metrics_of(evaluation: Artifact) -> dict[str, float]:
    scores = evaluation.figures["metrics"]
    return {name: float(score["value"]) for name, score in scores.items() if score["value"] is not None}


def _known(store: Store, name: str, digest: str) -> ModelRecord | None:
    return next((m for m in store.list_models() if m.name == name and m.digest == digest), None)


def _why(status: Status, lines: tuple[str, ...], record: ModelRecord, champion: ModelRecord | None) -> str:
    this = f"{record.name}:{record.version}"
    if status == "PASS":
        reason = "it meets every condition of objective.accept" if lines else "objective.accept names no condition"
        if "champion" in record.aliases:
            return f"{this} is the champion: {reason}"
        now = f"{champion.name}:{champion.version}" if champion else "nothing"
        return (
            f"{this} was accepted before ({reason}), and {now} was made champion since; "
            f"to change that: wyrmling models promote {this}"
        )
    refused = {"FAIL": "a condition is not met", "INCONCLUSIVE": "the test rows are too few to tell"}[status]
    if champion is None:
        return f"{this} is not promoted: {refused}; there is no champion yet"
    if champion.version == record.version:
        return f"{this} stays the champion, though {refused} now; to go back: wyrmling models rollback {record.name}"
    return f"{this} is not promoted: {refused}; {champion.name}:{champion.version} stays the champion"
