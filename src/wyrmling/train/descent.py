"""Two plain update rules beside Muon and AdamW: SGD with momentum, and AdamW with moments of one byte."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wyrmling.core.errors import CorruptArtifact, UsageError

if TYPE_CHECKING:
    from wyrmling.train.optim import Group

SGD_MOMENTUM = 0.9


class SGD:
    """Stochastic gradient descent with heavy-ball momentum; weight decay is added to the gradient, as in torch."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._momentum: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, rate: float, factor: float = 1.0) -> None:
        parameters = {name: p for name, p in self.group.parameters.items() if p.grad is not None}
        if not parameters:
            return
        weights: list[Tensor] = list(parameters.values())
        gradients = [p.grad for p in parameters.values() if p.grad is not None]
        momentum = [self._momentum.setdefault(name, torch.zeros_like(p)) for name, p in parameters.items()]
        torch._foreach_mul_(momentum, SGD_MOMENTUM)
        torch._foreach_add_(momentum, gradients, alpha=factor)
        if self.group.weight_decay > 0:
            torch._foreach_add_(momentum, weights, alpha=self.group.weight_decay)
        torch._foreach_add_(weights, momentum, alpha=-self.group.lr * rate)

    def state(self) -> dict[str, Tensor]:
        return {f"sgd.{name}": momentum for name, momentum in self._momentum.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take this group's tensors out of `tensors`."""
        for name, parameter in self.group.parameters.items():
            if (found := tensors.pop(f"sgd.{name}", None)) is None:
                continue
            if found.shape != parameter.shape:
                raise misfit(name)
            self._momentum[name] = found.to(parameter.device, copy=True)


class AdamW8bit:
    """bitsandbytes' AdamW: both moments are one byte each, scaled in blocks of 256 (Dettmers 2022, arXiv 2110.02861).

    Parameters of less than 4,096 values keep float32 moments, as bitsandbytes has it.
    """

    def __init__(self, group: Group) -> None:
        try:
            optim: Any = import_module("bitsandbytes.optim")
        except ImportError as error:
            raise UsageError(
                'optimizer = "adamw_8bit" needs the package bitsandbytes', fix='pip install "wyrmling[gpu]"'
            ) from error
        self.group = group
        self._inner = optim.AdamW8bit(
            list(group.parameters.values()),
            lr=group.lr,
            betas=group.betas,
            eps=group.eps,
            weight_decay=group.weight_decay,
        )

    @torch.no_grad()
    def step(self, rate: float, factor: float = 1.0) -> None:
        if gradients := [p.grad for p in self.group.parameters.values() if p.grad is not None and factor != 1]:
            torch._foreach_mul_(gradients, factor)
        for options in self._inner.param_groups:
            options["lr"] = self.group.lr * rate
        self._inner.step()

    def state(self) -> dict[str, Tensor]:
        return {
            f"adamw_8bit.{name}.{key}": torch.as_tensor(value)
            for name, parameter in self.group.parameters.items()
            for key, value in self._inner.state[parameter].items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take this group's tensors out of `tensors`."""
        for name, parameter in self.group.parameters.items():
            prefix = f"adamw_8bit.{name}."
            found = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
            if not found:
                continue
            if "step" not in found or found["state1"].shape != parameter.shape:
                raise misfit(name)
            moved = {key: value.to(parameter.device, copy=True) for key, value in found.items() if key != "step"}
            self._inner.state[parameter] = {"step": int(found["step"]), **moved}


def misfit(name: str) -> CorruptArtifact:
    return CorruptArtifact(
        f"the saved optimizer state does not fit the parameter {name}",
        fix="delete the work folder of this step and train again",
    )
