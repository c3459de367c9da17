"""tiny Shakespeare by characters: our recipe beside nanoGPT's published CPU recipe, and Muon beside AdamW.

    python benchmarks/shakespeare.py INPUT.TXT                  # CPU seconds to a validation loss of 1.88, one core
    python benchmarks/shakespeare.py INPUT.TXT --optimizers     # steps to AdamW's final loss, 1.9M parameters
    python benchmarks/shakespeare.py INPUT.TXT --minutes 30     # the lowest loss in so long, on all cores

INPUT.TXT is the usual 1.1 MB file; its first 90 % are learned, the rest is scored. The validation loss is the mean over
all of it, in nats per character, in windows as long as the peer's (64), whatever the context a model was trained with;
with --minutes in windows of 256, as in nanoGPT's recipe for a GPU.

The peer is written anew from nanoGPT's published settings for a CPU: 4 layers, 4 heads, width 128, blocks of 64,
batches of 12, 2,000 steps, AdamW 1e-3 with warm-up over 100 steps and a cosine down to 1e-4, betas 0.9 and 0.99, weight
decay 0.1 on matrices, gradients clipped at 1, no dropout, no biases, GELU, learned positions, LayerNorm, tied
embedding.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wyrmling.config import OptimizerName
from wyrmling.core import hardware
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model, stacked_parts
from wyrmling.model.transformer import ModelConfig, padded_vocab
from wyrmling.train.batches import Batches
from wyrmling.train.loop import steps
from wyrmling.train.objectives import token_loss
from wyrmling.train.optim import SCHEDULES, Optimizer, parameter_groups
from wyrmling.train.order import Array
from wyrmling.train.prefetch import Feed
from wyrmling.train.spikes import Judge, Recent

TARGET = 1.88
PEER_STEPS, PEER_BLOCK, PEER_BATCH = 2000, 64, 12


class Text:
    """The characters as one row of a token store."""

    def __init__(self, ids: Array) -> None:
        self.ids = ids
        self.rows = {"length": np.array([len(ids)]), "label": np.array([-1])}

    def tokens(self, row: int, start: int = 0, end: int | None = None) -> Array:
        return self.ids[start:end]

    def learn(self, row: int, start: int = 0, end: int | None = None) -> Array:
        learned: Array = np.arange(len(self.ids))[start:end] > 0
        return learned

    def tags(self, row: int) -> Array:
        return np.full(len(self.ids), -100)


class Data(NamedTuple):
    """Character ids of the two splits, and how many different ones there are."""

    train: Array
    val: Array
    characters: int


def read(file: Path) -> Data:
    text = file.read_text(encoding="utf-8")
    known = {character: number for number, character in enumerate(sorted(set(text)))}
    ids = np.array([known[character] for character in text], dtype=np.int64)
    cut = int(0.9 * len(ids))
    return Data(ids[:cut], ids[cut:], len(known))


@torch.inference_mode()
def validation_loss(logits: Callable[[Tensor], Tensor], data: Data, window: int) -> float:
    """Mean nats per character over all whole windows of the validation text. logits: of (B, T) ids."""
    count = (len(data.val) - 1) // window
    inputs, targets = (torch.from_numpy(data.val[i : i + count * window]).view(count, window) for i in (0, 1))
    total = 0.0
    for x_BT, y_BT in zip(inputs.split(8192 // window), targets.split(8192 // window), strict=True):
        total += float(F.cross_entropy(logits(x_BT).flatten(0, 1).float(), y_BT.flatten(), reduction="sum"))
    return total / (count * window)


@dataclass(frozen=True)
class Recipe:
    """Sizes and numbers of one of our runs. batch: characters per step."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    context: int = 64
    batch: int = 768
    steps: int = 305
    optimizer: OptimizerName = "muon"
    lr: float = 0.05
    embedding_lr: float = 0.1
    head_lr: float = 0.004
    weight_decay: float = 0.1
    warmup: float = 0.05
    decay: float = 0.7
    dropout: float = 0.0
    zero_init: bool = True
    tied: bool = False
    dtype: str | None = None
    seed: int = 0


class Point(NamedTuple):
    """A look at the validation text after so many steps; cpu counts training alone."""

    step: int
    cpu: float
    loss: float


def ours(recipe: Recipe, data: Data, *, window: int, every: int) -> Iterator[Point]:
    """Train and look every so many steps."""
    model, optimizer = _model_and_optimizer(recipe, data)
    batches = Batches(
        Text(data.train),
        "causal",
        np.array([0]),
        context=recipe.context,
        data_hash="shakespeare",
        seed=recipe.seed,
        batch_tokens=recipe.batch,
        micro_batch_tokens=max(recipe.context, 16_384),
    )
    wide = (recipe.dtype or hardware.dtype("cpu", None)) == "float32"
    autocast: Callable[[], AbstractContextManager[Any]] = (
        nullcontext if wide else partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    )
    numbers = {"warmup": round(recipe.warmup * recipe.steps), "decay": round(recipe.decay * recipe.steps)}
    schedule = partial(SCHEDULES["wsd"], total=recipe.steps, **numbers)
    stepping = steps(
        model, optimizer, token_loss, Feed(batches, first=1, last=recipe.steps),
        first=1, last=recipe.steps, schedule=schedule, seed=1, max_norm=1.0, judge=Judge(Recent()), autocast=autocast,
    )  # fmt: skip
    cpu, since = 0.0, time.process_time()
    for done in stepping:
        if done.number % every == 0 or done.number == recipe.steps:
            cpu += time.process_time() - since
            model.eval()
            with autocast():
                loss = validation_loss(partial(_logits, model), data, window)
            model.train()
            yield Point(done.number, cpu, loss)
            since = time.process_time()


def _logits(model: Model, x_BT: Tensor) -> Tensor:
    return model.logits(x_BT.flatten(), Segments([x_BT.shape[1]] * len(x_BT))).view(*x_BT.shape, -1)


def _model_and_optimizer(recipe: Recipe, data: Data) -> tuple[Model, Optimizer]:
    config = ModelConfig(
        "qwen3", padded_vocab(data.characters), recipe.width, recipe.layers, recipe.heads, recipe.heads,
        recipe.width // recipe.heads, 16 * round(recipe.width / 6), max(recipe.context, 256), tied=recipe.tied,
        dropout=recipe.dropout, tokens=data.characters,
    )  # fmt: skip
    model = Model(config, "next", seed=recipe.seed, zero_init=recipe.zero_init)
    groups = parameter_groups(
        dict(model.named_parameters()),
        rule=recipe.optimizer,
        lr=recipe.lr,
        embedding_lr=recipe.embedding_lr,
        head_lr=recipe.head_lr,
        weight_decay=recipe.weight_decay,
        parts=stacked_parts(model),
    )
    return model, Optimizer(groups)


class PeerBlock(nn.Module):
    """Pre-norm attention and GELU, four times as wide, without biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        parts = self.qkv(self.norms[0](x_BTD)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x_BTD = x_BTD + self.out(mixed)
        return x_BTD + self.down(F.gelu(self.up(self.norms[1](x_BTD))))


class Peer(nn.Module):
    """GPT-2's shape at the published CPU size."""

    def __init__(self, vocab: int, width: int = 128, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(PEER_BLOCK, width)
        self.blocks = nn.ModuleList(PeerBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                outgoing = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * layers) if outgoing else 0.02)

    def forward(self, x_BT: Tensor) -> Tensor:
        x = self.tokens(x_BT) + self.places.weight[: x_BT.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def peer(data: Data, *, total: int = PEER_STEPS) -> Point:
    """The peer's recipe from start to end, scored once."""
    torch.manual_seed(1337)
    model, random = Peer(data.characters), np.random.default_rng(1337)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.99), fused=True,
    )  # fmt: skip
    since = time.process_time()
    for step in range(total):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 100) / (total - 100)))
        rate = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + cosine * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = random.integers(0, len(data.train) - PEER_BLOCK, PEER_BATCH)
        places = starts[:, None] + np.arange(PEER_BLOCK + 1)
        drawn = torch.from_numpy(data.train[places])
        loss = F.cross_entropy(model(drawn[:, :-1]).flatten(0, 1), drawn[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    cpu = time.process_time() - since
    return Point(total, cpu, validation_loss(model.eval(), data, PEER_BLOCK))


def race(data: Data, rounds: int) -> None:
    """Our recipe and the peer's in turn; what each needed, and the ratio of each round."""
    torch.set_num_threads(1)
    for number in range(rounds):
        mine = list(ours(Recipe(seed=number), data, window=PEER_BLOCK, every=10**9))[-1]
        theirs = peer(data)
        print(
            f"round {number + 1}: wyrmling {mine.loss:.4f} after {mine.step} steps, {mine.cpu:.1f} CPU s; "
            f"nanoGPT's recipe {theirs.loss:.4f} after {theirs.step} steps, {theirs.cpu:.1f} CPU s; "
            f"ratio {theirs.cpu / mine.cpu:.2f}" + ("" if mine.loss <= TARGET else f"; {TARGET} was not reached")
        )


def optimizers(data: Data) -> None:
    """Steps after which Muon's loss is at most AdamW's final one, for the best of several rates of AdamW."""
    torch.set_num_threads(1)
    size = Recipe(layers=4, width=192, heads=3, batch=1536, context=128, steps=150, lr=0.02, decay=0.5)
    found = {}
    for lr in (1.5e-3, 3e-3, 6e-3):
        recipe = replace(size, optimizer="adamw", lr=lr, embedding_lr=lr, head_lr=lr)
        found[lr] = _final(recipe, data)
    rate = min(found, key=lambda lr: found[lr])
    print(f"AdamW, {size.steps} steps: {', '.join(f'{loss:.4f} at {lr:g}' for lr, loss in found.items())}")
    for share in (0.45, 0.6):
        recipe = replace(size, steps=round(size.steps * share))
        loss = _final(recipe, data)
        print(f"Muon, {recipe.steps} steps ({share:.0%}): {loss:.4f}{'  reached' if loss <= found[rate] else ''}")


def _final(recipe: Recipe, data: Data) -> float:
    return list(ours(recipe, data, window=128, every=10**9))[-1].loss


# What is reached in half an hour on two cores: larger, with dropout, for many passes.
LONG = Recipe(layers=6, width=256, heads=4, context=256, batch=4096, steps=1800, dropout=0.15, lr=0.02)


def lowest(data: Data, minutes: float, looks: int = 4) -> None:
    """The lowest validation loss within so many minutes; the schedule is made for the steps that fit."""
    began = time.monotonic()
    early, late = ours(replace(LONG, steps=12), data, window=256, every=6)
    per_step = (late.cpu - early.cpu) / (late.step - early.step) / torch.get_num_threads()
    look = (time.monotonic() - began - late.cpu / torch.get_num_threads()) / 2
    total = int(0.95 * (began + minutes * 60 - time.monotonic() - (looks + 1) * look) / per_step)
    print(f"{per_step:.2f} s per step, {look:.0f} s per look: {total} steps", flush=True)
    for point in ours(replace(LONG, steps=total), data, window=256, every=max(1, total // looks)):
        seconds = time.monotonic() - began
        print(f"step {point.step}: {point.loss:.4f}, {seconds:.0f} s, {point.cpu:.0f} CPU s of training", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--optimizers", action="store_true")
    parser.add_argument("--minutes", type=float)
    options = parser.parse_args()
    data = read(options.file)
    print(f"torch {torch.__version__}, {len(data.train):,} characters learned, {len(data.val):,} scored")
    if options.minutes is not None:
        lowest(data, options.minutes)
    elif options.optimizers:
        optimizers(data)
    else:
        race(data, options.rounds)


if __name__ == "__main__":
    main()
