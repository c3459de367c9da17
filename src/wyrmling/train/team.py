"""The processes that train together, as a training step sees them. A process alone is a team for which nothing is sent.

What is asked here keeps every number of processes at the same result: losses and gradients are sums over the targets of
all micro-batches, wherever they were computed, and whatever a clock, a signal or a disk decides is decided for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wyrmling.config import Launch
from wyrmling.core import hardware, ranks
from wyrmling.core.energy import Cost
from wyrmling.model.heads import Model
from wyrmling.model.layout import Layout
from wyrmling.train.batches import Batch, Batches
from wyrmling.train.exchange import Exchange
from wyrmling.train.objectives import LossFunction

T = TypeVar("T")


class Team:
    """A process alone. What talks to others, in distributed.py, must be called by all of them.

    rank        number of this process; 0 writes the results and speaks
    parameters  what this process holds of the parameters that move, as plain tensors, by name
    layouts     which part of each parameter that is; empty when everything is here
    exchange    how Muon gets whole matrices; None: it has them
    elsewhere   wh, usd and kg_co2 that other nodes took
    """

    rank = 0
    world = 1
    strategy = ""

    def __init__(self, device: hardware.Device = "cpu") -> None:
        self.device = device
        self.parameters: dict[str, nn.Parameter] = {}
        self.layouts: dict[str, Layout] = {}
        self.exchange: Exchange | None = None
        self.elsewhere: dict[str, float] = {}

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def data_ranks(self) -> int:
        """How many processes share the micro-batches of a step."""
        return 1

    @property
    def parts(self) -> int:
        """How many processes hold the model together."""
        return 1

    @property
    def cut(self) -> bool:
        """Whether this process holds less than the whole model."""
        return self.parts > 1

    @property
    def in_first_copy(self) -> bool:
        """Whether this process holds a part of the first copy of the model."""
        return self.rank < self.parts

    def build(self, make: Callable[[], tuple[Any, ...]], launch: Launch, *, method: str) -> tuple[Any, ...]:
        """What `make` gives, a model before anything else; the others get the same without its weights."""
        model, *rest = make()
        return model.to(self.device), *rest

    def place(self, model: Model, dtype: hardware.Dtype) -> None:
        """Bring the model, with what moves decided, to its device, spread over the processes."""
        model.to(self.device)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def looking(self) -> AbstractContextManager[Any]:
        """The context of a pass without gradients."""
        return torch.inference_mode()

    def deal(self, batches: Batches) -> Batches:
        """The same learning material, of which a step gives this process its share."""
        return batches

    def share(self, batches: list[Batch]) -> list[Batch]:
        """This process's share of some batches; every process has the same number of them."""
        return batches

    def evenly(self, loss: LossFunction) -> LossFunction:
        """The same loss, which passes through the model whatever the batch: others may wait in the middle of it."""
        return loss

    def seed(self, seed: int) -> int:
        """The seed of this process's dropout."""
        return seed

    def total(self, *values: float) -> tuple[float, ...]:
        """The sums over what different processes computed."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so for any process."""
        return flag

    def most(self, number: int) -> int:
        """The largest that any process has."""
        return number

    def same(self, value: T) -> T:
        """What the first process has."""
        return value

    def gathered(self, items: list[T]) -> list[T]:
        """The lists of all processes that compute different batches, one after the other."""
        return items

    def wait(self) -> None:
        """Until all are here."""

    def sum_gradients(self) -> None:
        """Bring the gradients of all processes together in `parameters`."""

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """The Euclidean norm of gradients, over the whole of each."""
        return torch.nn.utils.get_total_norm(gradients)

    def note(self, cost: Cost) -> None:
        """Take note of what each node took so far, for `elsewhere`."""

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole of what every process has a part of, on the first; it may be empty elsewhere."""
        return dict(tensors)


def join(device: hardware.Device) -> Team:
    """The team that this process belongs to, by how it was started."""
    if not ranks.launched():
        return Team(device)
    from wyrmling.train.distributed import Launched

    return Launched(device)


# The team of a process that nobody launched.
ALONE = Team()
