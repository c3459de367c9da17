"""How near the closed form of a training step's time is to what steps take on this machine.

python benchmarks/forecast.py [--rounds 9]

Measures the machine's rates as `wyrmling plan` does, takes real steps of a small decoder on one thread, and prints the
median seconds of the processor, those that the closed form says, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace

import torch

from wyrmling.core import hardware
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig
from wyrmling.train.cross_entropy import cross_entropy_sum
from wyrmling.train.forecast import seconds
from wyrmling.train.optim import Group, Optimizer
from wyrmling.train.sizing import Shape
from wyrmling.train.workload import Work

TOKENS, LENGTH = 2048, 64
SHAPE = Shape("qwen3", 1000, 128, 4, 2, 2, 64, 336, LENGTH, False)
WORK = Work(
    objective="causal",
    shape=SHAPE,
    steps=1,
    batch_tokens=TOKENS,
    micro_batch_tokens=TOKENS,
    length=float(LENGTH),
    logits=1.0,
    outputs=SHAPE.vocab_size,
    looked_at=0.0,
    optimizer="muon",
    device="cpu",
    dtype="float32",
)


def steps(rounds: int) -> list[float]:
    """Seconds of the processor of real steps, after one to warm up."""
    sizes = {name: getattr(SHAPE, name) for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim")}
    model = Model(ModelConfig(family="qwen3", ffn=SHAPE.ffn, context=LENGTH, **sizes), "next").train()
    names = dict(model.named_parameters())
    matrices = {name: p for name, p in names.items() if p.ndim == 2 and "blocks" in name}
    rest = {name: p for name, p in names.items() if name not in matrices}
    optimizer = Optimizer([Group("matrices", "muon", matrices, 0.02), Group("rest", "adamw", rest, 0.002)])
    segments = Segments([LENGTH] * (TOKENS // LENGTH))
    taken = []
    for _ in range(rounds + 1):
        started = time.process_time()
        tokens = torch.randint(0, SHAPE.vocab_size, (TOKENS,))
        loss, _ = cross_entropy_sum(model.features(tokens, segments), model.output.weight_VD, tokens)
        loss.backward()
        optimizer.step(1.0)
        optimizer.zero_grad()
        taken.append(time.process_time() - started)
    return taken[1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rates = hardware.rates("cpu", use_threads=1)
    said = seconds(replace(WORK, steps=2), rates) - seconds(WORK, rates)
    took = statistics.median(steps(rounds))
    print(json.dumps({"seconds": round(took, 4), "said": round(said, 4), "ratio": round(took / said, 3)}))


if __name__ == "__main__":
    main()
