"""Optimizers and schedules: batched Muon for matrices, fused AdamW for the rest, all state by parameter name.

Knows nothing about data or models beyond parameter names. Legend: N matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wyrmling.config import OptimizerName
from wyrmling.train.descent import SGD, AdamW8bit, misfit
from wyrmling.train.exchange import Exchange

# Quintic Newton-Schulz coefficients of the original Muon (Jordan 2024) and of torch.optim.Muon.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MUON_MOMENTUM = 0.95
Norm = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimizer and its numbers.

    name    matrices, embedding, head or scalars
    rule    muon (2-D parameters only), adamw, adamw_8bit or sgd
    lr      peak learning rate; the schedule multiplies it
    """

    name: str
    rule: OptimizerName
    parameters: Mapping[str, nn.Parameter]
    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """For parameters that hold several matrices above each other: the rows of each. Muon treats each on its own."""


class Optimizer:
    """Applies each group's rule. `state()` and `load()` are exact: a restart continues bit for bit."""

    def __init__(self, groups: Iterable[Group], exchange: Exchange | None = None) -> None:
        """exchange   how Muon gets whole matrices when a process holds parts of them, or shares the work with others"""
        self.groups, self.exchange = [group for group in groups if group.parameters], exchange
        self._rules = [
            SharedMuon(group, exchange) if exchange and group.rule == "muon" else RULES[group.rule](group)
            for group in self.groups
        ]

    def step(self, rate: float, factor: float = 1.0) -> None:
        """One update of every parameter.

        rate     the schedule's share of the peak learning rate, 0..1
        factor   of all gradients but those of Muon, whose updates have the same size whatever it is
        """
        for rule in self._rules:
            if isinstance(rule, Muon | SharedMuon):
                rule.step(rate)
            else:
                rule.step(rate, factor)

    def zero_grad(self) -> None:
        for group in self.groups:
            for parameter in group.parameters.values():
                parameter.grad = None

    def gradients(self, *, rule: str | None = None, but: str | None = None) -> list[Tensor]:
        """The gradients that exist, of all groups, of those with one rule, or of those without it."""
        chosen = (g for g in self.groups if rule in (None, g.rule) and g.rule != but)
        found = (p.grad for g in chosen for p in g.parameters.values())
        return [gradient for gradient in found if gradient is not None]

    def state(self) -> dict[str, Tensor]:
        """All moments and counters by name. Empty before the first step."""
        return {name: tensor for rule in self._rules for name, tensor in rule.state().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state()` gave. Raises CorruptArtifact when names or shapes do not fit these parameters."""
        remaining = dict(tensors)
        for rule in self._rules:
            rule.load(remaining)
        if remaining:
            raise misfit(next(iter(remaining)))


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), one fused kernel per group.

    Calls the kernel under torch.optim.AdamW(fused=True): building that class imports torch._dynamo, which takes as long
    as importing torch itself (2.6 s, measured with 2.13 on one core).
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self._moments: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def step(self, rate: float, factor: float = 1.0) -> None:
        names = [name for name, parameter in self.group.parameters.items() if parameter.grad is not None]
        if not names:
            return
        parameters: list[Tensor] = [self.group.parameters[name] for name in names]
        # The kernel divides by it as it reads; a pass over the gradients takes a third as long as all of the update.
        divisor = None if factor == 1 else torch.full((), 1 / factor, device=parameters[0].device)
        moments = [self._moments_of(name) for name in names]
        count, mean, square = ([moment[index] for moment in moments] for index in range(3))
        torch._foreach_add_(count, 1)
        torch._fused_adamw_(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            mean,
            square,
            [],
            count,
            lr=self.group.lr * rate,
            beta1=self.group.betas[0],
            beta2=self.group.betas[1],
            weight_decay=self.group.weight_decay,
            eps=self.group.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
        )

    def state(self) -> dict[str, Tensor]:
        return {
            f"adamw.{name}.{key}": tensor
            for name, moments in self._moments.items()
            for key, tensor in zip(("step", "exp_avg", "exp_avg_sq"), moments, strict=True)
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take this group's tensors out of `tensors`."""
        for name, parameter in self.group.parameters.items():
            keys = [f"adamw.{name}.{key}" for key in ("step", "exp_avg", "exp_avg_sq")]
            found = [tensors.pop(key) for key in keys if key in tensors]
            if not found:
                continue
            if len(found) != 3 or any(moment.shape != parameter.shape for moment in found[1:]):
                raise misfit(name)
            count, mean, square = (moment.to(parameter.device, copy=True) for moment in found)
            self._moments[name] = (count, mean, square)

    def _moments_of(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        if name not in self._moments:
            parameter = self.group.parameters[name]
            count = torch.zeros((), dtype=torch.float32, device=parameter.device)
            self._moments[name] = (count, torch.zeros_like(parameter), torch.zeros_like(parameter))
        return self._moments[name]


class Muon:
    """Momentum, orthogonalised, on all matrices of one shape at once.

    The update has spectral norm about 1 and is scaled by sqrt(max(1, R/C)); weight decay is cautious: only where it
    agrees with the update.
    Source   Jordan 2024 (github KellerJordan/Muon); cautious decay: Liang 2024 (arXiv 2411.16085)
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self._stacks: dict[tuple[int, int], list[_Part]] = {}
        for name, parameter in group.parameters.items():
            if parameter.ndim != 2:
                raise ValueError(f"{name} has {parameter.ndim} dimensions; Muon takes matrices")
            start = 0
            for rows in group.parts.get(name, (parameter.shape[0],)):
                self._stacks.setdefault((rows, parameter.shape[1]), []).append(_Part(name, start, rows))
                start += rows
        self._momentum: dict[tuple[int, int], Tensor] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for shape, parts in self._stacks.items():
            weights = [self._view(part, self.group.parameters[part.name]) for part in parts]
            gradient_NRC = torch.stack([self._gradient(part) for part in parts])
            momentum_NRC = self._momentum.setdefault(shape, torch.zeros_like(gradient_NRC))
            momentum_NRC.lerp_(gradient_NRC, 1 - MUON_MOMENTUM)
            update_NRC = orthogonalise(gradient_NRC.lerp_(momentum_NRC, MUON_MOMENTUM))
            update_NRC *= math.sqrt(max(1.0, shape[0] / shape[1]))
            if self.group.weight_decay > 0:
                weight_NRC = torch.stack(weights)
                update_NRC += self.group.weight_decay * weight_NRC * ((update_NRC * weight_NRC) >= 0)
            for weight, update_RC in zip(weights, update_NRC, strict=True):
                weight.add_(update_RC, alpha=-self.group.lr * rate)

    def state(self) -> dict[str, Tensor]:
        parts = sorted(
            (part, momentum_RC)
            for shape, momentum_NRC in self._momentum.items()
            for part, momentum_RC in zip(self._stacks[shape], momentum_NRC, strict=True)
        )
        names = {part.name: None for part, _ in parts}
        return {f"muon.{name}": torch.cat([m_RC for part, m_RC in parts if part.name == name]) for name in names}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take this group's tensors out of `tensors`."""
        whole = _momenta(self.group, tensors)
        for shape, parts in self._stacks.items():
            if whole:
                self._momentum[shape] = torch.stack([self._view(part, whole[part.name]) for part in parts])

    def _view(self, part: _Part, whole: Tensor) -> Tensor:
        return whole.detach()[part.start : part.start + part.rows]

    def _gradient(self, part: _Part) -> Tensor:
        parameter = self.group.parameters[part.name]
        return self._view(part, torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)


class SharedMuon:
    """Muon where a process holds parts of the matrices, or has others to share the work with.

    Momentum and decay go by the number and stay with the parts; each whole matrix is orthogonalised on one process.
    """

    def __init__(self, group: Group, exchange: Exchange) -> None:
        self.group, self.exchange = group, exchange.of(group.parameters)
        self._momentum: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        updates = {}
        for name, parameter in self.group.parameters.items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            momentum = self._momentum.setdefault(name, torch.zeros_like(gradient))
            momentum.lerp_(gradient, 1 - MUON_MOMENTUM)
            updates[name] = gradient.lerp(momentum, MUON_MOMENTUM)
        like = next(iter(updates.values()))
        moved = self.exchange.hand_back(self._orthogonal(self.exchange.collect(updates)), like)
        for name, parameter in self.group.parameters.items():
            update = moved[name]
            if self.group.weight_decay > 0:
                update += self.group.weight_decay * parameter * ((update * parameter) >= 0)
            parameter.add_(update, alpha=-self.group.lr * rate)

    def state(self) -> dict[str, Tensor]:
        return {f"muon.{name}": momentum for name, momentum in self._momentum.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take this group's tensors out of `tensors`."""
        self._momentum = _momenta(self.group, tensors)

    def _orthogonal(self, wholes: dict[str, Tensor]) -> dict[str, Tensor]:
        """The updates of whole parameters; each matrix in them on its own, those of one shape together."""
        stacks: dict[torch.Size, list[Tensor]] = {}
        for name, whole in wholes.items():
            for matrix_RC in torch.split(whole, list(self.group.parts.get(name, whole.shape[:1]))):
                stacks.setdefault(matrix_RC.shape, []).append(matrix_RC)
        for (rows, columns), matrices in stacks.items():
            for matrix_RC, update_RC in zip(matrices, orthogonalise(torch.stack(matrices)), strict=True):
                matrix_RC.copy_(update_RC * math.sqrt(max(1.0, rows / columns)))
        return wholes


def _momenta(group: Group, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The saved momentum of each matrix of a group, taken out of `tensors`; none before the first step."""
    found = {name: tensors.pop(f"muon.{name}") for name in group.parameters if f"muon.{name}" in tensors}
    for name, parameter in group.parameters.items():
        if found and (name not in found or found[name].shape != parameter.shape):
            raise misfit(name)
    return {name: momentum.to(group.parameters[name].device, copy=True) for name, momentum in found.items()}


class _Part(NamedTuple):
    """Rows of a parameter that are one matrix."""

    name: str
    start: int
    rows: int


def parameter_groups(
    parameters: Mapping[str, nn.Parameter],
    *,
    rule: OptimizerName,
    lr: float,
    embedding_lr: float,
    head_lr: float,
    scalar_lr: float | None = None,
    weight_decay: float,
    parts: Mapping[str, tuple[int, ...]],
) -> list[Group]:
    """A model's trainable parameters in groups: matrices, embedding, head and scalars.

    The head is the output matrix and, unless Muon moves the matrices, the dense layer before it.

    rule       of the matrices; with muon the rest has AdamW, else all have it. Decay is on matrices only
    scalar_lr  of norms and biases. None: head_lr
    Source  nanochat's groups and AdamW betas; for adamw the customary 0.9, 0.999 of fine-tuning
    """
    betas = (0.8, 0.95) if rule == "muon" else (0.9, 0.999)
    rest: OptimizerName = "adamw" if rule == "muon" else rule
    found: dict[str, dict[str, nn.Parameter]] = {"matrices": {}, "embedding": {}, "head": {}, "scalars": {}}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            found[_group_of(name, parameter, rule)][name] = parameter
    return [
        Group("matrices", rule, found["matrices"], lr, weight_decay, betas=betas, parts=parts),
        Group("embedding", rest, found["embedding"], embedding_lr, betas=betas, eps=1e-10),
        Group("head", rest, found["head"], head_lr, betas=betas, eps=1e-10),
        Group("scalars", rest, found["scalars"], head_lr if scalar_lr is None else scalar_lr, betas=betas, eps=1e-10),
    ]


def _group_of(name: str, parameter: nn.Parameter, rule: OptimizerName) -> str:
    if name == "body.embedding.weight":
        return "embedding"
    # The dense layer of a new head is as new as what follows it; Muon has one rate for all matrices.
    if name in ("head.weight", "head.bias") or (name == "head.dense.weight" and rule != "muon"):
        return "head"
    return "matrices" if parameter.ndim == 2 else "scalars"


def orthogonalise(x_NRC: Tensor) -> Tensor:
    """About the nearest semi-orthogonal matrices: every singular value moved to 0.7..1.2.

    x_NRC   (N, R, C); computed in float32 on CPU and in bfloat16 on CUDA, where the noise is paid back in speed
    """
    a, b, c = NEWTON_SCHULZ
    tall = x_NRC.shape[-2] > x_NRC.shape[-1]
    x = x_NRC.to(torch.bfloat16 if x_NRC.is_cuda else torch.float32)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(x_NRC.dtype)


def clip(
    gradients: list[Tensor], max_norm: float, norm: Norm = torch.nn.utils.get_total_norm, *, count: int = 1
) -> tuple[float, float]:
    """(Euclidean norm of all gradients over `count`, what to multiply them by so that it is at most `max_norm`).

    max_norm   0: no clipping
    norm       of a list of tensors, where other processes hold the rest of them
    """
    if not gradients:
        return 0.0, 1 / count
    value, factor = float(norm(gradients)) / count, 1 / count
    if max_norm > 0 and value > max_norm and math.isfinite(value):
        factor *= max_norm / (value + 1e-6)
    return value, factor


def wsd(step: int, total: int, *, warmup: int, decay: int) -> float:
    """Warm up, hold, then fall linearly over the last `decay` steps (Hägele 2024, arXiv 2405.18392)."""
    return min(_rise(step, warmup), (total - step + 1) / max(decay, 1))


def cosine(step: int, total: int, *, warmup: int, decay: int) -> float:
    """Warm up, then half a cosine down to a tenth (Hoffmann 2022, arXiv 2203.15556)."""
    done = max(0, step - warmup) / max(1, total - warmup)
    return min(_rise(step, warmup), 0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def linear(step: int, total: int, *, warmup: int, decay: int) -> float:
    """Warm up, then fall linearly to nearly zero."""
    return min(_rise(step, warmup), (total - step + 1) / max(1, total - warmup))


def constant(step: int, total: int, *, warmup: int, decay: int) -> float:
    """Warm up, then stay."""
    return _rise(step, warmup)


def _rise(step: int, warmup: int) -> float:
    return min(1.0, step / max(1, warmup))


# How a group is updated.
RULES: dict[OptimizerName, type[AdamW] | type[Muon] | type[AdamW8bit] | type[SGD]] = {
    "muon": Muon,
    "adamw": AdamW,
    "adamw_8bit": AdamW8bit,
    "sgd": SGD,
}

# Each gives the share of the peak lr for steps 1..total; `warmup` and `decay` are counted in steps.
SCHEDULES: dict[str, Callable[..., float]] = {"wsd": wsd, "cosine": cosine, "linear": linear, "constant": constant}
