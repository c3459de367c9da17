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


class Encoder(Protocol):
    """The part of a tokenizer that probes need."""

    def prompt(self, text: str) -> list[int]: ...

    def document(self, text: str) -> list[int]: ...


class Difference(NamedTuple):
    """How far a model's answers are from the stored ones.

    max_abs        largest absolute difference of a logit
    greedy_equal   share of probes whose greedy answer is the same, 0..1; 1 for heads that do not generate
    probes         how many were compared
    """

    max_abs: float
    greedy_equal: float
    probes: int


def record(model: Model, tokenizer: Encoder, texts: Sequence[str], folder: Path) -> None:
    """Ask the model about each text and keep texts, ids, float32 logits and greedy answers in its folder.

    texts   a few short typical inputs; of a long one the first tokens are used
    Raises  BadInput when there is no text
    """
    if not texts:
        raise BadInput("a model folder needs at least one probe", where=folder, fix="give one or more typical inputs")
    encode = tokenizer.prompt if model.head_name == "next" else tokenizer.document
    # One token of room, so that there is something to answer.
    limit = min(PROBE_TOKENS, model.config.context - 1)
    prompts = [encode(text)[:limit] for text in texts]
    logits = _logits(model, prompts)
    answers = _greedy(model, prompts)
    probes = [
        {"text": text, "ids": ids, "greedy": [token.id for token in _beyond_doubt(answer)]}
        for text, ids, answer in zip(texts, prompts, answers, strict=True)
    ]
    write_durably(folder / PROBES, (json.dumps({"probes": probes}, ensure_ascii=False, indent=1) + "\n").encode())
    model_folder.write_tensors(folder / LOGITS, {f"logits.{i}": value for i, value in enumerate(logits)})


def replay(
    folder: Path, model: Model | None = None, *, tokenizer: Encoder | None = None, tolerance: float = TOLERANCE
) -> Difference:
    """Ask again and compare. Returns the difference when it is within tolerance.

    model       the model to compare. None: the folder's own, loaded
    tokenizer   also compare the ids it gives for the stored texts. None: ids are taken as stored
    tolerance   largest allowed absolute difference of a logit
    Raises      GateRefused with the numbers when the answers differ; CorruptArtifact when the probes can't be read
    """
    folder = model_folder.locate(folder)
    stored = _read(folder)
    prompts = [probe["ids"] for probe in stored]
    model = model or model_folder.load(folder)
    if tokenizer is not None:
        _compare_ids(model, tokenizer, stored, folder)
    logits = _logits(model, prompts)
    expected = model_folder.read_tensors(folder / LOGITS)
    largest = 0.0
    for i, value in enumerate(logits):
        reference = expected.get(f"logits.{i}")
        if reference is None or reference.shape != value.shape:
            raise GateRefused(
                f"probe {i} has logits of another shape than the trained model gave",
                where=folder,
                fix="train the model again; the folder holds parts of different models",
            )
        difference = (value - reference).abs().max()
        largest = max(largest, float(difference.nan_to_num(nan=float("inf"))))
    answers = [[token.id for token in answer] for answer in _greedy(model, prompts)]
    pairs = [(answer, probe["greedy"]) for answer, probe in zip(answers, stored, strict=True)]
    equal = sum(answer[: len(kept)] == kept for answer, kept in pairs) / len(stored)
    if largest > tolerance or equal < 1:
        raise GateRefused(
            f"the answers differ from the trained model's: logits by up to {largest:.2g} (allowed {tolerance:.2g}), "
            f"greedy answers equal on {equal:.0%} of {len(stored)} probes",
            where=folder,
            fix="restore the model folder from a backup, or train the model again",
        )
    return Difference(largest, equal, len(stored))


def _read(folder: Path) -> list[dict[str, list[int]]]:
    try:
        probes: list[dict[str, list[int]]] = json.loads((folder / PROBES).read_text(encoding="utf-8"))["probes"]
        if not probes or any(not probe["ids"] or "greedy" not in probe for probe in probes):
            raise ValueError("no probes in it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(
            f"{PROBES} is missing or not readable: {error}", where=folder, fix="train the model again"
        ) from error
    return probes


def _compare_ids(model: Model, tokenizer: Encoder, stored: list[dict[str, list[int]]], folder: Path) -> None:
    encode = tokenizer.prompt if model.head_name == "next" else tokenizer.document
    for i, probe in enumerate(stored):
        if encode(str(probe["text"]))[: len(probe["ids"])] != probe["ids"]:
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
