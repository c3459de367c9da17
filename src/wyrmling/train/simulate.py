"""What a training step holds in memory, found by taking it with tensors that have sizes but no values.

The stage between the closed form of workload.py and real steps: model, loss and optimizer run as they are, so that the
count follows every change of them; it takes seconds, and none of the memory that it speaks of.
Source   torch's FakeTensorMode. Its MemTracker (torch.distributed._tools) refuses frozen weights and a second step.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from wyrmling.config import TrainStep
from wyrmling.core.hardware import Device
from wyrmling.model.attention import Segments
from wyrmling.model.design import FamilyName
from wyrmling.model.heads import Model
from wyrmling.train import trainable
from wyrmling.train.assemble import VALIDATION_TOKENS, Numerics, config_of, optimizer_for
from wyrmling.train.cross_entropy import token_nats
from wyrmling.train.objectives import OBJECTIVES
from wyrmling.train.sizing import Derived
from wyrmling.train.workload import BASE_GB, Work, merging_bytes

# A deeper model is taken with so many layers, and what one of them adds is multiplied. Before the second step there are
# no moments, and from then on a step holds what the one before it held.
FEW, STEPS = (2, 4), 2
# By how much the heap is larger than what passes through it, for the holes that batches of ever other sizes leave (the
# peaks of whole runs, benchmarks/forecast.py). A board's are assumed.
HOLES: dict[Device, float] = {"cpu": 2.2, "cuda": 1.1}


class Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of all tensors made under it that are still there, and the most there have been."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, made)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known[storage] = True
            size = storage.nbytes()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, size).atexit = False

    def _gone(self, size: int) -> None:
        self.now -= size


class Bytes(NamedTuple):
    """Bytes that a training step holds from step to step, and the most that are there for a while beside them."""

    kept: float
    passing: float


def memory_gb(step: TrainStep, work: Work, derived: Derived) -> float | None:
    """Peak memory of a process that takes the training step; None as `simulate`."""
    found = simulate(step, work, derived)
    if found is None:
        return None
    learning = found.kept + HOLES[work.device] * found.passing
    return BASE_GB[work.device] + max(learning, merging_bytes(work)) / 1e9


def simulate(step: TrainStep, work: Work, derived: Derived) -> Bytes | None:
    """The bytes of all tensors of a training step; None where a model can't be made from its sizes alone.

    Kept are weights and moments, passing are gradients and all values of micro-batches of documents of mean length.
    What a kernel takes without torch's allocator is not seen, and the kernels are those of a CPU.
    """
    shape = work.shape
    known = shape.family in get_args(FamilyName) and derived.optimizer != "adamw_8bit"
    if not known or work.effort.forward == 0:
        return None
    # Of frozen blocks the last are trained: with fewer of them there would be other shares.
    depths = FEW if shape.layers > FEW[1] and step.method != "freeze" else (shape.layers,)
    found = [_taken(step, replace(work, shape=replace(shape, layers=layers)), derived) for layers in depths]
    if len(found) == 1:
        return found[0]
    few, more = found
    deeper = (shape.layers - FEW[1]) / (FEW[1] - FEW[0])
    return Bytes(*(b + deeper * (b - a) for a, b in zip(few, more, strict=True)))


def _taken(step: TrainStep, work: Work, derived: Derived) -> Bytes:
    """The bytes of the second step, or of a look at the validation rows if that needs more."""
    numerics = Numerics(threads=1, dtype=work.dtype)
    looked_at = work.looked_at * derived.evaluate_every / derived.steps
    with numerics.autocast("cpu"):
        segments = _segments(work, min(work.micro_batch_tokens, work.batch_tokens))
        with torch.no_grad():
            seen = _segments(work, min(VALIDATION_TOKENS["cpu"], round(looked_at)))
    with FakeTensorMode(allow_non_fake_inputs=True), Held() as held:
        head = OBJECTIVES[step.objective].head
        model = Model(config_of(work.shape, dropout=derived.dropout), head, work.outputs, seed=None)
        adapters = trainable.prepare(model, step, seed=0, dtype=work.dtype)
        model.body.recompute = work.effort.recompute
        optimizer = optimizer_for(model.train(), derived, adapters)
        for _ in range(STEPS):
            held.most = held.now
            for _ in range(2 if work.batch_tokens > work.micro_batch_tokens else 1):
                with numerics.autocast("cpu"):
                    loss = loss_of(model, segments, work)
                loss.backward()  # type: ignore[no-untyped-call]
            del loss
            optimizer.step(1.0)
            optimizer.zero_grad()
        if looked_at:
            model.eval()
            with torch.no_grad(), numerics.autocast("cpu"):
                loss_of(model, seen, work)
        return Bytes(held.now, held.most - held.now)


def _segments(work: Work, tokens: int) -> Segments:
    """Documents of mean length, with the layout that they have in the arithmetic of now."""
    length = max(1, min(round(work.length), work.shape.context, tokens))
    segments = Segments([length] * max(1, round(tokens / length)))
    # A layout needs the lengths, which tensors without values don't have; it is kept for the model to find.
    segments.plan(torch.device("cpu"), work.shape.width)
    return segments


def loss_of(model: Model, segments: Segments, work: Work) -> Tensor:
    """As in objectives.py, where the learned places are looked up in the values."""
    tokens_N = torch.zeros(segments.n_tokens, dtype=torch.int64)
    learned = len(segments) if model.head_name == "classes" else max(1, round(work.logits * segments.n_tokens))
    rows_R, targets_R = torch.arange(learned), torch.zeros(learned, dtype=torch.int64)
    if model.head_name in ("classes", "tags"):
        logits_RC = model.logits(tokens_N, segments, rows_R)
        return F.cross_entropy(logits_RC.float(), targets_R, reduction="sum")
    features_RD, output = model.features(tokens_N, segments, rows_R), model.output
    return token_nats(features_RD, output.weight_VD, targets_R, output.bias_V, cap=model.logit_cap).sum()
