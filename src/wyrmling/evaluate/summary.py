"""An evaluation for the terminal and for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wyrmling.core.artifact import Artifact
from wyrmling.evaluate import accept
from wyrmling.evaluate.html import figure, interval, p_value

# What a reader looks at first; the rest of the metrics is in the report.
FIRST = (
    "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "mcc", "log_loss", "brier", "ece", "auroc", "entity_f1",
    "entity_precision", "entity_recall", "strict_entity_f1", "partial_entity_f1", "macro_entity_f1", "token_accuracy",
    "bpb", "loss", "perplexity", "exact_match", "token_f1", "rougeL", "bleu", "chrf",
)  # fmt: skip


def summary(evaluation: Artifact) -> str:
    """Metrics with intervals, the baselines beside the main one, the verdict, and where the report is."""
    figures = evaluation.figures
    lines = [f"{figures['task']}: {figures['rows']:,} test rows"]
    for name, score in figures["metrics"].items():
        if name in FIRST or name in accept.COST:
            lines.append(f"  {name:<18} {figure(score):>9}  {interval(score):<20} n {score['n']:,}")
            if name == figures["main"]:
                others = figures["baselines"] | figures["opponents"]
                lines += [_beside(beside, name, o) for beside, o in others.items() if name in o["difference"]]
    verdict = figures["verdict"]
    if verdict["lines"]:
        lines.append(f"  {verdict['status']}")
        lines += [f"    {line['text']}" for line in verdict["lines"]]
    lines += [f"  note: {note}" for note in figures["notes"]]
    lines.append(f"  {evaluation.path / figures['report']}")
    return "\n".join(lines)


def _beside(name: str, metric: str, other: Mapping[str, Any]) -> str:
    score, difference = other["metrics"][metric], other["difference"][metric]
    change = f"model {difference['value']:+.4f} ({interval(difference) or 'no interval'}), p {p_value(difference['p'])}"
    return f"    {name:<16} {figure(score):>9}  {interval(score):<20} {change}"


def document(evaluation: Artifact) -> dict[str, Any]:
    """What `wyrmling evaluate --json` prints."""
    return {
        **evaluation.figures,
        "report": str(evaluation.path / evaluation.figures["report"]),
        "reused": evaluation.reused,
    }
