"""Which weights of a model move: each method is a function that freezes the rest. And what they are, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from wyrmling.config import TrainMethod, TrainStep
from wyrmling.core.errors import BadSetting, CorruptArtifact
from wyrmling.model.adapter import Adapters, Design
from wyrmling.model.foreign import Foreign
from wyrmling.model.heads import Model
from wyrmling.model.layout import local

# The adapter that a step trains.
ADAPTER = "default"

# The type that matrix products are computed in.
Dtype = Literal["float32", "bfloat16"]


def prepare(model: Model, step: TrainStep, *, seed: int, dtype: Dtype) -> Adapters | None:
    """Freeze what the step's method does not train; the adapters, for the methods that make one.

    dtype    frozen matrices are kept in it where that spares a cast at each product
    Raises   BadSetting when there would be nothing to train, or not what was asked for
    """
    if isinstance(model, Foreign) and step.method not in ("full", "probe"):
        raise BadSetting(
            f"the method {step.method!r} is not there for {model.config.family} models, which transformers computes",
            where=f"train.{step.name}.method",
            fix='use method = "full" or "probe", or a base of another kind',
        )
    return _METHODS[step.method](model, step, seed, dtype)


def state(model: Model) -> dict[str, Tensor]:
    """What this process holds of the trained parameters, by name; a change of them changes the model."""
    return {name: local(p.detach()) for name, p in model.named_parameters() if p.requires_grad}


def restore(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Give the trained parameters these values.

    Raises   CorruptArtifact when names or shapes are not those of the trained parameters
    """
    own = state(model)
    wrong = own.keys() ^ tensors.keys() or {name for name in own if own[name].shape != tensors[name].shape}
    if wrong:
        raise CorruptArtifact(
            f"the saved weights do not fit the parameters that this step trains: {sorted(wrong)[0]}",
            fix="delete the work folder of this step and train again",
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def correct(model: Model, step: TrainStep, *, seed: int) -> Adapters:
    """The untrained adapter of a lora or qlora step, on matrices as they are."""
    return _added(Adapters(model), step, seed)


def _added(adapters: Adapters, step: TrainStep, seed: int) -> Adapters:
    # The head of labels is new; that of tokens is the base model's own.
    adapters.add(ADAPTER, _design(step), seed=seed, head=adapters.model.head_name in ("classes", "tags"))
    return adapters


def _full(model: Model, step: TrainStep, seed: int, dtype: Dtype) -> None:
    model.requires_grad_(True)


def _freeze(model: Model, step: TrainStep, seed: int, dtype: Dtype) -> None:
    body, asked = model.body, step.freeze
    if asked.layers > len(body.blocks):
        raise BadSetting(
            f"freeze.layers = {asked.layers}, but the model has {len(body.blocks)} blocks",
            where=f"train.{step.name}",
            fix='name fewer, or use method = "full"',
        )
    model.requires_grad_(False)
    # With [-0:] all of them would be meant.
    for block in body.blocks[len(body.blocks) - asked.layers :]:
        block.requires_grad_(True)
    body.final_norm.requires_grad_(True)
    model.head.requires_grad_(True)
    body.embedding.requires_grad_(asked.embedding)


def _probe(model: Model, step: TrainStep, seed: int, dtype: Dtype) -> None:
    model.body.requires_grad_(False)
    if not state(model):
        raise BadSetting(
            f"the head {model.head_name!r} of this model has no weights of its own, so there is nothing to probe",
            where=f"train.{step.name}.method",
            fix='use method = "freeze", "lora" or "full"',
        )


def _lora(model: Model, step: TrainStep, seed: int, dtype: Dtype) -> Adapters:
    adapters = Adapters(model)
    adapters.shrink(nf4=step.method == "qlora", dtype=torch.bfloat16 if dtype == "bfloat16" else None)
    return _added(adapters, step, seed)


_METHODS: dict[TrainMethod, Callable[[Model, TrainStep, int, Dtype], Adapters | None]] = {
    "full": _full,
    "freeze": _freeze,
    "probe": _probe,
    "lora": _lora,
    "qlora": _lora,
}


def _design(step: TrainStep) -> Design:
    asked = step.lora
    return Design(
        rank=asked.rank,
        alpha=2 * asked.rank if asked.alpha is None else asked.alpha,
        dropout=asked.dropout,
        targets=asked.targets,
        rslora=asked.rslora,
        dora=asked.dora,
    )
