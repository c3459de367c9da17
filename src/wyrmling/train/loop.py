"""The training loop: a generator of finished steps. What happens between two steps is the caller's business."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from wyrmling.core.log import warn
from wyrmling.model.heads import Model
from wyrmling.train.batches import Batch
from wyrmling.train.objectives import LossFunction
from wyrmling.train.optim import Norm, Optimizer, clip
from wyrmling.train.prefetch import Feed
from wyrmling.train.team import ALONE, Team

Autocast = Callable[[], AbstractContextManager[Any]]


class Step(NamedTuple):
    """One finished optimizer step.

    number     counts from 1
    loss       mean over the step's targets, in nats
    targets    learned tokens, labels or tags
    tokens     input tokens
    rate       the schedule's share of the peak learning rate
    grad_norm  before clipping, over the clipped groups
    left_out   why the weights stayed as they were; empty when they moved
    """

    number: int
    loss: float
    targets: int
    tokens: int
    rate: float
    grad_norm: float
    seconds: float
    left_out: str


def steps(
    model: Model,
    optimizer: Optimizer,
    loss: LossFunction,
    feed: Feed,
    *,
    first: int,
    last: int,
    schedule: Callable[[int], float],
    seed: int,
    max_norm: float,
    judge: Callable[[float, float], str],
    autocast: Autocast = nullcontext,
    team: Team = ALONE,
) -> Generator[Step, None, None]:
    """Train from step `first` to step `last`, yielding after each.

    feed          the micro-batches of a step; smaller ones when the memory does not hold them
    schedule      share of the peak learning rate at a step
    seed          of dropout; each step draws from (seed, step), so nothing has to be saved to go on
    max_norm      clipping of the AdamW groups; 0 = off. Muon's updates have a fixed size already
    judge         says of loss and gradient norm why the step must be left out; "" when it may move the weights
    team          processes that train together; each has its share of the micro-batches
    """
    model.train()
    for number in range(first, last + 1):
        began = time.monotonic()
        torch_seed = team.seed(step_seed(seed, number))
        loss_sum, targets, tokens = _gradients(model, optimizer, loss, feed, number, torch_seed, autocast, team)
        mean, norm, left_out, rate = math.nan, 0.0, "", schedule(number)
        if targets:
            mean = loss_sum / targets
            norm, factor = average(optimizer, targets, max_norm, team.norm)
            left_out = judge(mean, norm if _all_finite(optimizer.gradients(rule="muon"), team.norm) else math.nan)
            if not left_out:
                optimizer.step(rate, factor)
        optimizer.zero_grad()
        yield Step(number, mean, targets, tokens, rate, norm, time.monotonic() - began, left_out)


def _gradients(
    model: Model,
    optimizer: Optimizer,
    loss: LossFunction,
    feed: Feed,
    number: int,
    seed: int,
    autocast: Autocast,
    team: Team,
) -> tuple[float, int, int]:
    """(loss sum, target count, input tokens) of a step; where the memory is too small, in micro-batches of half.

    They are those of all processes, as the gradients then are.
    """
    device = next(model.parameters()).device
    batches = feed.step(number)
    while True:
        torch.manual_seed(seed)
        done: tuple[float, int] | None = None
        try:
            done = accumulate(model, loss, [batch.to(device) for batch in batches], autocast)
        except (RuntimeError, MemoryError) as error:
            # Other processes may be waiting for one that holds a part of their model.
            if not is_out_of_memory(error) or team.cut:
                raise
        if not team.any(done is None) and done is not None:
            total, count, tokens = team.total(*done, sum(batch.n_tokens for batch in batches))
            team.sum_gradients()
            return total, int(count), int(tokens)
        # Out of the handler, whose traceback held the values of the forward pass.
        optimizer.zero_grad()
        _free()
        batches = feed.halve(number, team.most)
        warn(
            f"step {number} did not fit into the memory: done again, and from here on, in micro-batches of "
            f"{feed.batches.micro_batch_tokens} tokens; what it learns stays the same"
        )


def accumulate(
    model: Model,
    loss: LossFunction,
    batches: list[Batch],
    autocast: Autocast = nullcontext,
) -> tuple[float, int]:
    """(loss sum, target count) over the micro-batches; the gradients of the sum are left in the parameters."""
    total, count = 0.0, 0
    for batch in batches:
        with autocast():
            part, targets = loss(model, batch)
        if part.requires_grad:
            part.backward()  # type: ignore[no-untyped-call]
            total += float(part.detach())
            count += targets
    return total, count


def average(
    optimizer: Optimizer, targets: int, max_norm: float, norm: Norm = torch.nn.utils.get_total_norm
) -> tuple[float, float]:
    """From gradients of a sum over the targets to those of their mean, clipped but for Muon's.

    Muon's are divided here. Returns the norm of the others before clipping, and the factor for `Optimizer.step`.
    """
    if matrices := optimizer.gradients(rule="muon"):
        torch._foreach_mul_(matrices, 1 / targets)
    return clip(optimizer.gradients(but="muon"), max_norm, norm, count=targets)


def step_seed(seed: int, step: int) -> int:
    """A seed for the draws of one step, unlike that of any other step of this seed."""
    return (seed * 1_000_003 + step) % 2**63


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had; on a CPU torch says so in a plain RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _free() -> None:
    """Give memory that nothing uses back, before asking again."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _all_finite(gradients: list[torch.Tensor], norm: Norm) -> bool:
    """Sums of squares are finite when all of their terms are; one number to wait for instead of one per matrix."""
    return not gradients or bool(torch.isfinite(norm(gradients)))
