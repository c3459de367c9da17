"""Memory and traffic of one process when large models train on 8 and 512 GPUs, without having any.

    python benchmarks/parallel.py [--models 1B 8B 70B] [--tokens 4096]

The processes are simulated: one of them runs a step on tensors without memory (torch's FakeTensorMode), its collectives
go to a group that does nothing (torch's fake backend). What it would hold at most and what it would send are counted.
Models above 2B compute again what is cheap (train.checkpoint_activations). Kernels are those of the CPU build, whose
attention keeps as much as a fused one on a GPU does. Times are not simulated.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.testing._internal.distributed import fake_pg

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
SUM = dist.ReduceOp.SUM


@dataclass
class Traffic:
    """Bytes that one process sends in a step, by collective, and those of them that leave its node."""

    sent: Counter[str]
    far: float = 0.0

    def add(self, name: str, numel: int, itemsize: int, group: Any, passes: int = 1) -> None:
        """A ring: each process sends all but its own part of the whole, once, or twice for a sum that all get."""
        ranks = dist.get_process_group_ranks(group)
        size = passes * (len(ranks) - 1) / len(ranks) * numel * itemsize
        self.sent[name] += size
        # In a ring over nodes each process sends to its neighbour, which for one of each node is another node.
        if len({rank // NODE for rank in ranks}) > 1:
            self.far += size

    def muon(self, held: int, grid: Grid, gpus: int) -> None:
        """Matrices travel in float32 to the process that works on them and back; copies have them, and get the result.

        held   values of matrices in this process
        """
        among = grid.shards * grid.tensor if grid.cut else gpus
        size = (2 if grid.cut else 1) * 4 * held * (among - 1) / among
        self.sent["Muon"] += size
        # All send to all: what goes to the own node stays near.
        self.far += size * max(0, among - NODE) / max(1, among - 1)


class Counted:
    """While it is open, torch's collectives are counted."""

    NAMES = ("all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce")

    def __enter__(self) -> Traffic:
        self.traffic = Traffic(Counter())
        self.real = {name: getattr(dist, name) for name in self.NAMES}
        dist.all_gather_into_tensor = self._gather
        dist.reduce_scatter_tensor = self._scatter
        dist.all_reduce = self._reduce
        return self.traffic

    def __exit__(self, *_: object) -> None:
        for name, function in self.real.items():
            setattr(dist, name, function)

    def _gather(self, output: Tensor, input: Tensor, group: Any = None, **more: Any) -> Any:
        self.traffic.add("gathered weights", output.numel(), output.itemsize, group)
        return self.real["all_gather_into_tensor"](output, input, group=group, **more)

    def _scatter(self, output: Tensor, input: Tensor, op: Any = SUM, group: Any = None, **more: Any) -> Any:
        self.traffic.add("scattered gradients", input.numel(), input.itemsize, group)
        return self.real["reduce_scatter_tensor"](output, input, op=op, group=group, **more)

    def _reduce(self, tensor: Tensor, op: Any = SUM, group: Any = None, **more: Any) -> Any:
        name = "shared matrices" if dist.get_process_group_ranks(group)[-1] < NODE else "copies"
        self.traffic.add(name, tensor.numel(), tensor.itemsize, group, passes=2)
        return self.real["all_reduce"](tensor, op=op, group=group, **more)


@dataclass(frozen=True)
class Simulated:
    """One process of a run. Figures in GB."""

    model: str
    gpus: int
    spread: Spread
    state: float
    peak: float
    sent: dict[str, float]
    far: float

    def row(self) -> str:
        grid = f"{self.spread.replicas} x {self.spread.shards} x {self.spread.tensor}"
        sent = ", ".join(f"{what} {size:.3g}" for what, size in self.sent.items() if size)
        total = sum(self.sent.values())
        return (
            f"| {self.model} | {self.gpus} | {self.spread.strategy} | {grid} | {self.state:.3g} | {self.peak:.3g} | "
            f"{total:.3g} ({sent}) | {self.far:.3g} |"
        )


def config_of(size: str) -> ModelConfig:
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


def simulate(size: str, gpus: int, launch: Launch, tokens: int, memory_gb: float) -> Simulated:
    config = config_of(size)
    parameters = sized(size, PRESETS["compat"], VOCAB).parameters
    how = spread(launch, world=gpus, node=NODE, parameters=parameters, memory_gb=memory_gb)
    dist.init_process_group("fake", rank=0, world_size=gpus, store=fake_pg.FakeStore())
    try:
        return _simulated(size, config, how, gpus, tokens)
    finally:
        dist.destroy_process_group()


def _simulated(size: str, config: ModelConfig, how: Spread, gpus: int, tokens: int) -> Simulated:
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
        if how.strategy != "ddp":
            data = mesh["replica", "shard"] if how.replicas > 1 else mesh["shard"]
            parallel.cut_by_rows(model, data, dtype=torch.bfloat16)
        model.body.recompute = sum(p.numel() for p in model.parameters()) > 2e9
        layouts = {name: layout_of(shape, splits.get(name), grid, 0) for name, shape in shapes.items()}
        tracker = MemTracker()
        tracker.track_external(model)
        with Counted() as traffic, tracker:
            _learn(model, segments, torch.zeros(tokens, dtype=torch.long))
        if how.strategy == "ddp" and how.replicas > 1:
            for parameter in model.parameters():
                traffic.add("copies", parameter.numel(), 4, mesh.get_group("replica"), passes=2)
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    held = {name: int(torch.Size(one.held).numel()) for name, one in layouts.items()}
    blocks = sum(numel for name, numel in held.items() if len(shapes[name]) == 2 and name.startswith("body.blocks"))
    moments = 4 * blocks + 8 * (sum(held.values()) - blocks)
    traffic.muon(blocks, grid, gpus)
    state = 8 * sum(held.values()) + moments
    sent = {what: one / GB for what, one in traffic.sent.items()}
    return Simulated(size, gpus, how, state / GB, (peak + moments) / GB, sent, traffic.far / GB)


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
    ("70B", 512, Launch()),
    ("70B", 512, Launch(strategy="hsdp", shards=8, tensor=8)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["1B", "8B", "70B"])
    parser.add_argument("--tokens", type=int, default=4096, help="in the micro-batch of a process")
    parser.add_argument("--memory-gb", type=float, default=141.0, help="of a GPU")
    asked = parser.parse_args()
    print("| model | GPUs | strategy | copies x shards x tensor | state GB | peak GB | sent per step, GB | far |")
    print("|---|---|---|---|---|---|---|---|")
    for size, gpus, launch in CASES:
        if size in asked.models:
            print(simulate(size, gpus, launch, asked.tokens, asked.memory_gb).row(), flush=True)


if __name__ == "__main__":
    main()
