"""The training loop: a generator of finished steps. What happens between two steps is the caller's business."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from wyrmling.core.errors import WyrmlingError
from wyrmling.core.log import warn
from wyrmling.model.heads import Model
from wyrmling.train.batches import Batch
from wyrmling.train.objectives import LossFunction
from wyrmling.train.optim import Optimizer, clip

# Steps in a row whose loss or gradient is not a number; each is left out, the next one ends the run.
MAX_BAD_STEPS = 3


class Step(NamedTuple):
    """One finished optimizer step.

    number     counts from 1
    loss       mean over the step's targets, in nats; not a number when the step was left out
    targets    learned tokens, labels or tags
    tokens     input tokens
    rate       the schedule's share of the peak learning rate
    grad_norm  before clipping, over the clipped groups
    left_out   True when the loss or a gradient was not finite and the weights stayed as they were
    """

    number: int
    loss: float
    targets: int
    tokens: int
    rate: float
    grad_norm: float
    seconds: float
    left_out: bool


def steps(
    model: Model,
    optimizer: Optimizer,
    loss: LossFunction,
    batch_of: Callable[[int], list[Batch]],
    *,
    first: int,
    last: int,
    schedule: Callable[[int], float],
    seed: int,
    max_norm: float,
    bad_in_a_row: int = 0,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Generator[Step, None, None]:
    """Train from step `first` to step `last`, yielding after each.

    batch_of      the micro-batches of a step
    schedule      share of the peak learning rate at a step
    seed          of dropout; each step draws from (seed, step), so nothing has to be saved to go on
    max_norm      clipping of the AdamW groups; 0 = off. Muon's updates have a fixed size already
    bad_in_a_row  steps left out just before `first`, when going on after an interruption
    Raises        WyrmlingError after more than MAX_BAD_STEPS steps in a row without a finite loss and gradient
    """
    device = next(model.parameters()).device
    model.train()
    for number in range(first, last + 1):
        began = time.monotonic()
        torch.manual_seed(step_seed(seed, number))
        batches = [batch.to(device) for batch in batch_of(number)]
        loss_sum, targets = accumulate(model, loss, batches, autocast)
        finite = math.isfinite(loss_sum)
        norm = 0.0
        if finite and targets > 0:
            scale(optimizer, 1 / targets)
            norm = clip(_clipped(optimizer), max_norm)
            finite = math.isfinite(norm) and _all_finite(optimizer.gradients(rule="muon"))
        rate = schedule(number)
        if finite and targets > 0:
            optimizer.step(rate)
        optimizer.zero_grad()
        bad_in_a_row = 0 if finite else bad_in_a_row + 1
        mean = loss_sum / targets if targets else math.nan
        tokens = sum(len(batch.tokens) for batch in batches)
        yield Step(number, mean, targets, tokens, rate, norm, time.monotonic() - began, not finite)
        if not finite:
            _report_bad(number, bad_in_a_row, mean)


def accumulate(
    model: Model,
    loss: LossFunction,
    batches: list[Batch],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[float, int]:
    """(loss sum, target count) over the micro-batches; the gradients of the sum are left in the parameters."""
    total, count = 0.0, 0
    for batch in batches:
        with autocast():
            part, targets = loss(model, batch)
        if targets:
            part.backward()  # type: ignore[no-untyped-call]
            total += float(part.detach())
            count += targets
    return total, count


def scale(optimizer: Optimizer, factor: float) -> None:
    """Multiply all gradients: the sum over the targets becomes their mean."""
    gradients = optimizer.gradients()
    if gradients:
        torch._foreach_mul_(gradients, factor)


def step_seed(seed: int, step: int) -> int:
    """A seed for the draws of one step, unlike that of any other step of this seed."""
    return (seed * 1_000_003 + step) % 2**63


def _clipped(optimizer: Optimizer) -> list[torch.Tensor]:
    return optimizer.gradients(but="muon")


def _all_finite(gradients: list[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def _report_bad(step: int, in_a_row: int, loss: float) -> None:
    if in_a_row > MAX_BAD_STEPS:
        raise WyrmlingError(
            f"{in_a_row} steps in a row had no finite loss or gradient (step {step}: loss {loss:g})",
            where=f"step {step}",
            fix="lower the learning rate of this train step, or look for broken rows in its sources",
        )
    warn(f"step {step} had no finite loss or gradient and was left out ({in_a_row} in a row)")
