"""Memory and traffic of one process when large models train on 8 and 512 GPUs, without having any.

    python benchmarks/parallel.py [--models 1B 8B 70B] [--gpus 8 512] [--tokens 4096] [--whole]

The processes are simulated: one of them runs a step on tensors without memory (torch's FakeTensorMode), its collectives
go to a group that does nothing (torch's fake backend). What it would hold at most in forward and backward and what it
would send are counted; beside the latter stands what the sizes say. Muon's exchange is computed only. Every case runs
with 2 and with 6 blocks, and what the blocks add is taken as many times as the model has; --whole runs all of them.
Models above 2B compute again what is cheap (train.checkpoint_activations). Kernels are those of the CPU build, whose
attention keeps as much as a fused one on a GPU does. Times are not simulated.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import ProcessGroup
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fake_collectives import collective_ops
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed import fake_pg
from torch.utils._python_dispatch import TorchDispatchMode

from wyrmling.config import Launch
from wyrmling.model import parallel
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.model.layout import Grid, layout_of
from wyrmling.model.transformer import ModelConfig, padded_vocab
from wyrmling.train.cross_entropy import _ChunkedCrossEntropy
from wyrmling.train.sizes import PRESETS, sized
from wyrmling.train.spread import Spread, spread

VOCAB, CONTEXT, NODE, GB = 128_000, 4096, 8, 1e9
# Depths that are simulated unless all layers are.
FEW = (2, 6)
c10d = torch.ops.c10d


class Traffic(TorchDispatchMode):
    """Bytes that one process sends while this is open, by collective, and those that leave its node.

    It sees the operators below torch.distributed's functions, so it does not matter which of those FSDP calls.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__()
        self.copies = self._ranks(mesh.get_group("replica"))
        self.sent: dict[str, float] = {}
        self.far = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            # To be asked again for the operators on what this process holds.
            return NotImplemented
        if func is c10d._allgather_base_.default:
            self._add("gathered weights", args[0], args[2])
        elif func is c10d._reduce_scatter_base_.default:
            self._add("scattered gradients", args[1], args[2])
        elif func is c10d.allreduce_.default:
            name = "copies" if self._ranks(args[1]) == self.copies else "shared matrices"
            self._add(name, args[0][0], args[1], passes=2)
        elif func in collective_ops:
            raise AssertionError(f"{func} is not counted")
        return func(*args, **kwargs or {})

    @staticmethod
    def _ranks(group: Any) -> list[int]:
        return dist.get_process_group_ranks(group if isinstance(group, ProcessGroup) else ProcessGroup.unbox(group))

    def _add(self, name: str, whole: Tensor, group: Any, passes: int = 1) -> None:
        """A ring: each process sends all but its own part of the whole, once, or twice for a sum that all get."""
        ranks = self._ranks(group)
        size = passes * (len(ranks) - 1) / len(ranks) * whole.nbytes
        self.sent[name] = self.sent.get(name, 0.0) + size
        here = sum(rank < NODE for rank in ranks)
        if here < len(ranks):
            # Of the processes of a ring that a node has, one sends to another node; the node has so many rings.
            self.far += size * NODE / here


@dataclass(frozen=True)
class Simulated:
    """One process of a run.

    bytes   state (weights, gradients and moments), peak, what it sends by collective, Muon (computed, not counted), and
            far: what all processes of a node send to others
    closed  what it sends by collective, as computed from the sizes
    """

    model: str
    gpus: int
    spread: Spread
    bytes: dict[str, float]
    closed: dict[str, float]

    def row(self) -> str:
        grid = f"{self.spread.replicas} x {self.spread.shards} x {self.spread.tensor}"
        names = [name for name in self.closed if self.bytes.get(name)]
        sent = ", ".join(f"{name} {self.bytes[name] / GB:.4g} ({self.closed[name] / GB:.4g})" for name in names)
        state, peak, exchanged, far = (self.bytes[name] / GB for name in ("state", "peak", "Muon", "far"))
        total = exchanged + sum(self.bytes[name] for name in names) / GB
        return (
            f"| {self.model} | {self.gpus} | {self.spread.strategy} | {grid} | {state:.3g} | {peak:.3g} | "
            f"{total:.3g} | {sent or '-'} | {exchanged:.3g} | {far:.3g} |"
        )


class Held(NamedTuple):
    """Weights of one tensor-parallel rank, before they are cut by rows."""

    blocks: int
    rest: int


def closed_form(config: ModelConfig, how: Spread, tokens: int, *, recompute: bool, counts: Held) -> dict[str, float]:
    """Bytes that a process sends in a step of one micro-batch, in rings.

    ZeRO-3 (arXiv 1910.02054): the weights of a block are gathered in bfloat16 for the forward and for the backward
    pass, those outside blocks stay in between; gradients are scattered in float32, and summed over copies.
    Megatron (arXiv 1909.08053): two sums of the stream for a block forward, two backward; one of the former is
    computed again.
    """
    every = counts.blocks + counts.rest
    shards, copies, tensor = ((n - 1) / n for n in (how.shards, how.replicas, how.tensor))
    # Products are bfloat16, but the stream is as wide as the weights that a process multiplies with.
    stream = 4 if how.strategy == "ddp" else 2
    return {
        "gathered weights": shards * 2 * (2 * counts.blocks + counts.rest),
        "scattered gradients": shards * 4 * every,
        "copies": 2 * copies * 4 * every / how.shards,
        "shared matrices": 2 * tensor * config.layers * tokens * config.width * (2 * (2 + recompute) + 2 * stream),
    }


def muon(held: int, grid: Grid, gpus: int) -> tuple[float, float]:
    """Matrices travel in float32 to the process that works on them and back; copies have them, and get the result.

    held     values of matrices in this process
    Gives    bytes that it sends, and that leave its node from all processes there
    """
    among = grid.shards * grid.tensor if grid.cut else gpus
    size = (2 if grid.cut else 1) * 4 * held * (among - 1) / among
    # All send to all: what goes to the own node stays near.
    return size, NODE * size * max(0, among - NODE) / max(1, among - 1)


def config_of(size: str) -> ModelConfig:
    """The model that a name stands for."""
    found = sized(size, PRESETS["compat"], VOCAB)
    return ModelConfig(
        family="qwen3",
        vocab_size=padded_vocab(VOCAB),
        width=found.width,
        layers=found.layers,
        heads=found.heads,
        kv_heads=found.kv_heads,
        head_dim=found.width // found.heads,
        ffn=found.ffn,
        context=CONTEXT,
        tied=found.tied,
    )


def simulate(size: str, gpus: int, launch: Launch, tokens: int, memory_gb: float, *, whole: bool) -> Simulated:
    """One process with all layers, or what FEW layers say about it."""
    config = config_of(size)
    parameters = sized(size, PRESETS["compat"], VOCAB).parameters
    how = spread(launch, world=gpus, node=NODE, parameters=parameters, memory_gb=memory_gb)
    recompute = parameters > 2e9
    dist.init_process_group("fake", rank=0, world_size=gpus, store=fake_pg.FakeStore())
    try:
        depths = (config.layers,) if whole else FEW
        tried = [_simulated(replace(config, layers=n), how, gpus, tokens, recompute=recompute) for n in depths]
    finally:
        dist.destroy_process_group()
    counted, closed = ([one[i] for one in tried] for i in (0, 1))
    return Simulated(size, gpus, how, _deeper(counted, config.layers), _deeper(closed, config.layers))


def _deeper(tried: list[dict[str, float]], layers: int) -> dict[str, float]:
    """What grows by the same with each layer, for so many of them."""
    if len(tried) == 1:
        return tried[0]
    few, more = tried
    return {name: more[name] + (layers - FEW[1]) * (more[name] - few[name]) / (FEW[1] - FEW[0]) for name in more}


def _simulated(
    config: ModelConfig, how: Spread, gpus: int, tokens: int, *, recompute: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes by name, counted and by the closed form."""
    grid = Grid(how.replicas, how.shards, how.tensor)
    mesh = parallel.mesh_of(grid, "cpu")
    segments = Segments([CONTEXT] * (tokens // CONTEXT))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # It asks for lengths, which tensors without values don't have; it is kept for the model to find.
        segments.plan(torch.device("cpu"), config.width)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = Model(config, "next", seed=None)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        splits = parallel.share_matrices(model, mesh) if how.tensor > 1 else {}
        counts = _held(model)
        if how.strategy != "ddp":
            data = mesh["replica", "shard"] if how.replicas > 1 else mesh["shard"]
            parallel.cut_by_rows(model, data, dtype=torch.bfloat16)
        model.body.recompute = recompute
        traffic, peak = _watched(model, mesh, segments, tokens, copies=how.strategy == "ddp" and how.replicas > 1)
    layouts = {name: layout_of(shape, splits.get(name), grid, 0) for name, shape in shapes.items()}
    held = {name: int(torch.Size(one.held).numel()) for name, one in layouts.items()}
    matrices = sum(numel for name, numel in held.items() if len(shapes[name]) == 2 and name.startswith("body.blocks"))
    moments = 4 * matrices + 8 * (sum(held.values()) - matrices)
    exchanged, far = muon(matrices, grid, gpus)
    counted = traffic.sent | {"Muon": exchanged, "far": traffic.far + far}
    counted |= {"state": 8 * sum(held.values()) + moments, "peak": peak + moments}
    return counted, closed_form(config, how, tokens, recompute=recompute, counts=counts)


def _held(model: Model) -> Held:
    blocks = sum(p.numel() for p in model.body.blocks.parameters())
    return Held(blocks, sum(p.numel() for p in model.parameters()) - blocks)


def _watched(model: Model, mesh: DeviceMesh, segments: Segments, tokens: int, *, copies: bool) -> tuple[Traffic, int]:
    """A step's traffic, and the most bytes that were held at once, without moments.

    copies   gradients are summed over whole copies of the model
    """
    tracker = MemTracker()
    tracker.track_external(model)
    with Traffic(mesh) as traffic, tracker:
        _learn(model, segments, torch.zeros(tokens, dtype=torch.long))
        for parameter in model.parameters() if copies else ():
            dist.all_reduce(parameter.grad, group=mesh.get_group("replica"))
    return traffic, tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def _learn(model: Model, segments: Segments, tokens_N: Tensor) -> None:
    """Forward and backward of one micro-batch. Which tokens are learned can't be asked of tensors without values."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features_ND = model.features(tokens_N, segments)
        loss = _ChunkedCrossEntropy.apply(features_ND, model.output.weight_VD, tokens_N, None, None, 0.0)
    loss.backward()


CASES = (
    ("1B", 8, Launch()),
    ("8B", 8, Launch()),
    ("8B", 8, Launch(strategy="ddp", tensor=8)),
    ("8B", 512, Launch()),
    ("8B", 512, Launch(strategy="fsdp")),
    ("8B", 512, Launch(strategy="fsdp", tensor=8)),
    ("70B", 512, Launch()),
    ("70B", 512, Launch(strategy="hsdp", shards=64)),
    ("70B", 512, Launch(strategy="fsdp", tensor=8)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["1B", "8B", "70B"])
    parser.add_argument("--gpus", nargs="+", type=int, default=[8, 512])
    parser.add_argument("--tokens", type=int, default=4096, help="in the micro-batch of a process")
    parser.add_argument("--memory-gb", type=float, default=141.0, help="of a GPU")
    parser.add_argument("--whole", action="store_true", help="simulate every layer; minutes for each case of 8B")
    asked = parser.parse_args()
    print(
        "| model | GPUs | strategy | copies x shards x tensor | state | peak | sent | counted (closed) | Muon | far |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for size, gpus, launch in CASES:
        if size in asked.models and gpus in asked.gpus:
            found = simulate(size, gpus, launch, asked.tokens, asked.memory_gb, whole=asked.whole)
            print(found.row(), flush=True)


if __name__ == "__main__":
    main()
