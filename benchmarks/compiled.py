"""What torch.compile brings to training on this machine, and whether a compiled run that goes on has the same bits.

    python benchmarks/compiled.py [--size 6.8M] [--steps 8] [--tokens 2048]

Each line is a process of its own: forward, backward and an AdamW update of a Qwen3-shaped model on documents of random
lengths, plain and compiled, in both kinds of arithmetic. "restart" trains the second half of the steps alone, from the
state that the first half left, in a new process with a new compilation; the sha256 of the weights is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig
from wyrmling.train import compiling
from wyrmling.train.cross_entropy import cross_entropy_sum
from wyrmling.train.optim import Group, Optimizer
from wyrmling.train.sizes import PRESETS, sized

VOCAB = 2048


def run(options: SimpleNamespace) -> dict[str, Any]:
    """Steps first..last; the state before and after is in files."""
    shape = sized(options.size, PRESETS["compat"], VOCAB)
    config = ModelConfig(
        "qwen3", VOCAB, shape.width, shape.layers, shape.heads, shape.kv_heads, shape.width // shape.heads, shape.ffn,
        512, tied=shape.tied,
    )  # fmt: skip
    model = Model(config, "next", seed=1).train()
    optimizer = Optimizer([Group("all", "adamw", dict(model.named_parameters()), 1e-3)])
    state = Path(options.state)
    if options.first > 1:
        model.load_state_dict(load_file(state / "model.safetensors"))
        optimizer.load(load_file(state / "optimizer.safetensors"))
    half = torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "bfloat16")
    began = time.monotonic()
    if options.compiled:
        with half:
            compiling.switch_on(model, SimpleNamespace(micro_batch_tokens=options.tokens))  # type: ignore[arg-type]
    warm_up, seconds = time.monotonic() - began, []
    for number in range(options.first, options.last + 1):
        chance = np.random.default_rng(number)
        lengths = [int(n) for n in chance.integers(16, 257, size=options.tokens // 136)]
        tokens = torch.from_numpy(chance.integers(0, VOCAB, size=sum(lengths) + 1))
        began = time.monotonic()
        with half:
            features = model.features(tokens[:-1], Segments(lengths))
            loss, count = cross_entropy_sum(features, model.output.weight_VD, tokens[1:])
        (loss / count).backward()  # type: ignore[no-untyped-call]
        optimizer.step(1.0)
        optimizer.zero_grad()
        seconds.append((time.monotonic() - began) / sum(lengths))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, state / "model.safetensors")
    save_file(optimizer.state(), state / "optimizer.safetensors")
    digest = hashlib.sha256((state / "model.safetensors").read_bytes()).hexdigest()
    return {"rate": 1 / statistics.median(seconds), "warm_up": warm_up, "digest": digest}


def child(state: str, options: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    settings = {"size": options.size, "tokens": options.tokens, "state": state, **changes}
    code = [sys.executable, __file__, "--child", json.dumps(settings)]
    done = subprocess.run(code, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="6.8M")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(SimpleNamespace(**json.loads(options.child)))))
        return
    half = options.steps // 2
    for dtype in options.dtype:
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            plain = child(one, options, dtype=dtype, compiled=False, first=1, last=options.steps)
            whole = child(one, options, dtype=dtype, compiled=True, first=1, last=options.steps)
            child(two, options, dtype=dtype, compiled=True, first=1, last=half)
            rest = child(two, options, dtype=dtype, compiled=True, first=half + 1, last=options.steps)
        print(
            f"{dtype:<8} plain {plain['rate']:>6,.0f} tokens/s  compiled {whole['rate']:>6,.0f} tokens/s "
            f"({whole['rate'] / plain['rate']:.2f}x) after {whole['warm_up']:.0f} s, again in {rest['warm_up']:.0f} s; "
            f"restart {'equal' if rest['digest'] == whole['digest'] else 'DIFFERENT'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
