"""Several processes that train a tiny model in every way, and write down how it went; for test_parallel.py.

python several.py OUT train:4 resume:2 resume:1

train    every way to spread it; some leave a checkpoint
resume   goes on from the checkpoints that another number of processes left

The processes are forked from one that has imported torch, which takes longer than all the rest.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.multiprocessing
from torch import Tensor

from wyrmling.config import Launch, Preference, PreferenceLoss, TrainMethod, TrainStep
from wyrmling.model.heads import Model, stacked_parts
from wyrmling.model.transformer import ModelConfig
from wyrmling.train import shards, trainable
from wyrmling.train.assemble import Numerics
from wyrmling.train.batches import Batches
from wyrmling.train.checkpoint import State
from wyrmling.train.choices import PreferenceBatches
from wyrmling.train.look import look
from wyrmling.train.loop import accumulate, average
from wyrmling.train.objectives import token_loss
from wyrmling.train.optim import Optimizer, parameter_groups
from wyrmling.train.preference import preference_loss
from wyrmling.train.reference import fill
from wyrmling.train.team import Team, join
from wyrmling.train.trainable import Dtype

# 41 rows of the embedding, 44 of the feed-forward layer: not a multiple of the processes.
CONFIG = ModelConfig(
    family="qwen3", vocab_size=41, width=16, layers=2, heads=4, kv_heads=4, head_dim=8, ffn=44, context=48
)
STEPS, STOP = 5, 2
# The ways that leave a checkpoint, and where.
SAVED = {"fsdp": "fsdp", "fsdp-tensor": "fsdp tensor", "fsdp-lora": "fsdp lora", "fsdp-kto": "fsdp kto"}


class Rows:
    """Sixty rows of random tokens, as a token store has them."""

    def __init__(self) -> None:
        draw = np.random.Generator(np.random.PCG64(0))
        self._tokens = [draw.integers(0, 40, int(length)) for length in draw.integers(8, 48, 60)]
        self.rows = {"length": np.array([len(row) for row in self._tokens]), "source": np.zeros(60)}

    def tokens(self, row: int, start: int = 0, end: int | None = None) -> np.ndarray:
        return self._tokens[row][start:end]

    def learn(self, row: int, start: int = 0, end: int | None = None) -> np.ndarray:
        return np.ones(len(self._tokens[row]), dtype=bool)[start:end]


class Pairs(Rows):
    """The same rows as pairs: each half is a prompt of two tokens and an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows |= {"second": self.rows["length"] // 2, "kind": np.full(60, "pair")}

    def learn(self, row: int, start: int = 0, end: int | None = None) -> np.ndarray:
        found = super().learn(row).copy()
        for begin in (0, int(self.rows["second"][row])):
            found[begin : begin + 2] = False
        return found[start:end]


class Way(NamedTuple):
    """How a model is spread, and what it learns; loss: of preferred answers, None: next tokens."""

    launch: Launch
    method: TrainMethod = "full"
    loss: PreferenceLoss | None = None


class Training:
    """The loop's parts, called as the loop calls them."""

    def __init__(self, team: Team, way: Way, dtype: Dtype = "float32", *, reference: Path | None = None) -> None:
        launch, method, preferred = way
        (self.model,) = team.build(lambda: (Model(CONFIG, "next", seed=0),), launch, method=method)
        step = TrainStep(name="tune", objective="causal", method=method)
        adapters = trainable.prepare(self.model, step, seed=0, dtype="float32")
        team.place(self.model, dtype)
        self.autocast = partial(Numerics(1, dtype).autocast, "cpu")
        sizes = {"context": 48, "data_hash": "rows", "seed": 0, "batch_tokens": 400, "micro_batch_tokens": 90}
        if preferred is None:
            batches, loss = Batches(Rows(), "causal", np.arange(60), **sizes), token_loss
        else:
            batches = PreferenceBatches(Pairs(), preferred, np.arange(60), **sizes)
            loss = partial(preference_loss, settings=Preference(loss=preferred))
            if preferred != "orpo":
                assert reference is not None
                fill(self.model, {"train": batches}, reference, self.autocast, team)
        self.team, self.loss, self.all, self.preferred = team, team.evenly(loss), batches, preferred
        self.batches = team.deal(batches)
        groups = parameter_groups(
            team.parameters,
            rule="muon",
            lr=0.02,
            embedding_lr=0.03,
            head_lr=0.01,
            weight_decay=0.1,
            parts=stacked_parts(self.model) if adapters is None else adapters.stacked_parts(),
        )
        self.optimizer = Optimizer(groups, team.exchange)

    def run(self, first: int, last: int) -> list[list[float]]:
        """Loss, norm of the clipped gradients and of the others, rows learned: of each step."""
        return [self.step(number) for number in range(first, last + 1)]

    def step(self, number: int) -> list[float]:
        team, optimizer, batches = self.team, self.optimizer, self.batches.step(number)
        total, targets = team.total(*accumulate(self.model, self.loss, batches, self.autocast))
        team.sum_gradients()
        norm, factor = average(optimizer, targets, 1.0, team.norm)
        others = float(team.norm(optimizer.gradients(rule="muon")))
        optimizer.step(1.0, factor)
        optimizer.zero_grad()
        rows = team.gathered([int(row) for batch in batches for row in batch.rows])
        return [total / targets, norm, others, *sorted(rows)]

    def look(self) -> dict[str, float]:
        """What the model makes of all rows."""
        asked = None if self.preferred is None else Preference(loss=self.preferred)
        name = "causal" if asked is None else "preference"
        return look(
            self.model,
            name,
            self.all,
            n_bytes=0,
            tag_names=[],
            autocast=self.autocast,
            team=self.team,
            preference=asked,
        )

    def weights(self) -> dict[str, Tensor]:
        return self.team.whole({name: p.detach() for name, p in self.team.parameters.items()})

    def save(self, folder: Path, step: int) -> None:
        model = {name: p.detach() for name, p in self.team.parameters.items()}
        state = State(step, model, self.optimizer.state(), best=model)
        shards.save(folder, state, self.team, keep=2)
        self.team.wait()

    def load(self, folder: Path) -> int:
        state = shards.load_newest(folder, self.team, base="")
        assert state is not None
        state = shards.localised(state, self.team)
        for name, parameter in self.team.parameters.items():
            parameter.data.copy_(state.model[name])
        self.optimizer.load(state.optimizer)
        return state.step


# Every way to spread a model over four processes.
WAYS = {
    "ddp": Way(Launch(strategy="ddp")),
    "fsdp": Way(Launch(strategy="fsdp")),
    "hsdp": Way(Launch(strategy="hsdp", shards=2)),
    "tensor": Way(Launch(strategy="ddp", tensor=2)),
    "fsdp tensor": Way(Launch(strategy="fsdp", tensor=2)),
    "fsdp lora": Way(Launch(strategy="fsdp"), "lora"),
    "ddp lora": Way(Launch(strategy="ddp"), "lora"),
    "ddp dpo": Way(Launch(strategy="ddp"), loss="dpo"),
    "fsdp kto": Way(Launch(strategy="fsdp"), loss="kto"),
    "fsdp tensor orpo": Way(Launch(strategy="fsdp", tensor=2), loss="orpo"),
}


def train(out: Path) -> dict[str, object]:
    told: dict[str, object] = {}
    told["bfloat16"] = Training(join("cpu"), WAYS["fsdp"], "bfloat16").run(1, STEPS)
    for name, way in WAYS.items():
        training = Training(join("cpu"), way, reference=out / name)
        figures = training.run(1, STOP)
        for folder in (folder for folder, saved in SAVED.items() if saved == name):
            training.save(out / folder, STOP)
        figures += training.run(STOP + 1, STEPS)
        weights = {name: value.tolist() for name, value in training.weights().items()}
        told[name] = {"figures": figures, "look": training.look(), "weights": weights}
    return told


def resume(out: Path) -> dict[str, object]:
    told: dict[str, object] = {}
    for name in SAVED:
        way = WAYS[SAVED[name]]._replace(launch=Launch(strategy="fsdp"))
        training = Training(join("cpu"), way, reference=out / SAVED[name])
        told[name] = training.run(training.load(out / name) + 1, STEPS)
    return told


def process(rank: int, world: int, port: int, what: str, out: Path) -> None:
    """One of the processes, with the environment that torch's launcher gives."""
    os.environ.update(
        TORCHELASTIC_RUN_ID="several",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    told = {"train": train, "resume": resume}[what](out)
    if rank == 0:
        (out / f"{what}-{world}.json").write_text(json.dumps(told))


def main(out: str, *parts: str) -> None:
    # Imported once, before the processes part; FSDP would import torch's compiler in each.
    for module in ("torch._dynamo", "wyrmling.train.distributed"):
        import_module(module)
    torch.set_num_threads(1)
    for part in parts:
        what, world = part.split(":")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        arguments = (int(world), port, what, Path(out))
        torch.multiprocessing.start_processes(process, arguments, nprocs=int(world), start_method="fork")


if __name__ == "__main__":
    main(*sys.argv[1:])
