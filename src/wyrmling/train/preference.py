"""Losses of preferred and rated answers: DPO, ORPO and KTO, and the log-probabilities that they compare.

Letters: S sequences, R learned tokens, I items (see choices.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wyrmling.config import Preference, PreferenceLoss
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.train.batches import IGNORED, Batch, Choices
from wyrmling.train.cross_entropy import token_nats


def preference_loss(
    model: Model, batch: Batch, *, settings: Preference | None = None, label_smoothing: float = 0.0
) -> tuple[Tensor, int]:
    """The loss of preferred or rated answers, and the number of items.

    label_smoothing   dpo: the share of the preferences that are taken to be the other way round (conservative DPO)
    """
    asked, choices = settings or Preference(), batch.choices
    if choices is None:
        return _passes(model, batch, asked)
    if asked.loss == "kto":
        # Nothing is learned from how far the model has moved, so the other answers need no gradient.
        own = choices.side_S == 0
        with torch.no_grad():
            moved_S = log_probabilities(model, part(batch, ~own))
        logp_S = moved_S.new_empty(len(own)).masked_scatter(~own, moved_S)
        logp_S = logp_S.masked_scatter(own, log_probabilities(model, part(batch, own)))
    else:
        logp_S = log_probabilities(model, batch)
    return loss_of(logp_S, batch, asked, label_smoothing=label_smoothing)


def _passes(model: Model, batch: Batch, settings: Preference) -> tuple[Tensor, int]:
    """Of a filler, which has no answers: nothing; with a target, as many passes as the batches of others take."""
    if bool((batch.targets == IGNORED).all()):
        return batch.tokens.new_zeros((), dtype=model.output.weight_VD.dtype), 0
    if settings.loss == "kto":
        with torch.no_grad():
            log_probabilities(model, batch)
    return -log_probabilities(model, batch).sum(), 1


def loss_of(logp_S: Tensor, batch: Batch, settings: Preference, *, label_smoothing: float = 0.0) -> tuple[Tensor, int]:
    """The loss and the number of items, from the log-probability of each sequence."""
    assert batch.choices is not None
    loss_I = LOSSES[settings.loss](logp_S, batch, batch.choices, settings, label_smoothing)
    return loss_I.sum(), len(loss_I)


def dpo(logp_S: Tensor, batch: Batch, choices: Choices, settings: Preference, label_smoothing: float) -> Tensor:
    """-log σ(β (r_chosen - r_rejected)), r the log-ratio to the reference (Rafailov 2023, arXiv 2305.18290)."""
    chosen_I, rejected_I = _sides(logp_S - _reference(choices), choices)
    margin_I = settings.beta * (chosen_I - rejected_I)
    return -(1 - label_smoothing) * F.logsigmoid(margin_I) - label_smoothing * F.logsigmoid(-margin_I)


def orpo(logp_S: Tensor, batch: Batch, choices: Choices, settings: Preference, label_smoothing: float) -> Tensor:
    """NLL of the chosen answer - β log σ(log odds ratio), both by token (Hong 2024, arXiv 2403.07691)."""
    mean_S = logp_S / counts(batch)
    odds_S = mean_S - torch.log1p(-torch.exp(mean_S))
    (chosen_I, _), (odds_chosen_I, odds_rejected_I) = _sides(mean_S, choices), _sides(odds_S, choices)
    return -chosen_I - settings.beta * F.logsigmoid(odds_chosen_I - odds_rejected_I)


def kto(logp_S: Tensor, batch: Batch, choices: Choices, settings: Preference, label_smoothing: float) -> Tensor:
    """λ (1 - σ(±β (r - z))): r of the rated answer, z that of others' answers on average (Ethayarajh 2024, 2402.01306).

    z is the mean over a group, at least 0, and nothing is learned from it.
    """
    ratio_I, moved_I = _sides(logp_S - _reference(choices), choices)
    good_I, group_I = (values[choices.side_S == 0] for values in (choices.good_S, choices.group_S))
    groups = int(group_I.max()) + 1
    total_G = moved_I.new_zeros(groups).index_add(0, group_I, moved_I.detach())
    mean_G = (total_G / torch.bincount(group_I, minlength=groups)).clamp(min=0)
    sign_I = torch.where(good_I, 1.0, -1.0).to(ratio_I)
    weight_I = torch.where(good_I, settings.desirable_weight, settings.undesirable_weight).to(ratio_I)
    return weight_I * torch.sigmoid(-sign_I * settings.beta * (ratio_I - mean_G[group_I]))


Loss = Callable[[Tensor, Batch, Choices, Preference, float], Tensor]
LOSSES: dict[PreferenceLoss, Loss] = {"dpo": dpo, "orpo": orpo, "kto": kto}


def log_probabilities(model: Model, batch: Batch) -> Tensor:
    """The log-probability of the learned tokens of each sequence, in nats, (S)."""
    rows_R = (batch.targets != IGNORED).nonzero().squeeze(1)
    segments = Segments(batch.lengths)
    features_RD = model.features(batch.tokens, segments, rows_R)
    output = model.output
    nats_R = token_nats(features_RD, output.weight_VD, batch.targets[rows_R], output.bias_V, cap=model.logit_cap)
    of_R = segments.segment_N(rows_R.device)[rows_R]
    return nats_R.new_zeros(len(segments)).index_add(0, of_R, -nats_R)


def looked_at(model: Model, batch: Batch) -> Tensor:
    """As `log_probabilities`. A filler goes through the model all the same, as others may wait there."""
    return log_probabilities(model, batch if batch.choices is not None else batch.with_a_target())


def on_the_chosen_side(logp_S: Tensor, batch: Batch) -> int:
    """How many pairs have the larger log-ratio to the reference, or without one the larger mean, on the chosen side."""
    assert batch.choices is not None
    reference_S = batch.choices.reference_S
    better_S = logp_S / counts(batch) if reference_S is None else logp_S - reference_S
    chosen_I, rejected_I = _sides(better_S, batch.choices)
    return int((chosen_I > rejected_I).sum())


def counts(batch: Batch) -> Tensor:
    """Learned tokens of each sequence, (S)."""
    learned_N = batch.targets != IGNORED
    segment_N = Segments(batch.lengths).segment_N(learned_N.device)
    return torch.bincount(segment_N[learned_N], minlength=len(batch.lengths))


def part(batch: Batch, keep_S: Tensor) -> Batch:
    """The batch with some of its sequences only."""
    kept = keep_S.nonzero().squeeze(1).tolist()
    tokens, targets = torch.split(batch.tokens, batch.lengths), torch.split(batch.targets, batch.lengths)
    return replace(
        batch,
        tokens=torch.cat([tokens[number] for number in kept]),
        lengths=[batch.lengths[number] for number in kept],
        targets=torch.cat([targets[number] for number in kept]),
        rows=batch.rows[kept],
        choices=None,
    )


def _sides(values_S: Tensor, choices: Choices) -> tuple[Tensor, Tensor]:
    """The values of the first and of the second sequence of each item, (I) each."""
    return values_S[choices.side_S == 0], values_S[choices.side_S == 1]


def _reference(choices: Choices) -> Tensor:
    assert choices.reference_S is not None
    return choices.reference_S
