"""Looks at the validation rows while training: what the model can do so far, and whether that is better than before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from wyrmling.config import Preference, TrainObjective
from wyrmling.evaluate import entities, metrics
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.train.batches import IGNORED, Batch, Batches
from wyrmling.train.judges import Judge
from wyrmling.train.objectives import OBJECTIVES
from wyrmling.train.order import Array
from wyrmling.train.preference import looked_at, loss_of, on_the_chosen_side
from wyrmling.train.team import ALONE, Team


def look(
    model: Model,
    objective: TrainObjective,
    batches: Batches,
    *,
    n_bytes: int,
    tag_names: list[str],
    autocast: Callable[[], AbstractContextManager[Any]],
    team: Team = ALONE,
    preference: Preference | None = None,
) -> dict[str, float]:
    """Figures on the rows of `batches`, without dropout; the model is left in training mode.

    n_bytes      UTF-8 bytes of what is learned, for bits per byte
    team         processes that share the rows; all get the same figures
    preference   the settings of the objective preference
    Gives        loss (nats per target) and for causal and sft bits_per_byte, for classify accuracy and macro_f1, for
                 tag accuracy and entity_f1, for preference accuracy: the share of pairs on the chosen side
    """
    if preference is not None and objective == "preference":
        return _preferences(model, batches, preference, autocast, team)
    device = next(model.parameters()).device
    loss_function = team.evenly(OBJECTIVES[objective].loss)
    total, count = 0.0, 0
    answers: list[_Answers] = []
    model.eval()
    with team.looking(), autocast():
        for batch in team.share(batches.everything()):
            moved = batch.to(device)
            loss, targets = loss_function(model, moved)
            total, count = total + float(loss), count + targets
            if objective in ("classify", "tag"):
                answers += _answers(model, moved, objective)
    model.train()
    total, counted = team.total(total, count)
    count, answers = int(counted), team.gathered(answers)
    figures = {"loss": total / count} if count else {}
    if objective in ("causal", "sft") and n_bytes:
        figures["bits_per_byte"] = metrics.bits_per_byte(total, n_bytes)
    if answers and count:
        gold, predicted, rows = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        if objective == "tag":
            figures |= _tag_figures(gold, predicted, rows, tag_names)
        elif gold.ndim == 2:
            figures |= _label_set_figures(gold, predicted)
        else:
            figures |= _class_figures(gold, predicted, model.n_out)
    return figures


class _Answers(NamedTuple):
    """What was right, what the model said, and the row of the store, of each target; of several labels of each row."""

    gold: Array
    predicted: Array
    rows: Array


def _answers(model: Model, batch: Batch, objective: TrainObjective) -> list[_Answers]:
    """The answers to a batch; none to a filler, which goes through the model all the same: others may wait there."""
    segments = Segments(batch.lengths)
    if batch.targets.ndim == 2:
        said_NC = model.logits(batch.tokens, segments).cpu().numpy() > 0
        return [_Answers(batch.targets.cpu().numpy() == 1, said_NC, batch.rows)] if len(batch.rows) else []
    learned = (batch.targets != IGNORED).nonzero().squeeze(1)
    said = model.logits(batch.tokens, segments, learned).argmax(dim=-1)
    if len(learned) == 0:
        return []
    places = batch.rows if objective == "classify" else np.repeat(batch.rows, batch.lengths)
    return [_Answers(batch.targets[learned].cpu().numpy(), said.cpu().numpy(), places[learned.cpu().numpy()])]


def _preferences(
    model: Model,
    batches: Batches,
    settings: Preference,
    autocast: Callable[[], AbstractContextManager[Any]],
    team: Team,
) -> dict[str, float]:
    device, total, count, right = next(model.parameters()).device, 0.0, 0, 0
    model.eval()
    with team.looking(), autocast():
        for batch in team.share(batches.everything()):
            moved = batch.to(device)
            logp_S = looked_at(model, moved)
            if moved.choices is None:
                continue
            loss, items = loss_of(logp_S, moved, settings)
            total, count = total + float(loss), count + items
            if settings.loss != "kto":
                right += on_the_chosen_side(logp_S, moved)
    model.train()
    total, counted, rightly = team.total(total, count, right)
    return {"loss": total / counted} | ({} if settings.loss == "kto" else {"accuracy": rightly / counted})


def is_better(judge: Judge, new: dict[str, float], old: dict[str, float] | None) -> bool:
    """True when `new` is at least as good: of equals the later one, which was trained at a lower rate, is kept."""
    if old is None:
        return True
    if judge.name not in new:
        return False
    return new[judge.name] >= old[judge.name] if judge.higher_is_better else new[judge.name] <= old[judge.name]


def _class_figures(gold_N: Array, predicted_N: Array, n_classes: int) -> dict[str, float]:
    sums = metrics.class_sums(np.ones((1, len(gold_N))), gold_N, predicted_N, n_classes)[0]
    scored_C = np.bincount(gold_N, minlength=n_classes) > 0
    return {
        "accuracy": float((gold_N == predicted_N).mean()),
        "macro_f1": float(metrics.CLASSIFY["macro_f1"].of(sums, scored_C)),
    }


def _label_set_figures(gold_NC: Array, predicted_NC: Array) -> dict[str, float]:
    """accuracy: rows whose labels are all right. The averages run over the labels that some row has."""
    sums = np.stack([(gold_NC & predicted_NC).sum(0), gold_NC.sum(0), predicted_NC.sum(0)]).astype(np.float64)
    scored_C = sums[metrics.GOLD] > 0
    return {
        "accuracy": float((gold_NC == predicted_NC).all(1).mean()),
        "macro_f1": float(metrics.CLASSIFY["macro_f1"].of(sums, scored_C)) if scored_C.any() else 0.0,
        "micro_f1": float(metrics.CLASSIFY["micro_f1"].of(sums, scored_C)),
    }


def _tag_figures(gold_N: Array, predicted_N: Array, row_N: Array, names: list[str]) -> dict[str, float]:
    order = np.argsort(row_N, kind="stable")
    cuts = np.flatnonzero(np.diff(row_N[order])) + 1
    gold, predicted = (
        [[names[tag] for tag in part] for part in np.split(tags_N[order], cuts)] for tags_N in (gold_N, predicted_N)
    )
    types = entities.entity_types(gold, predicted)
    sums = entities.entity_counts(gold, predicted, types).sum(axis=0)
    return {
        "accuracy": float((gold_N == predicted_N).mean()),
        "entity_f1": float(metrics.TAG["entity_f1"].of(sums, np.ones(len(types), dtype=np.bool_))),
    }
