"""The share of a training step that is neither forward, backward nor optimizer, in a real run of the train stage.

    python benchmarks/overhead.py [--size 10M] [--steps 30] [--batch-tokens 4096]

A project of random words is trained by the real stage, saves and log included, while the loss function (forward), the
backward pass and the optimizer are timed. Everything else between the first step and the last is overhead: preparing
batches, scaling and clipping gradients, judging the step, the log, the meter, checkpoints.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wyrmling import config
from wyrmling.flow import stages
from wyrmling.train import objectives
from wyrmling.train.optim import Optimizer

PROJECT = """
name = "overhead"
objective = {{ task = "complete" }}

[data.sources.pages]
path = "pages.txt"

[data.split]
val = 0.0
test = 0.0

[tokenizer]
vocab_size = 2048

[model]
size = "{size}"
context = 256

[[train]]
name = "pretrain"
objective = "causal"
steps = {steps}
batch_tokens = {batch_tokens}
"""


class Watch:
    """Seconds spent in each of the wrapped functions, from the end of the first step on."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **settings: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **settings)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timed


def pages(words: int) -> str:
    """Random words from a vocabulary of 3,000, in lines of 20 to 200."""
    chance = random.Random(0)
    vocabulary = ["".join(chance.choices("abcdefghijklmnoprstuvw", k=chance.randint(2, 9))) for _ in range(3000)]
    lines = []
    while words > 0:
        length = chance.randint(20, 200)
        lines.append(" ".join(chance.choices(vocabulary, k=length)))
        words -= length
    return "\n\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="10M")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    options = parser.parse_args()
    watch, ends = Watch(), []
    loss, step = objectives.OBJECTIVES["causal"].loss, Optimizer.step
    objectives.OBJECTIVES["causal"] = objectives.OBJECTIVES["causal"]._replace(loss=watch.around("forward", loss))
    torch.Tensor.backward = watch.around("backward", torch.Tensor.backward)  # type: ignore[method-assign]

    def updated(self: Optimizer, rate: float) -> None:
        watch.around("optimizer", step)(self, rate)
        ends.append((time.perf_counter(), dict(watch.seconds)))

    Optimizer.step = updated  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "pages.txt").write_text(pages(options.steps * options.batch_tokens // 2), encoding="utf-8")
        text = PROJECT.format(size=options.size, steps=options.steps, batch_tokens=options.batch_tokens)
        (root / "wyrmling.toml").write_text(text)
        made = stages.train(config.load(root))[-1]
    (began, before), (ended, after) = ends[0], ends[-1]
    whole, steps = ended - began, len(ends) - 1
    parts = {name: after[name] - before[name] for name in ("forward", "backward", "optimizer")}
    print(f"{made.figures['parameters']:,} weights, {steps} steps of {made.figures['tokens'] / len(ends):,.0f} tokens")
    for name, seconds in parts.items():
        print(f"{name:<10} {1000 * seconds / steps:>8.1f} ms a step  {seconds / whole:>6.1%}")
    rest = whole - sum(parts.values())
    print(f"{'overhead':<10} {1000 * rest / steps:>8.1f} ms a step  {rest / whole:>6.1%}")


if __name__ == "__main__":
    main()
