"""Peak learning rates, each with its reason; a part of sizing.py. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wyrmling.config import PreferenceLoss, TrainStep
from wyrmling.train.methods import METHODS

if TYPE_CHECKING:
    from wyrmling.train.sizing import Shape

# Largest rate of a small encoder that learns labels or tags: MiniLM on Banking77 and WNUT-17 (benchmarks/RESULTS.md).
SMALL_ENCODER_RATE = 2e-4
# Learning rates of preferences, against those of fine-tuning: 1e-6 and 8e-6 at 1G weights (TRL's DPO and KTO; ORPO).
PREFERENCE_RATE: dict[PreferenceLoss, float] = {"dpo": 0.05, "kto": 0.05, "orpo": 0.4}


class Rates(NamedTuple):
    """Peak learning rates of the groups of parameters."""

    matrices: float
    embedding: float
    head: float
    scalars: float


def learning_rates(
    step: TrainStep, shape: Shape, optimizer: str, *, scratch: bool, first: bool, why: dict[str, str]
) -> Rates:
    """Peak rates of all groups: those that the settings name, the others in a derived ratio to that of the matrices.

    scratch, first   as in `sizing.derive_step`
    why              gets the reasons of derived ones
    """
    if optimizer == "muon":
        base = 0.02
        ratio_embedding, ratio_head = (1.5 if shape.tied else 5.0), 0.2
        reason = "0.02, the rate that Muon needs at any width"
    elif optimizer == "sgd":
        base, ratio_embedding, ratio_head = 0.1, 1.0, 1.0
        reason = "0.1, the customary rate with momentum 0.9"
    elif first and scratch:
        base = min(3e-3, 0.00235 * (shape.body_parameters / 108e6) ** (-1 / 3))
        ratio_embedding, ratio_head = 1.0, 1.0
        reason = "falls with the cube root of the size (OLMo-core), at most 3e-3"
    else:
        base = 2e-5 * (shape.body_parameters / 1e9) ** (-1 / 3)
        what = "2e-5 at 1G weights, with the inverse cube root of the size"
        if step.objective in ("classify", "tag") and not shape.causal and METHODS[step.method].rate == 1:
            steeper = min(SMALL_ENCODER_RATE, 5e-5 * (shape.body_parameters / 85e6) ** (-2 / 3))
            if steeper > base:
                base, what = steeper, "5e-5 at 85M weights as for BERT, more for a smaller encoder, at most 2e-4"
        # Labels and tags have a head of their own; what predicts tokens is as good as the rest.
        ratio_embedding, ratio_head = 1.0, (10.0 if step.objective in ("classify", "tag") else 1.0)
        reason = what + ("; a new head learns 10 times faster" if ratio_head > 1 else "")
    if step.objective == "preference" and optimizer != "muon":
        base, ratio_head = base * PREFERENCE_RATE[step.preference.loss], 1.0
        reason = f"{PREFERENCE_RATE[step.preference.loss]:g} of the rate of fine-tuning, as is usual for preferences"
    method = METHODS[step.method]
    if method.rate != 1 and optimizer != "muon":
        ratio_head *= method.head_rate / method.rate
        base, reason = base * method.rate, f"{reason}; {method.reason}"
    lr = step.lr or base
    head = step.head_lr or lr * ratio_head
    # Norms and biases that are already good must not run ahead of the matrices between them, as a new head may.
    fresh = optimizer == "muon" or (first and scratch)
    rates = Rates(lr, step.embedding_lr or lr * ratio_embedding, head, step.scalar_lr or (head if fresh else lr))
    reasons = {
        "lr": reason,
        "embedding_lr": f"{ratio_embedding:g} times lr" + (": it is the output matrix too" if shape.tied else ""),
        "head_lr": f"{ratio_head:g} times lr",
        "scalar_lr": "that of the output matrix" if fresh else "lr: they are already good",
    }
    why |= {name: text for name, text in reasons.items() if getattr(step, name) is None}
    return rates
