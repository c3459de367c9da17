"""What is learned: each objective is a function (model, batch) -> (loss sum in nats, target count).

Sums, never means: however a batch is split, the gradient of the sum divided by the count of the whole is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wyrmling.config import TrainObjective
from wyrmling.model.attention import Segments
from wyrmling.model.heads import HeadName, Model
from wyrmling.train.batches import IGNORED, Batch
from wyrmling.train.cross_entropy import cross_entropy_sum

Loss = tuple[Tensor, int]
LossFunction = Callable[[Model, Batch], Loss]


def token_loss(model: Model, batch: Batch) -> Loss:
    """Cross-entropy of the learned tokens; the others never reach the output matrix."""
    rows_R = (batch.targets != IGNORED).nonzero().squeeze(1)
    if len(rows_R) == 0:
        return batch.tokens.new_zeros((), dtype=model.output.weight_VD.dtype), 0
    features_RD = model.features(batch.tokens, Segments(batch.lengths), rows_R)
    output = model.output
    return cross_entropy_sum(features_RD, output.weight_VD, batch.targets[rows_R], output.bias_V, cap=model.logit_cap)


def class_loss(model: Model, batch: Batch, *, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of the class of each document, or of the tag of each first piece of a word.

    label_smoothing   share of the target probability spread over all classes (Szegedy 2016, arXiv 1512.00567)
    """
    rows_R = (batch.targets != IGNORED).nonzero().squeeze(1)
    if len(rows_R) == 0:
        return batch.tokens.new_zeros((), dtype=model.output.weight_VD.dtype), 0
    logits_RC = model.logits(batch.tokens, Segments(batch.lengths), rows_R)
    wide_RC = logits_RC.to(torch.promote_types(logits_RC.dtype, torch.float32))
    loss = F.cross_entropy(wide_RC, batch.targets[rows_R], reduction="sum", label_smoothing=label_smoothing)
    return loss, len(rows_R)


class Objective(NamedTuple):
    """head: which head it trains. loss: its function. learns: what one target is called in messages."""

    head: HeadName
    loss: Callable[..., Loss]
    target: str


OBJECTIVES: dict[TrainObjective, Objective] = {
    "causal": Objective("next", token_loss, "tokens"),
    "masked": Objective("masked", token_loss, "hidden tokens"),
    "sft": Objective("next", token_loss, "answer tokens"),
    "classify": Objective("classes", class_loss, "labels"),
    "tag": Objective("tags", class_loss, "word tags"),
}


def loss_function(objective: TrainObjective, *, label_smoothing: float) -> LossFunction:
    """The objective's function with its settings filled in."""
    loss = OBJECTIVES[objective].loss
    return partial(loss, label_smoothing=label_smoothing) if loss is class_loss else loss
