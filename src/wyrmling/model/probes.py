"""Stored prompts and the trained model's answers to them, inside the model folder.

Whoever copies, converts or serves the folder replays them first: what was trained is what is served, or it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wyrmling.core.artifact import write_durably
from wyrmling.core.errors import BadInput, CorruptArtifact, GateRefused
from wyrmling.model import folder as model_folder
from wyrmling.model.attention import Segments
from wyrmling.model.generate import Token, generate
from wyrmling.model.heads import Model
from wyrmling.model.sampling import Sampling

PROBES, LOGITS = "probes.json", "probes.safetensors"
GREEDY_TOKENS = 16
PROBE_TOKENS = 64
# Between machines and kernels float32 logits move by about 1e-5; a wrong or damaged weight moves them by far more.
TOLERANCE = 1e-3


class Allowed(NamedTuple):
    """How far answers may be from the stored ones.

    max_abs   largest absolute difference of a logit, with the same greedy answers. None: any
    mean_kl   largest mean Kullback-Leibler divergence of the distributions, in nats. None: any
    """

    max_abs: float | None = None
    mean_kl: float | None = None


EXACT = Allowed(max_abs=TOLERANCE)


class Encoder(Protocol):
    """The part of a tokenizer that probes need."""

    def prompt(self, text: str) -> list[int]: ...

    def document(self, text: str) -> list[int]: ...


class Difference(NamedTuple):
    """How far a model's answers are from the stored ones.

    max_abs        largest absolute difference of a logit
    mean_kl        mean Kullback-Leibler divergence of the new distributions from the stored ones, in nats
    greedy_equal   share of probes whose greedy answer is the same, 0..1; 1 for heads that do not generate
    probes         how many were compared
    """

    max_abs: float
    mean_kl: float
    greedy_equal: float
    probes: int

    def __str__(self) -> str:
        return (
            f"logits differ by up to {self.max_abs:.2g}, distributions by {self.mean_kl:.2g} nats on average, "
            f"greedy answers equal on {self.greedy_equal:.0%} of {self.probes} probes"
        )


class Probe(NamedTuple):
    """A stored text, its ids, and the greedy answer as far as rounding can't change it."""

    text: str
    ids: list[int]
    greedy: list[int]


class Stored(NamedTuple):
    """The probes of a folder and the logits of each: (T, V) float32, or (1, C) for a document's classes."""

    probes: list[Probe]
    logits: list[Tensor]


def ask(model: Model, tokenizer: Encoder, texts: Sequence[str]) -> Stored:
    """What a model says to each text; of a long one the first tokens are used."""
    encode = tokenizer.prompt if model.head_name == "next" else tokenizer.document
    # One token of room, so that there is something to answer.
    limit = min(PROBE_TOKENS, model.config.context - 1)
    prompts = [encode(text)[:limit] for text in texts]
    answers = [[token.id for token in _beyond_doubt(answer)] for answer in _greedy(model, prompts)]
    found = [Probe(text, ids, answer) for text, ids, answer in zip(texts, prompts, answers, strict=True)]
    return Stored(found, _logits(model, prompts))


def record(model: Model, tokenizer: Encoder, texts: Sequence[str], folder: Path) -> None:
    """Ask the model about each text and keep texts, ids, float32 logits and greedy answers in its folder.

    texts   a few short typical inputs
    Raises  BadInput when there is no text
    """
    if not texts:
        raise BadInput("a model folder needs at least one probe", where=folder, fix="give one or more typical inputs")
    stored = ask(model, tokenizer, texts)
    content = {"probes": [probe._asdict() for probe in stored.probes]}
    write_durably(folder / PROBES, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())
    model_folder.write_tensors(folder / LOGITS, {f"logits.{i}": value for i, value in enumerate(stored.logits)})


def replay(
    folder: Path, model: Model | None = None, *, tokenizer: Encoder | None = None, allowed: Allowed = EXACT
) -> Difference:
    """Ask again and compare. Returns the difference when it is within what is allowed.

    model       the model to compare. None: the folder's own, loaded
    tokenizer   also compare the ids it gives for the stored texts. None: ids are taken as stored
    Raises      GateRefused with the numbers when the answers differ; CorruptArtifact when the probes can't be read
    """
    folder = model_folder.locate(folder)
    stored = read(folder)
    model = model or model_folder.load(folder)
    if tokenizer is not None:
        _compare_ids(model, tokenizer, stored.probes, folder)
    difference = measure(model, stored, where=folder)
    check(difference, allowed, where=folder)
    return difference


def measure(model: Model, stored: Stored, *, where: object) -> Difference:
    """How far a model's answers are from the stored ones. Raises GateRefused when they are of another shape."""
    prompts = [probe.ids for probe in stored.probes]
    answers = [[token.id for token in answer] for answer in _greedy(model, prompts)]
    return compare(stored, _logits(model, prompts), answers, where=where)


def compare(stored: Stored, logits: Sequence[Tensor], answers: Sequence[Sequence[int]], *, where: object) -> Difference:
    """How far logits and greedy answers, one per probe, are from the stored ones.

    Raises   GateRefused when they are of another shape
    """
    largest, divergence, rows = 0.0, 0.0, 0
    for i, (value, reference) in enumerate(zip(logits, stored.logits, strict=True)):
        if reference.shape != value.shape:
            raise GateRefused(
                f"probe {i} has logits of another shape than the trained model gave",
                where=where,
                fix="train the model again; the folder holds parts of different models",
            )
        largest = max(largest, _finite((value - reference).abs().max()))
        expected, given = reference.double().log_softmax(-1), value.double().log_softmax(-1)
        divergence += _finite((expected.exp() * (expected - given)).sum())
        rows += len(value)
    pairs = zip(answers, stored.probes, strict=True)
    equal = sum(list(answer[: len(probe.greedy)]) == probe.greedy for answer, probe in pairs)
    return Difference(largest, divergence / rows, equal / len(stored.probes), len(stored.probes))


def check(difference: Difference, allowed: Allowed, *, where: object) -> None:
    """Raise GateRefused when a difference is larger than allowed."""
    if allowed.max_abs is not None and (difference.max_abs > allowed.max_abs or difference.greedy_equal < 1):
        raise GateRefused(
            f"the answers differ from the trained model's: {difference} (allowed {allowed.max_abs:.2g} and 100%)",
            where=where,
            fix="restore the model folder from a backup, or train the model again",
        )
    if allowed.mean_kl is not None and difference.mean_kl > allowed.mean_kl:
        raise GateRefused(
            f"the smaller weights change the answers too much: {difference} (allowed {allowed.mean_kl:.2g} nats)",
            where=where,
            fix="use a method that rounds less: int8 rather than int8-dynamic, either rather than 4bit, or none",
        )


def _finite(value: Tensor) -> float:
    """A number that is not one counts as infinitely far."""
    return float(value.nan_to_num(nan=float("inf"), posinf=float("inf")))


def read(folder: Path) -> Stored:
    """The stored probes of a model folder. Raises CorruptArtifact when they can't be read."""
    try:
        raw = json.loads((folder / PROBES).read_text(encoding="utf-8"))["probes"]
        probes = [Probe(str(probe["text"]), list(probe["ids"]), list(probe["greedy"])) for probe in raw]
        if not probes or any(not probe.ids for probe in probes):
            raise ValueError("no probes in it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(
            f"{PROBES} is missing or not readable: {error}", where=folder, fix="train the model again"
        ) from error
    tensors = model_folder.read_tensors(folder / LOGITS)
    logits = [tensors.get(f"logits.{i}", torch.empty(0)) for i in range(len(probes))]
    return Stored(probes, logits)


def _compare_ids(model: Model, tokenizer: Encoder, stored: Sequence[Probe], folder: Path) -> None:
    encode = tokenizer.prompt if model.head_name == "next" else tokenizer.document
    for i, probe in enumerate(stored):
        if encode(probe.text)[: len(probe.ids)] != probe.ids:
            raise GateRefused(
                f"the tokenizer gives other ids for probe {i} than it gave in training",
                where=folder,
                fix="restore tokenizer.json from a backup, or train the model again",
            )


@torch.no_grad()
def _logits(model: Model, prompts: list[list[int]]) -> list[Tensor]:
    model.eval()
    device = model.body.embedding.weight.device
    return [model.logits(torch.tensor(ids, device=device), Segments([len(ids)])).float().cpu() for ids in prompts]


def _greedy(model: Model, prompts: list[list[int]]) -> list[list[Token]]:
    """What a decoder says next; nothing for the other heads, whose logits are their whole answer."""
    if model.head_name != "next":
        return [[] for _ in prompts]
    return generate(model, prompts, Sampling(max_tokens=GREEDY_TOKENS, temperature=0, top_logprobs=2))


def _beyond_doubt(answer: list[Token]) -> list[Token]:
    """The answer up to the first token that rounding alone could change."""
    for i, token in enumerate(answer):
        if token.top[0][1] - token.top[1][1] < 2 * TOLERANCE:
            return answer[:i]
    return answer
