"""A team of processes that torch's launcher started: team.py's questions, answered by collectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import timedelta
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from wyrmling.config import Launch
from wyrmling.core import hardware, ranks
from wyrmling.core.energy import SPENT, Cost
from wyrmling.core.errors import BadSetting
from wyrmling.core.log import say
from wyrmling.model import parallel
from wyrmling.model.foreign import Foreign
from wyrmling.model.heads import Model
from wyrmling.model.layout import Grid, Layout, layout_of, local
from wyrmling.train.batches import Batch, Batches
from wyrmling.train.exchange import Exchange
from wyrmling.train.objectives import Loss, LossFunction
from wyrmling.train.spread import spread
from wyrmling.train.team import Team

T = TypeVar("T")
# The longest that a process waits for another: one may be writing a large model.
PATIENCE = timedelta(hours=2)
# Gradients are summed over copies of the model in buckets of so many values.
BUCKET = 2**25


class Launched(Team):
    """A process among others, or alone but told how to spread the model. All of them must call the same methods."""

    def __init__(self, device: hardware.Device) -> None:
        super().__init__(device)
        if not dist.is_initialized():
            _begin(device)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._model: nn.Module = nn.Module()
        self._partial: frozenset[str] = frozenset()

    @property
    def data_ranks(self) -> int:
        return self.grid.replicas * self.grid.shards

    @property
    def parts(self) -> int:
        return self.grid.shards * self.grid.tensor

    @property
    def cut(self) -> bool:
        # With one process FSDP cuts nothing, but it wraps everything.
        return self._by_rows or self.parts > 1

    @property
    def _by_rows(self) -> bool:
        return self.strategy != "ddp"

    @property
    def _data_rank(self) -> int:
        return self.rank // self.grid.tensor

    @property
    def _speaks(self) -> bool:
        """Whether this is the first of the ranks that compute the same batches."""
        return self.rank % self.grid.tensor == 0

    def build(self, make: Callable[[], tuple[Any, ...]], launch: Launch, *, method: str) -> tuple[Any, ...]:
        made = make() if self.first else None
        told: Any = None
        if made is not None:
            model, *rest = made
            light = not isinstance(model, Foreign) and method != "qlora"
            count = sum(p.numel() for p in model.parameters())
            classes = model.n_out if model.head_name in ("classes", "tags") else 0
            told = (model.config, model.head_name, classes, rest) if light else None, count
        plan, count = self.same(told)
        self._spread(launch, count, method=method, light=plan is not None)
        if made is not None:
            return made
        return make() if plan is None else (parallel.twin(*plan[:3]), *plan[3])

    def _spread(self, launch: Launch, parameters: int, *, method: str, light: bool) -> None:
        near = ranks.local_world()
        found = spread(launch, world=self.world, node=near, parameters=parameters, memory_gb=_memory_gb(self.device))
        if (found.strategy != "ddp" or found.tensor > 1) and not light:
            raise BadSetting(
                "a model in 4 bits, or one that transformers computes, can't be cut over processes",
                where="launch.strategy",
                fix='set launch.strategy = "ddp"',
            )
        if found.tensor > 1 and method == "lora":
            raise BadSetting(
                'matrices that are shared by processes can\'t be corrected by method = "lora"',
                where="launch.tensor",
                fix='leave launch.tensor out and use launch.strategy = "fsdp"',
            )
        self.strategy = found.strategy
        self.grid = Grid(found.replicas, found.shards, found.tensor)
        self.mesh = parallel.mesh_of(self.grid, self.device)
        copies = self.grid.copies()
        groups = [dist.new_group(copy) for copy in copies]
        self.copy_ranks, self._copy_group = next((c, g) for c, g in zip(copies, groups, strict=True) if self.rank in c)
        say(f"  {self.world} processes, {found.strategy}: {found.words()} ({found.reason})")

    def place(self, model: Model, dtype: hardware.Dtype) -> None:
        values = {name: p.detach() for name, p in model.named_parameters()}
        shapes = {name: tuple(value.shape) for name, value in values.items()}
        buffers = dict(model.named_buffers())
        if self.cut or any(value.is_meta for value in values.values()):
            model.to("meta")
        splits = parallel.share_matrices(model, self.mesh) if self.grid.tensor > 1 else {}
        if self._by_rows:
            mesh = self.mesh["replica", "shard"] if self.grid.replicas > 1 else self.mesh["shard"]
            parallel.cut_by_rows(model, mesh, dtype=torch.bfloat16 if dtype == "bfloat16" else None)
        self._partial = frozenset(parallel.partial_gradients(model)) if splits else frozenset()
        if next(model.parameters()).is_meta:
            model.to_empty(device=self.device)
        else:
            model.to(self.device)
        found = {name: layout_of(shape, splits.get(name), self.grid, self.rank) for name, shape in shapes.items()}
        for name, parameter in model.named_parameters():
            self._receive(parameter, found[name], values.pop(name))
        for name, buffer in model.named_buffers():
            if self.first:
                buffer.copy_(buffers[name])
            dist.broadcast(buffer, 0)
        self._model = model
        moving = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.layouts = {name: found[name] for name in moving}
        self.parameters = (
            {name: nn.Parameter(local(p).detach()) for name, p in moving.items()} if self._by_rows else moving
        )
        self._prepare_exchange()

    @torch.no_grad()
    def _receive(self, parameter: nn.Parameter, layout: Layout, value: Tensor) -> None:
        """The first process's weights, one whole tensor at a time."""
        empty = torch.empty(layout.shape, dtype=value.dtype, device=self.device)
        whole = value.to(self.device) if self.first else empty
        dist.broadcast(whole, 0)
        local(parameter).copy_(layout.cut(whole))

    def _prepare_exchange(self) -> None:
        matrices = {name: one for name, one in self.layouts.items() if len(one.shape) == 2}
        if self.world > 1 and matrices:
            among, group = (self.copy_ranks, self._copy_group) if self.cut else (list(range(self.world)), None)
            self.exchange = Exchange(matrices, among.index(self.rank), len(among), group)

    @contextmanager
    def looking(self) -> Iterator[None]:
        # What FSDP gathers in inference mode could not take part in training later.
        with torch.no_grad() if self._by_rows else torch.inference_mode():
            yield
        if isinstance(self._model, FSDPModule):
            # Without a backward pass nothing else would give back what the last forward pass gathered.
            self._model.reshard()

    def deal(self, batches: Batches) -> Batches:
        dealt = copy(batches)
        dealt.rank, dealt.ranks = self._data_rank, self.data_ranks
        return dealt

    def share(self, batches: list[Batch]) -> list[Batch]:
        count = self.data_ranks
        filler = [batches[0].filler()] * (-len(batches) % count)
        return (batches + filler)[self._data_rank :: count]

    def evenly(self, loss: LossFunction) -> LossFunction:
        if not self._by_rows:
            return loss

        def even(model: Model, batch: Batch) -> Loss:
            value, count = loss(model, batch)
            if count:
                return value, count
            value, _ = loss(model, batch.with_a_target())
            return value * 0.0, 0

        return even

    def seed(self, seed: int) -> int:
        return seed + self._data_rank * 2**40

    def total(self, *values: float) -> tuple[float, ...]:
        sums = torch.tensor(values, dtype=torch.float64) * self._speaks
        dist.all_reduce(sums)
        return tuple(sums.tolist())

    def any(self, flag: bool) -> bool:
        return self.most(int(flag)) > 0

    def most(self, number: int) -> int:
        found = torch.tensor([number])
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found)

    def same(self, value: T) -> T:
        box = [value]
        dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def gathered(self, items: list[T]) -> list[T]:
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, items)
        return list(chain.from_iterable(found[:: self.grid.tensor]))

    def wait(self) -> None:
        self.any(False)

    @torch.no_grad()
    def sum_gradients(self) -> None:
        moving = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        if not self._by_rows:
            if self.grid.replicas > 1:
                _sum_over(list(moving.values()), self.mesh.get_group("replica"))
        else:
            for name, parameter in moving.items():
                # FSDP may have moved the local tensor since it was wrapped.
                self.parameters[name].data = local(parameter.detach())
                self.parameters[name].grad = None if parameter.grad is None else local(parameter.grad)
                parameter.grad = None
        if self._partial:
            _sum_over(
                [self.parameters[n] for n in sorted(self._partial & moving.keys())], self.mesh.get_group("tensor")
            )

    def norm(self, gradients: list[Tensor]) -> Tensor:
        if not self.cut:
            return super().norm(gradients)
        counted = {id(p.grad): self.layouts[name].counted for name, p in self.parameters.items()}
        squares = torch.zeros((), device=self.device)
        for gradient in gradients:
            if counted[id(gradient)]:
                squares += gradient.float().square().sum()
        dist.all_reduce(squares, group=self._copy_group)
        return squares.sqrt()

    def note(self, cost: Cost) -> None:
        if ranks.local_world() == self.world:
            return
        names = [name for name in SPENT if name != "seconds"]
        # One process of each node meters all of them; the first one's own node is not elsewhere.
        counts = ranks.local_rank() == 0 and not self.first
        there = torch.tensor([getattr(cost, name) * counts for name in names], dtype=torch.float64)
        dist.all_reduce(there)
        self.elsewhere = dict(zip(names, there.tolist(), strict=True))

    @torch.no_grad()
    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.cut:
            return dict(tensors)
        if not self.in_first_copy:
            return {}
        everyone: list[Any] = [None] * len(self.copy_ranks)
        dist.all_gather_object(everyone, self.layouts, group=self._copy_group)
        return {name: found for name in tensors if (found := self._collect(tensors[name], name, everyone)) is not None}

    def _collect(self, mine: Tensor, name: str, everyone: Sequence[Mapping[str, Layout]]) -> Tensor | None:
        """One tensor from the processes of the first copy, on the first process."""
        if not self.first:
            if mine.numel():
                dist.send(mine.contiguous(), 0)
            return None
        whole = torch.empty(self.layouts[name].shape, dtype=mine.dtype)
        for source, layouts in enumerate(everyone):
            part = mine if source == 0 else torch.empty(layouts[name].held, dtype=mine.dtype, device=mine.device)
            if source and part.numel():
                dist.recv(part, source)
            layouts[name].paste(part.cpu(), whole)
        return whole


def _begin(device: hardware.Device) -> None:
    if device == "cuda":
        torch.cuda.set_device(ranks.local_rank())
    # Small messages about the run go over the CPU, whatever the device.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PATIENCE)


def _memory_gb(device: hardware.Device) -> float:
    """Memory of one process: its board's, or its part of the node's."""
    if device == "cuda":
        return float(torch.cuda.get_device_properties(ranks.local_rank()).total_memory) / hardware.GB
    return hardware.machine().memory_gb / ranks.local_world()


def _sum_over(parameters: list[nn.Parameter], group: Any) -> None:
    """Sum gradients over the processes of a group. One that no process has stays away; one that some have is 0 here."""
    have = torch.tensor([int(p.grad is not None) for p in parameters])
    dist.all_reduce(have, op=dist.ReduceOp.MAX, group=group)
    gradients = []
    for parameter, somewhere in zip(parameters, have.tolist(), strict=True):
        if somewhere:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat, group=group)
        for gradient, total in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
            gradient.copy_(total.view_as(gradient))


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients of each type in lists of about BUCKET values."""
    for dtype in {gradient.dtype: None for gradient in gradients}:
        bucket: list[Tensor] = []
        for gradient in gradients:
            if gradient.dtype == dtype:
                bucket.append(gradient)
                if sum(g.numel() for g in bucket) >= BUCKET:
                    yield bucket
                    bucket = []
        if bucket:
            yield bucket
