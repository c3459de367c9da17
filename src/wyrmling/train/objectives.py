"""What is learned: each objective is a function (model, batch) -> (loss sum in nats, target count).

Sums, never means: however a batch is split, the gradient of the sum divided by the count of the whole is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wyrmling.config import Preference, TrainObjective, TrainStep
from wyrmling.core.errors import BadSetting
from wyrmling.model.attention import Segments
from wyrmling.model.heads import HeadName, Model
from wyrmling.train.batches import IGNORED, Batch
from wyrmling.train.cross_entropy import cross_entropy_sum
from wyrmling.train.preference import preference_loss

Loss = tuple[Tensor, int]
LossFunction = Callable[[Model, Batch], Loss]


def token_loss(model: Model, batch: Batch, *, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of the learned tokens; the others never reach the output matrix."""
    rows_R = (batch.targets != IGNORED).nonzero().squeeze(1)
    if len(rows_R) == 0:
        return batch.tokens.new_zeros((), dtype=model.output.weight_VD.dtype), 0
    features_RD = model.features(batch.tokens, Segments(batch.lengths), rows_R)
    output = model.output
    return cross_entropy_sum(
        features_RD,
        output.weight_VD,
        batch.targets[rows_R],
        output.bias_V,
        cap=model.logit_cap,
        smoothing=label_smoothing,
    )


def class_loss(
    model: Model,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
    weights: Sequence[float] | None = None,
    r_drop: float = 0.0,
) -> Loss:
    """Cross-entropy of the class of each document, or of the tag of each first piece of a word.

    label_smoothing   share of the target probability spread over all classes (Szegedy 2016, arXiv 1512.00567)
    weights           factor of the loss of each class. None: 1
    r_drop            weight of what two passes with other dropped values disagree about, see `_disagreement`
    Where rows may have several labels, each label of each row is a yes or no: binary cross-entropy, and as many
    targets. Weights are then those of the yes, and smoothing moves both answers to the middle.
    """
    several = batch.targets.ndim == 2
    rows_R = ((batch.targets[:, 0] if several else batch.targets) != IGNORED).nonzero().squeeze(1)
    if len(rows_R) == 0:
        return batch.tokens.new_zeros((), dtype=model.output.weight_VD.dtype), 0
    targets = batch.targets[rows_R]
    of_one = _yes_or_no if several else _one_class
    if not (r_drop and model.training):
        return of_one(_logits(model, batch.tokens, batch.lengths, rows_R), targets, label_smoothing, weights)
    # Both passes at once: every document a second time behind the first.
    places = len(batch.targets)
    logits_RC = _logits(
        model, torch.cat([batch.tokens, batch.tokens]), 2 * batch.lengths, torch.cat([rows_R, rows_R + places])
    )
    loss, count = of_one(logits_RC, torch.cat([targets, targets]), label_smoothing, weights)
    apart = _disagreement(*logits_RC.chunk(2), several=several)
    return loss / 2 + r_drop / 4 * apart, count // 2


def _logits(model: Model, tokens_N: Tensor, lengths: list[int], rows_R: Tensor) -> Tensor:
    """(R, C), in float32 at least."""
    logits_RC = model.logits(tokens_N, Segments(lengths), rows_R)
    return logits_RC.to(torch.promote_types(logits_RC.dtype, torch.float32))


def _one_class(logits_RC: Tensor, targets_R: Tensor, label_smoothing: float, weights: Sequence[float] | None) -> Loss:
    loss = F.cross_entropy(
        logits_RC,
        targets_R,
        None if weights is None else logits_RC.new_tensor(weights),
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return loss, len(targets_R)


def _yes_or_no(logits_SC: Tensor, targets_SC: Tensor, label_smoothing: float, weights: Sequence[float] | None) -> Loss:
    smooth_SC = targets_SC.to(logits_SC) * (1 - label_smoothing) + label_smoothing / 2
    weight_C = None if weights is None else logits_SC.new_tensor(weights)
    loss = F.binary_cross_entropy_with_logits(logits_SC, smooth_SC, pos_weight=weight_C, reduction="sum")
    return loss, targets_SC.numel()


def _disagreement(one_RC: Tensor, other_RC: Tensor, *, several: bool) -> Tensor:
    """KL(p, q) + KL(q, p) = sum (p - q)(log p - log q) of two predictions, summed over rows.

    With a quarter of `r_drop` beside the mean of both cross-entropies this is half the loss of R-Drop (Liang 2021,
    arXiv 2106.14448), whose alpha `r_drop` is; half, so that a step is as large as without.
    several   a row may have several labels, each a yes or no with a logit of its own
    """
    if several:
        return ((one_RC.sigmoid() - other_RC.sigmoid()) * (one_RC - other_RC)).sum()
    log_p_RC, log_q_RC = one_RC.log_softmax(-1), other_RC.log_softmax(-1)
    return ((log_p_RC.exp() - log_q_RC.exp()) * (log_p_RC - log_q_RC)).sum()


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
    "preference": Objective("next", preference_loss, "answer tokens"),
}


def loss_function(
    objective: TrainObjective,
    *,
    label_smoothing: float = 0.0,
    weights: Sequence[float] | None = None,
    neftune: float = 0.0,
    r_drop: float = 0.0,
    preference: Preference | None = None,
) -> LossFunction:
    """The objective's function with its settings filled in. weights: of classes or tags, see `class_weights`."""
    loss = partial(OBJECTIVES[objective].loss, label_smoothing=label_smoothing)
    if preference is not None and objective == "preference":
        loss = partial(loss, settings=preference)
    if weights is not None:
        loss = partial(loss, weights=weights)
    if r_drop:
        loss = partial(loss, r_drop=r_drop)
    return with_noise(loss, neftune) if neftune else loss


def with_noise(loss: LossFunction, alpha: float) -> LossFunction:
    """The loss with uniform noise on the embeddings while training (NEFTune; Jain 2023, arXiv 2310.05914).

    alpha   the noise of a document of L tokens and width D is within alpha / sqrt(L D)
    """

    def noisy(model: Model, batch: Batch) -> Loss:
        noise = _Noise(alpha)
        handles = (
            model.body.register_forward_pre_hook(noise.look),
            model.body.embedding.register_forward_hook(noise.add),
        )
        try:
            return loss(model, batch)
        finally:
            for handle in handles:
                handle.remove()

    return noisy


class _Noise:
    """Adds to what the embedding gives, (P, D) in the layout of our models or (B, T, D) in that of transformers."""

    def __init__(self, alpha: float) -> None:
        self.alpha, self.segments = alpha, Segments([1])

    def look(self, body: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Which documents the body is about to read."""
        self.segments = inputs[1]

    def add(self, embedding: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        if not embedding.training:
            return None
        lengths: Tensor | int = output.shape[-2]
        if output.ndim == 2:
            of_token_N = torch.tensor(self.segments.lengths)[self.segments.segment_N()]
            lengths = of_token_N.to(output.device)[self.segments.plan(output.device, output.shape[-1]).order_P][:, None]
        reach = self.alpha / (torch.as_tensor(lengths, dtype=torch.float32) * output.shape[-1]).sqrt()
        return output + (2 * torch.rand_like(output) - 1) * reach.to(output)


def class_weights(
    step: TrainStep, names: Sequence[str], counts: Sequence[int], *, rows: int | None = None
) -> list[float] | None:
    """Factors of the loss by class, from `class_weights` of the step; None when there are none.

    names, counts   of all classes, and how often each is learned
    rows            where rows may have several labels, how many there are
    "balanced"      rows / (classes x rows of the class), as scikit-learn has it: the mean over rows is 1; for several
                    labels rows without the label over rows with it
    Raises          BadSetting for a name that no class has
    """
    asked = step.class_weights
    if asked is None:
        return None
    if asked == "balanced":
        if rows is not None:
            return [(rows - count) / count if count else 1.0 for count in counts]
        seen = sum(count > 0 for count in counts)
        return [sum(counts) / (seen * count) if count else 0.0 for count in counts]
    if unknown := [name for name in asked if name not in names]:
        raise BadSetting(
            f"class_weights names {unknown[0]!r}, which no row has",
            where=f"train.{step.name}.class_weights",
            fix=f"the names are: {', '.join(names[:30])}",
        )
    return [asked.get(name, 1.0) for name in names]
