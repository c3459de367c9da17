"""Looks at the validation rows while training: what the model can do so far, and whether that is better than before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from wyrmling.config import TrainObjective
from wyrmling.evaluate import entities, metrics
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.train.batches import IGNORED, Batches
from wyrmling.train.objectives import OBJECTIVES
from wyrmling.train.order import Array
from wyrmling.train.team import ALONE, Team


class Judge(NamedTuple):
    """The figure that tells which look is best."""

    name: str
    higher_is_better: bool


JUDGES: dict[TrainObjective, Judge] = {
    "causal": Judge("loss", False),
    "masked": Judge("loss", False),
    "sft": Judge("loss", False),
    "classify": Judge("macro_f1", True),
    "tag": Judge("entity_f1", True),
}


def look(
    model: Model,
    objective: TrainObjective,
    batches: Batches,
    *,
    n_bytes: int,
    tag_names: list[str],
    autocast: Callable[[], AbstractContextManager[Any]],
    team: Team = ALONE,
) -> dict[str, float]:
    """Figures on the rows of `batches`, without dropout; the model is left in training mode.

    n_bytes   UTF-8 bytes of what is learned, for bits per byte
    team      processes that share the rows; all get the same figures
    Gives     loss (nats per target) and for causal and sft bits_per_byte, for classify accuracy and macro_f1, for tag
              accuracy and entity_f1
    """
    device = next(model.parameters()).device
    loss_function = team.evenly(OBJECTIVES[objective].loss)
    total, count = 0.0, 0
    gold: list[Array] = []
    predicted: list[Array] = []
    rows: list[Array] = []
    model.eval()
    with team.looking(), autocast():
        for batch in team.share(batches.everything()):
            moved = batch.to(device)
            loss, targets = loss_function(model, moved)
            total, count = total + float(loss), count + targets
            if objective in ("classify", "tag"):
                learned = (moved.targets != IGNORED).nonzero().squeeze(1)
                logits = model.logits(moved.tokens, Segments(moved.lengths), learned)
                if len(learned) == 0:
                    continue
                predicted.append(logits.argmax(dim=-1).cpu().numpy())
                gold.append(moved.targets[learned].cpu().numpy())
                rows.append(_rows_of(batch.rows, batch.lengths, learned.cpu().numpy(), objective))
    model.train()
    total, counted = team.total(total, count)
    count = int(counted)
    gold, predicted, rows = (team.gathered(parts) for parts in (gold, predicted, rows))
    figures = {"loss": total / count} if count else {}
    if objective in ("causal", "sft") and n_bytes:
        figures["bits_per_byte"] = metrics.bits_per_byte(total, n_bytes)
    if objective == "classify" and count:
        figures |= _class_figures(np.concatenate(gold), np.concatenate(predicted), model.n_out)
    if objective == "tag" and count:
        figures |= _tag_figures(np.concatenate(gold), np.concatenate(predicted), np.concatenate(rows), tag_names)
    return figures


def is_better(objective: TrainObjective, new: dict[str, float], old: dict[str, float] | None) -> bool:
    """True when `new` is at least as good: of equals the later one, which was trained at a lower rate, is kept."""
    judge = JUDGES[objective]
    if old is None:
        return True
    if judge.name not in new:
        return False
    return new[judge.name] >= old[judge.name] if judge.higher_is_better else new[judge.name] <= old[judge.name]


def _rows_of(rows: Array, lengths: list[int], learned: Array, objective: TrainObjective) -> Array:
    """The row of the store that each learned target belongs to."""
    return rows[learned] if objective == "classify" else np.repeat(rows, lengths)[learned]


def _class_figures(gold_N: Array, predicted_N: Array, n_classes: int) -> dict[str, float]:
    sums = metrics.class_sums(np.ones((1, len(gold_N))), gold_N, predicted_N, n_classes)[0]
    scored_C = np.bincount(gold_N, minlength=n_classes) > 0
    return {
        "accuracy": float((gold_N == predicted_N).mean()),
        "macro_f1": float(metrics.f1(sums)[scored_C].mean()),
    }


def _tag_figures(gold_N: Array, predicted_N: Array, row_N: Array, names: list[str]) -> dict[str, float]:
    order = np.argsort(row_N, kind="stable")
    cuts = np.flatnonzero(np.diff(row_N[order])) + 1
    gold, predicted = (
        [[names[tag] for tag in part] for part in np.split(tags_N[order], cuts)] for tags_N in (gold_N, predicted_N)
    )
    types = entities.entity_types(gold, predicted)
    if not types:
        return {"accuracy": float((gold_N == predicted_N).mean()), "entity_f1": 0.0}
    sums = entities.entity_counts(gold, predicted, types).sum(axis=0)
    correct, truth, guessed = (float(sums[i].sum()) for i in (metrics.CORRECT, metrics.GOLD, metrics.PREDICTED))
    return {
        "accuracy": float((gold_N == predicted_N).mean()),
        "entity_f1": 2 * correct / (truth + guessed) if truth + guessed else 0.0,
    }
