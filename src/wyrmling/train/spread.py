"""How a model is spread over processes: copied, cut, or shared. Pure and without torch, so that `plan` can tell too."""

from __future__ import annotations

from typing import Literal, NamedTuple

from wyrmling.config import Launch
from wyrmling.core.errors import BadSetting

Strategy = Literal["ddp", "fsdp", "hsdp"]
# Weights, gradients and two moments in float32; what else a process needs has the other half of its memory.
BYTES_PER_PARAMETER = 16
SHARE_FOR_STATE = 0.5


class Spread(NamedTuple):
    """The processes as copies x shards x ranks that share each matrix.

    strategy  ddp: each process has the whole model, fsdp: a part of each tensor, hsdp: parts within a group of copies
    reason    why, for people
    """

    strategy: Strategy
    replicas: int
    shards: int
    tensor: int
    reason: str

    def words(self) -> str:
        """The box for people."""
        parts = [(self.replicas, "copies"), (self.shards, "shards"), (self.tensor, "tensor-parallel ranks")]
        return " x ".join(f"{count} {what}" for count, what in parts if count > 1) or "one process"


def spread(launch: Launch, *, world: int, node: int, parameters: float, memory_gb: float) -> Spread:
    """The strategy that the settings ask for, or the first of ddp, fsdp in a node (hsdp) and fsdp that fits.

    world       processes in all
    node        processes of each node
    parameters  weights of the model
    memory_gb   of one process
    Raises      BadSetting when the processes can't be dealt out evenly
    """
    tensor = launch.tensor
    _divides("launch.tensor", tensor, world)
    rest, near = world // tensor, max(1, node // tensor)
    state_gb = BYTES_PER_PARAMETER * parameters / tensor / 1e9
    strategy, reason = launch.strategy, "as set"
    if strategy is None:
        room = SHARE_FOR_STATE * memory_gb
        strategy = "ddp" if state_gb <= room else "hsdp" if near < rest and state_gb / near <= room else "fsdp"
        reason = f"{state_gb:.3g} GB of weights, gradients and moments; {room:.3g} GB per process are for them"
    if strategy == "ddp":
        return Spread(strategy, rest, 1, tensor, reason)
    if strategy == "fsdp":
        return Spread(strategy, 1, rest, tensor, reason)
    shards = launch.shards or near
    _divides("launch.shards", shards, rest)
    return Spread(strategy, rest // shards, shards, tensor, reason)


def _divides(name: str, value: int, count: int) -> None:
    if count % value:
        raise BadSetting(
            f"{name} = {value} does not divide {count} processes",
            where=name,
            fix="choose a divisor, or another number of processes",
        )
