"""The last table of a run: rows, tokens, loss, the main metric beside the baselines, minutes, energy and memory.

It adds up what the artifacts cost when they were made, also where this run only found them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from wyrmling.core.artifact import Artifact


def document(
    data: Artifact, tokens: Artifact | None, steps: Sequence[Artifact], evaluation: Artifact
) -> dict[str, Any]:
    """The figures of the whole project as one flat document. tokens: None for a model trained behind an API."""
    every = [data, *([] if tokens is None else [tokens]), *steps, evaluation]
    name, score = main_metric(evaluation)
    last = steps[-1].figures
    return {
        "rows": {what: data.figures[what] for what in ("read", "kept", "dropped", "errors")},
        "tokens": sum(step.figures["tokens"] for step in steps),
        "steps": sum(step.figures["steps"] for step in steps),
        "loss": last["loss"],
        "parameters": last["parameters"],
        "metric": name,
        "score": {bound: score[bound] for bound in ("value", "low", "high", "n")},
        "baselines": baselines(evaluation, name),
        "minutes": _total(every, "seconds") / 60,
        "wh": _total(every, "wh"),
        "wh_by_stage": {_stage(one): one.cost["wh"] for one in every},
        "wh_per_1000_tokens": _per_1000_tokens(steps),
        "meter": steps[-1].cost["meter"],
        "usd": _total(every, "usd"),
        "kg_co2": _total(every, "kg_co2"),
        "peak_memory_gb": max(artifact.cost["peak_memory_gb"] for artifact in every),
    }


def table(data: Artifact, tokens: Artifact | None, steps: Sequence[Artifact], evaluation: Artifact) -> str:
    """The same for a person: one line per figure."""
    figures = document(data, tokens, steps, evaluation)
    counts, score, metric = figures["rows"], figures["score"], figures["metric"]
    rows = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("read", "kept", "dropped", "errors"))
    lines = [
        ("rows", rows),
        ("trained on", f"{figures['tokens']:,} tokens in {figures['steps']:,} steps, loss {number(figures['loss'])}"),
        ("model", _size(steps[-1])),
        (metric, f"{_interval(score)}   on {score['n']:,} test rows"),
        *((f"  {name}", _interval(baseline)) for name, baseline in figures["baselines"].items()),
        ("time", f"{figures['minutes']:.1f} minutes"),
        ("energy", f"{figures['wh']:.2f} Wh, ${figures['usd']:.4f}, {figures['kg_co2'] * 1000:.2f} g CO2"),
        ("  by stage", ", ".join(f"{name} {wh:.3f}" for name, wh in figures["wh_by_stage"].items()) + " Wh"),
        ("  training", _per_thousand(figures["wh_per_1000_tokens"])),
        ("  by", figures["meter"]),
        ("peak memory", f"{figures['peak_memory_gb']:.2f} GB"),
    ]
    return aligned(lines)


def _size(trained: Artifact) -> str:
    figures = trained.figures
    behind = figures.get("remote")
    return f"{behind['model']} behind {behind['url']}" if behind else f"{figures['parameters']:,} parameters"


def aligned(lines: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    pairs = list(lines)
    width = max(len(name) for name, _ in pairs) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in pairs)


def number(value: float | None) -> str:
    """Four digits; nothing was trained where there is no loss."""
    return "-" if value is None else f"{value:.4f}"


def main_metric(evaluation: Artifact) -> tuple[str, dict[str, Any]]:
    """The name and the score of the metric that stands for the model."""
    name = evaluation.figures["main"]
    return name, evaluation.figures["metrics"][name]


def baselines(evaluation: Artifact, metric: str) -> dict[str, dict[str, Any]]:
    """The score of each baseline in this metric, where it has one."""
    found = {name: baseline["metrics"] for name, baseline in evaluation.figures["baselines"].items()}
    return {name: metrics[metric] for name, metrics in found.items() if metric in metrics}


def _stage(made: Artifact) -> str:
    return f"train {made.manifest['name']}" if made.stage == "train" else made.stage


def _per_1000_tokens(steps: Iterable[Artifact]) -> float | None:
    """Watt-hours of training per 1,000 tokens that were read; None when there were none."""
    made = list(steps)
    tokens = sum(step.figures["tokens"] for step in made)
    return 1000 * _total(made, "wh") / tokens if tokens else None


def _per_thousand(wh: float | None) -> str:
    return "no tokens were read" if wh is None else f"{1000 * wh:.3f} mWh per 1,000 tokens"


def _interval(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return "not defined"
    if score["low"] is None:
        return f"{score['value']:.4f}"
    return f"{score['value']:.4f}  ({score['low']:.4f} to {score['high']:.4f})"


def _total(artifacts: Iterable[Artifact], name: str) -> float:
    return sum(float(artifact.cost[name]) for artifact in artifacts)
