"""`wyrmling run`: data, tokenizer, train, evaluate, gate, in this order; what has not changed is found, not made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.energy import Cost
from wyrmling.core.log import say
from wyrmling.flow import gate, records, rungs, stages, summary
from wyrmling.flow.gate import Decision


@dataclass(frozen=True)
class Outcome:
    """A finished run: the artifacts in order, the decision of the gate, and what this call cost."""

    data: Artifact
    tokens: Artifact | None
    """None for a model that is trained behind an API."""
    steps: tuple[Artifact, ...]
    evaluation: Artifact
    decision: Decision
    advice: tuple[str, ...]
    cost: Cost

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        return (self.data, *([] if self.tokens is None else [self.tokens]), *self.steps, self.evaluation)

    @property
    def exit_code(self) -> int:
        """0 accepted, 3 the gate says no, 4 inconclusive."""
        return self.decision.exit_code

    def document(self) -> dict[str, Any]:
        """One entry per stage with `reused`, the verdict, the model and the summary."""
        return {
            "stages": [_entry(artifact) for artifact in self.artifacts] + [self.decision.document()],
            "verdict": {"status": self.decision.status, "lines": list(self.decision.lines), "why": self.decision.why},
            "model": f"{self.decision.record.name}:{self.decision.record.version}",
            "summary": summary.document(self.data, self.tokens, self.steps, self.evaluation),
            "advice": list(self.advice),
            "cost": self.cost.as_dict(),
        }

    def text(self) -> str:
        """The summary table and the decision."""
        table = summary.table(self.data, self.tokens, self.steps, self.evaluation)
        verdict = [f"{self.decision.status}: {self.decision.why}", *(f"  {line}" for line in self.decision.lines)]
        return "\n".join([table, "", *verdict, *self.advice, f"report {self.evaluation.path / 'report.html'}"])


def run(project: Project, *, limit_usd: float | None = None) -> Outcome:
    """Bring the project's model up to date with its data and settings, and let the gate decide about it.

    limit_usd   what a model behind an API may cost. None: nothing is sent
    """
    from wyrmling.data import run as data
    from wyrmling.evaluate import run as evaluate
    from wyrmling.tokenizer import run as tokenizer
    from wyrmling.train import remote
    from wyrmling.train import run as train

    with project.meter() as meter:
        rows = _told(data.run(project))
        if project.settings.model.behind is None:
            tokens = _told(tokenizer.run(project, rows))
            steps = tuple(_told(step) for step in train.run_all(project, rows, tokens))
        else:
            remote.agree(project, rows, limit_usd, asking=True)
            tokens, steps = None, (_told(remote.run(project, rows, limit_usd=limit_usd)),)
        records.remember(project, steps)
        model = steps[-1].path / "model"
        evaluation = _told(evaluate.run(project, rows, model, limit_usd=stages.left(limit_usd, steps[-1])))
        decision = gate.decide(project, model, evaluation)
        advice = tuple(rungs.said(project, evaluation))
    cost = meter.cost()
    cost = replace(cost, usd=cost.usd + stages.paid((*steps, evaluation)))
    return Outcome(rows, tokens, steps, evaluation, decision, advice, cost)


def _told(artifact: Artifact) -> Artifact:
    how = "reused" if artifact.reused else f"made in {artifact.cost['seconds']:.1f} s"
    say(f"{artifact.stage:<10} {artifact.manifest['name']:<16} {how}")
    return artifact


def _entry(artifact: Artifact) -> dict[str, Any]:
    return {
        "stage": artifact.stage,
        "name": artifact.manifest["name"],
        "reused": artifact.reused,
        "id": artifact.id,
        "artifact": str(artifact.path),
        "cost": artifact.cost,
        "forecast": artifact.manifest["forecast"],
    }
