"""torch.compile for the parts of a block around attention: whether it pays, and how to begin so that bits stay equal.

Norms, projections, rotations and feed-forward layers become fused kernels, made once for all layers and all lengths.
Attention stays as it is: its layout is another in every batch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from wyrmling.config import Project
from wyrmling.core import hardware
from wyrmling.core.errors import BadSetting
from wyrmling.model.attention import Segments
from wyrmling.model.foreign import Foreign
from wyrmling.model.heads import Model
from wyrmling.train.workload import Work

# Making the kernels takes about a minute; a run has to be this long for them to pay.
WORTH_MINUTES = 10.0
COMPILERS = ("c++", "g++", "clang++")


class Choice(NamedTuple):
    """Whether the model is compiled, and why."""

    on: bool
    why: str


def compiler() -> str | None:
    """The C++ compiler that torch would use; None where there is none."""
    named = os.environ.get("CXX")
    return named if named else next((name for name in COMPILERS if shutil.which(name)), None)


def choose(
    asked: bool | None, *, minutes: float, found: str | None, recompute: bool, foreign: bool, cut: bool = False
) -> Choice:
    """Whether to compile.

    asked      machine.compile; None lets the forecast decide
    minutes    forecast of the step
    found      a C++ compiler
    recompute  little is kept for the backward pass, which does not go together with it
    foreign    transformers computes the model
    cut        other processes hold the rest of it
    Raises     BadSetting when it is asked for and can't be done
    """
    obstacle = (
        "no C++ compiler was found" if found is None
        else "the backward pass computes part of the forward pass again" if recompute
        else "transformers computes this model" if foreign
        else "the model is cut over several processes" if cut
        else None
    )  # fmt: skip
    if asked and obstacle is not None:
        raise BadSetting(
            f"machine.compile = true, but {obstacle}",
            where="machine.compile",
            fix="leave machine.compile out" + (", or install g++ or clang++" if found is None else ""),
        )
    if asked is not None:
        return Choice(asked, f"machine.compile = {str(asked).lower()}")
    if obstacle is not None:
        return Choice(False, obstacle)
    if minutes < WORTH_MINUTES:
        return Choice(False, f"{minutes:.2g} minutes are too short for the minute that it takes")
    return Choice(True, f"{minutes:.2g} minutes are worth the minute that it takes")


def choice_for(
    project: Project, model: Model, work: Work, forecast: Mapping[str, Mapping[str, float]], *, cut: bool = False
) -> Choice:
    """`choose` for a model and its forecast: of a run that its budget will cut short, the minutes until then."""
    asked, budget = project.settings.machine.compile, project.settings.objective.budget
    minutes = forecast["minutes"]["value"]
    hours = None if budget.hours is None else 60 * budget.hours / max(minutes, 1e-9)
    limits = ((hours, 1.0), (budget.usd, forecast["usd"]["value"]), (budget.kwh, forecast["kwh"]["value"]))
    minutes *= min([1.0, *(limit / max(value, 1e-12) for limit, value in limits if limit is not None)])
    foreign, recompute = isinstance(model, Foreign), work.effort.recompute
    return choose(asked, minutes=minutes, found=compiler(), recompute=recompute, foreign=foreign, cut=cut)


def switch_on(model: Model, work: Work, *, backend: str = "inductor") -> None:
    """Compile the blocks for training; looks at validation rows run as before.

    The kernels are made for the lengths of a batch that follows from the settings alone, before the first real one, so
    that a run that goes on gets those of an undisturbed one.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(hardware.cache_folder() / "inductor"))
    blocks: Any = model.body.blocks
    for block in blocks:
        attention = block.attention
        attention.project = _compiled(attention.project, backend)
        block.feed = _compiled(block.feed, backend)
    length = min(model.config.context, work.micro_batch_tokens)
    count = max(1, work.micro_batch_tokens // length)
    device = next(model.parameters()).device
    hidden = model.body(torch.zeros(length * count, dtype=torch.int64, device=device), Segments([length] * count))
    hidden.sum().backward()
    model.zero_grad()


def _compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    made = torch.compile(function, dynamic=True, backend=backend)

    def call(*inputs: Any) -> Any:
        return made(*inputs) if torch.is_grad_enabled() else function(*inputs)

    return call
