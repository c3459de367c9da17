"""Whole matrices for Muon: each is put together on one process of a group, and what became of it goes back to all.

One exchange each way for all matrices, so a process sends and receives about as much as it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from wyrmling.model.layout import Layout


class Exchange:
    """Whole matrices of a group of processes, which must all call the same methods.

    layouts  what this process holds of each matrix
    rank     its number in the group of `size` processes
    """

    def __init__(self, layouts: Mapping[str, Layout], rank: int, size: int, group: Any = None) -> None:
        self.rank, self.size, self.group = rank, size, group
        found: list[Any] = [None] * size
        dist.all_gather_object(found, dict(layouts), group=group)
        self.layouts: list[dict[str, Layout]] = found
        self.owned: list[list[str]] = [[] for _ in range(size)]

    def of(self, names: Iterable[str]) -> Exchange:
        """One for these matrices only, each dealt to the process that has least to do so far."""
        dealt, load, mine = copy(self), [0] * self.size, self.layouts[self.rank]
        dealt.owned = [[] for _ in range(self.size)]
        for name in sorted(names, key=lambda one: (-_numel(mine[one].shape), one)):
            owner = load.index(min(load))
            dealt.owned[owner].append(name)
            load[owner] += _numel(mine[name].shape)
        return dealt

    def collect(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole matrices that this process is to work on, from everybody's parts of all matrices."""
        mine = self.owned[self.rank]
        if all(layout.complete for layout in self.layouts[self.rank].values()):
            # Copies of the model: everybody has them all.
            return {name: parts[name] for name in mine}
        received = self._swap(
            [[parts[name] for name in names] for names in self.owned],
            [[layouts[name].held for name in mine] for layouts in self.layouts],
        )
        wholes = {name: parts[name].new_empty(self.layouts[self.rank][name].shape) for name in mine}
        for layouts, tensors in zip(self.layouts, received, strict=True):
            for name, part in zip(mine, tensors, strict=True):
                layouts[name].paste(part, wholes[name])
        return wholes

    def hand_back(self, wholes: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
        """This process's parts of all matrices, from the whole ones that each worked on.

        like   a tensor of the type and on the device of the parts
        """
        mine = self.owned[self.rank]
        received = self._swap(
            [[layouts[name].cut(wholes[name]) for name in mine] for layouts in self.layouts],
            [[self.layouts[self.rank][name].held for name in names] for names in self.owned],
            like,
        )
        return {
            name: part
            for names, tensors in zip(self.owned, received, strict=True)
            for name, part in zip(names, tensors, strict=True)
        }

    def _swap(
        self, outgoing: list[list[Tensor]], shapes: list[list[tuple[int, ...]]], like: Tensor | None = None
    ) -> list[list[Tensor]]:
        """Send to each process its list of tensors; what came from each, in the shapes that are known."""
        flat = [tensor.flatten() for tensors in outgoing for tensor in tensors]
        model = flat[0] if like is None else like
        send = torch.cat(flat) if flat else model.new_empty(0)
        sent = [sum(tensor.numel() for tensor in tensors) for tensors in outgoing]
        coming = [sum(map(_numel, one)) for one in shapes]
        receive = model.new_empty(sum(coming))
        dist.all_to_all_single(receive, send, coming, sent, group=self.group)
        pieces = iter(torch.split(receive, [_numel(shape) for one in shapes for shape in one]))
        return [[next(pieces).view(shape) for shape in one] for one in shapes]


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
