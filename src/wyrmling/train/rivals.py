"""Paired scores of the validation rows: whether one training run is surely behind another on the very same rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from wyrmling.config import TrainObjective
from wyrmling.evaluate.statistics import Floats, Ints, mcnemar, ratio_se, two_sided_p
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.train.batches import IGNORED, Batches

# Rows of logits that exist at one time.
CHUNK_ROWS = 512
# Objectives whose validation rows earn something each: right labels or tags, or likely tokens.
LABELS, TOKENS = ("classify", "tag"), ("causal", "masked", "sft")
PAIRED = (*LABELS, *TOKENS)


@dataclass(frozen=True)
class RowScores:
    """What each validation row earned: right labels or tags, or minus the nats of its tokens.

    Where a row may have several labels, each yes or no is a target.

    row_N      index of the row in the store
    earned_N   sum over the row's targets; higher is better
    targets_N  how many those are
    """

    row_N: Ints
    earned_N: Floats
    targets_N: Floats

    def save(self, path: Path) -> None:
        np.savez(path, row=self.row_N, earned=self.earned_N, targets=self.targets_N)

    @staticmethod
    def load(path: Path) -> RowScores:
        with np.load(path, allow_pickle=False) as found:
            return RowScores(found["row"], found["earned"], found["targets"])


def row_scores(
    model: Model,
    objective: TrainObjective,
    batches: Batches,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> RowScores:
    """The scores of the rows in `batches`, without dropout; the model is left in training mode.

    objective   one of PAIRED
    """
    device = next(model.parameters()).device
    rows: list[Any] = []
    earned: list[Any] = []
    model.eval()
    with torch.inference_mode(), autocast():
        for batch in batches.everything():
            moved = batch.to(device)
            if moved.targets.ndim == 2:
                right_SC = (model.logits(moved.tokens, Segments(moved.lengths)) > 0) == (moved.targets == 1)
                earned.append(right_SC.flatten().cpu().numpy())
                rows.append(np.repeat(batch.rows, right_SC.shape[1]))
                continue
            learned_R = (moved.targets != IGNORED).nonzero().squeeze(1)
            targets_R = moved.targets[learned_R]
            features_RD = model.features(moved.tokens, Segments(moved.lengths), learned_R)
            for part in torch.split(torch.arange(len(learned_R), device=device), CHUNK_ROWS):
                earned.append(_earned(model, features_RD[part], targets_R[part], objective).cpu().numpy())
            places = batch.rows if objective == "classify" else np.repeat(batch.rows, batch.lengths)
            rows.append(places[learned_R.cpu().numpy()])
    model.train()
    row_T, earned_T = np.concatenate(rows), np.concatenate(earned).astype(np.float64)
    row_N, inverse_T = np.unique(row_T, return_inverse=True)
    earned_N = np.bincount(inverse_T, earned_T).astype(np.float64)
    return RowScores(row_N, earned_N, np.bincount(inverse_T).astype(np.float64))


def _earned(model: Model, features_RD: torch.Tensor, targets_R: torch.Tensor, objective: TrainObjective) -> Any:
    logits_RV = model.project(features_RD).float()
    if objective in LABELS:
        return (logits_RV.argmax(dim=-1) == targets_R).float()
    return -F.cross_entropy(logits_RV, targets_R, reduction="none")


@dataclass(frozen=True)
class Comparison:
    """The mean of one run's targets minus another's, on the same rows; p is two-sided, `test` says by which test."""

    difference: float
    p: float
    test: str
    rows: int


def compare(ours: RowScores, theirs: RowScores) -> Comparison | None:
    """Ours minus theirs; None when they are not of the same rows and targets (another tokenizer, other data).

    Rows with one label each: McNemar's exact test. Else the difference is a ratio of sums over rows, with its
    linearised standard error and a normal test.
    """
    same = len(ours.row_N) == len(theirs.row_N) and bool(
        (ours.row_N == theirs.row_N).all() and (ours.targets_N == theirs.targets_N).all()
    )
    if not same or len(ours.row_N) < 2:
        return None
    gain_N, total = ours.earned_N - theirs.earned_N, float(ours.targets_N.sum())
    difference = float(gain_N.sum()) / total
    if set(np.unique(ours.earned_N)) <= {0.0, 1.0} and total == len(gain_N):
        p = mcnemar(int((gain_N > 0).sum()), int((gain_N < 0).sum()))
        return Comparison(difference, p, "McNemar", len(gain_N))
    p = two_sided_p(difference, ratio_se(gain_N, ours.targets_N))
    return Comparison(difference, p, "paired", len(gain_N))
