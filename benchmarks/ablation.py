"""What each ingredient of the recipe for training from scratch brings: switched off one at a time, same steps and rows.

    python benchmarks/ablation.py STORIES.TXT [--steps 100] [--seeds 2] [--only NAME ...]

STORIES.TXT holds short texts between lines of <|endoftext|>; every tenth is scored and never learned. The vocabulary
has 1,024 tokens, the model 3 layers of width 128 in Qwen3's shape. Printed are the validation loss in nats per token
(the mean over the seeds, its distance from the first row, and the largest difference between two seeds) and the CPU
seconds of a run on one core. Everything is switched by the settings of the same name in a project.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wyrmling.config import OptimizerName
from wyrmling.core import hardware
from wyrmling.model.design import FamilyName
from wyrmling.model.heads import Model, stacked_parts
from wyrmling.model.transformer import ModelConfig, padded_vocab
from wyrmling.tokenizer import bpe
from wyrmling.train.batches import Batches
from wyrmling.train.look import look
from wyrmling.train.loop import steps
from wyrmling.train.objectives import token_loss
from wyrmling.train.optim import SCHEDULES, Optimizer, parameter_groups
from wyrmling.train.order import Array
from wyrmling.train.prefetch import Feed
from wyrmling.train.spikes import Judge, Recent

VOCAB, LAYERS, WIDTH, HEADS, CONTEXT, BATCH = 1024, 3, 128, 2, 256, 1536


class Texts:
    """Encoded texts as rows of a token store; each is opened and ended by the same token."""

    def __init__(self, ids: Sequence[Sequence[int]], end: int) -> None:
        self._ids = [np.array([end, *row, end], dtype=np.int64) for row in ids]
        n = len(ids)
        self.rows: dict[str, Array] = {
            "length": np.array([len(row) for row in self._ids]),
            "label": np.full(n, -1),
            "kind": np.array(["document"] * n),
        }

    def tokens(self, row: int, start: int = 0, end: int | None = None) -> Array:
        return self._ids[row][start:end]

    def learn(self, row: int, start: int = 0, end: int | None = None) -> Array:
        learned: Array = np.arange(len(self._ids[row]))[start:end] > 0
        return learned

    def tags(self, row: int) -> Array:
        return np.full(len(self._ids[row]), -100)


@dataclass(frozen=True)
class Recipe:
    """What can be switched; the names are those of the settings."""

    optimizer: OptimizerName = "muon"
    lr: float = 0.02
    embedding_lr: float = 0.1
    head_lr: float = 0.004
    schedule: str = "wsd"
    decay: float = 0.5
    family: FamilyName = "qwen3"
    tied: bool = False
    zero_init: bool = True
    isolate: bool = True
    batch: int = BATCH


FULL = Recipe()
OFF: dict[str, Recipe] = {
    "everything": FULL,
    "optimizer = adamw, 3e-3 for matrices": replace(FULL, optimizer="adamw", lr=3e-3),
    "one rate of 3e-3 beside Muon": replace(FULL, embedding_lr=3e-3, head_lr=3e-3),
    "adamw and one rate of 3e-3": replace(FULL, optimizer="adamw", lr=3e-3, embedding_lr=3e-3, head_lr=3e-3),
    "zero_init = false": replace(FULL, zero_init=False),
    "schedule = constant": replace(FULL, schedule="constant"),
    "schedule = cosine": replace(FULL, schedule="cosine"),
    "decay = 0.2": replace(FULL, decay=0.2),
    "preset = llama (no norm of queries and keys)": replace(FULL, family="llama"),
    "tied = true, embedding_lr = 0.03": replace(FULL, tied=True, embedding_lr=0.03),
    "isolate = false": replace(FULL, isolate=False),
    "lr = 0.04": replace(FULL, lr=0.04, embedding_lr=0.2, head_lr=0.008),
    "lr = 0.01": replace(FULL, lr=0.01, embedding_lr=0.05, head_lr=0.002),
    "embedding_lr = 0.3": replace(FULL, embedding_lr=0.3),
    "embedding_lr = 0.03": replace(FULL, embedding_lr=0.03),
    "half the batch, twice the steps": replace(FULL, batch=BATCH // 2),
    "twice the batch, half the steps": replace(FULL, batch=BATCH * 2),
}


def read(file: Path) -> tuple[Texts, Texts]:
    """The texts to learn from, and those to score."""
    texts = [text.strip() for text in file.read_text(encoding="utf-8").split("<|endoftext|>") if text.strip()]
    learned = [text for number, text in enumerate(texts) if number % 10]
    tokenizer = bpe.build(bpe.train(learned, VOCAB))
    end = tokenizer.token_to_id(bpe.END_OF_TEXT)

    def encoded(some: list[str]) -> Texts:
        return Texts([row.ids for row in tokenizer.encode_batch(some, add_special_tokens=False)], end)

    return encoded(learned), encoded(texts[::10])


def run(recipe: Recipe, learned: Texts, scored: Texts, *, n_steps: int, seed: int) -> tuple[float, float]:
    """Validation loss in nats per token, and the CPU seconds of training."""
    total = round(n_steps * BATCH / recipe.batch)
    model = _model(recipe, seed)
    groups = parameter_groups(
        dict(model.named_parameters()),
        rule=recipe.optimizer,
        lr=recipe.lr,
        embedding_lr=recipe.embedding_lr,
        head_lr=recipe.head_lr,
        weight_decay=0.1 if recipe.optimizer == "muon" else 0.0,
        parts=stacked_parts(model),
    )
    sizes: dict[str, Any] = {"context": CONTEXT, "data_hash": "stories", "seed": seed, "micro_batch_tokens": 4096}
    batches = Batches(
        learned,
        "causal",
        np.arange(len(learned.rows["length"])),
        batch_tokens=recipe.batch,
        isolate=recipe.isolate,
        **sizes,
    )
    warmup, decay = round(0.05 * total), round(recipe.decay * total)
    schedule = partial(SCHEDULES[recipe.schedule], total=total, warmup=warmup, decay=decay)
    dtype = hardware.dtype("cpu", None)
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16")
    began = time.process_time()
    stepping = steps(
        model, Optimizer(groups), token_loss, Feed(batches, first=1, last=total),
        first=1, last=total, schedule=schedule, seed=seed, max_norm=1.0, judge=Judge(Recent()), autocast=autocast,
    )  # fmt: skip
    for _ in stepping:
        pass
    cpu = time.process_time() - began
    looks = Batches(scored, "causal", np.arange(len(scored.rows["length"])), batch_tokens=4096, **sizes)
    return look(model, "causal", looks, n_bytes=0, tag_names=[], autocast=autocast)["loss"], cpu


def _model(recipe: Recipe, seed: int) -> Model:
    rows = padded_vocab(VOCAB)
    config = ModelConfig(
        recipe.family, rows, WIDTH, LAYERS, HEADS, HEADS, WIDTH // HEADS, 336, CONTEXT, tied=recipe.tied
    )
    return Model(config, "next", seed=seed, zero_init=recipe.zero_init)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of the names of what to run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    learned, scored = read(options.file)
    tokens = int(learned.rows["length"].sum())
    print(f"torch {torch.__version__}; {tokens:,} tokens to learn, {options.steps} steps of {BATCH:,} tokens")
    base: float | None = None
    for name, recipe in OFF.items():
        if options.only and not name.startswith(tuple(options.only)):
            continue
        found = [run(recipe, learned, scored, n_steps=options.steps, seed=seed) for seed in range(options.seeds)]
        losses, cpu = [loss for loss, _ in found], sum(seconds for _, seconds in found) / len(found)
        mean = sum(losses) / len(losses)
        base = mean if base is None else base
        spread = max(losses) - min(losses)
        print(f"| {name} | {mean:.3f} | {mean - base:+.3f} | {spread:.3f} | {cpu:.0f} |", flush=True)


if __name__ == "__main__":
    main()
