"""Named adapters on one model: added, switched, merged. The model's own weights stay what they were.

An adapter is a set of low-rank corrections (lora.py) and, for classes and tags, a head of its own. Layers are called by
their names in transformers, which are also those of adapter files (adapter_folder.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wyrmling.core.errors import BadSetting
from wyrmling.model import families
from wyrmling.model.families import HfPart
from wyrmling.model.feed_forward import Stacked
from wyrmling.model.heads import Model
from wyrmling.model.lora import Branch, LoraLinear, Part, scale_of
from wyrmling.model.nf4 import to_nf4

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Design:
    """What the corrections of a new adapter look like.

    rank     columns of B and rows of A
    alpha    scale of a correction: alpha / rank, with `rslora` alpha / sqrt(rank)
    dropout  share of the input that a correction does not see while training
    targets  layers of the blocks by their names in transformers or the ends of these; "all-linear": all of them
    dora     also learn the length of each row of the corrected matrix
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL_LINEAR,)
    rslora: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        return scale_of(self.rank, self.alpha, rslora=self.rslora)


@dataclass(frozen=True)
class Place:
    """Where a linear layer of the file lives in our model.

    name    the layer in transformers
    path    our layer, which may hold several of the file's above each other
    part    its rows of our layer, and how the file orders them
    sizes   rows of the matrices that our layer stacks; empty when it is one
    """

    name: str
    path: str
    part: HfPart
    sizes: tuple[int, ...]

    @property
    def rows(self) -> slice:
        return self.part.rows

    def to_file(self, rows: Tensor) -> Tensor:
        """Values by output of this layer, in the file's order: B, or a DoRA magnitude."""
        return families.to_file(rows, self.part._replace(transposed=False), self.sizes)

    def from_file(self, rows: Tensor) -> Tensor:
        """The inverse of `to_file`."""
        return families.from_file(rows, self.part._replace(transposed=False), self.sizes)


class Adapters:
    """The adapters of a model. Its layers are replaced by ones that can be corrected; its weights are frozen.

    linears  the linear layers of the blocks, by their names in transformers
    files    for every parameter, the tensors of the model's file it belongs to
    """

    def __init__(self, model: Model) -> None:
        self.model = model.requires_grad_(False)
        self.files = families.hf_parts(model)
        self.linears = _linears(model, self.files)
        self.designs: dict[str, Design] = {}
        # Parameters that an adapter brings along whole, by our name; and the model's own ones in their place.
        self.brought: dict[str, dict[str, nn.Parameter]] = {}
        self._own: dict[str, nn.Parameter] = {}

    def shrink(self, *, nf4: bool, dtype: torch.dtype | None = None) -> None:
        """Keep the blocks' matrices in less memory, before any adapter is added: in 4 bits, or in another type.

        dtype   the type that products are computed in; bfloat16 then spares a cast at every one of them
        """
        paths = sorted({place.path for place in self.linears.values()})
        if nf4:
            to_nf4(self.model, paths)
        elif dtype is not None:
            for path in paths:
                for parameter in self.model.get_submodule(path).parameters():
                    parameter.data = parameter.data.to(dtype)

    def add(self, name: str, design: Design, *, seed: int, head: bool) -> None:
        """A new adapter, in use and to be trained; the model answers as before until it is.

        head     it also gets a copy of the head to train
        Raises   BadSetting for a target that the model does not have
        """
        generator = torch.Generator().manual_seed(seed)
        scale = design.scale
        for path, places in by_path(self.linears[name] for name in chosen(self.linears, design.targets)).items():
            parts = [Part(place.rows, scale) for place in places]
            self.branch(name, path, parts, design.rank, design).start(generator)
        heads = [n for n, _ in self.model.named_parameters() if n.startswith("head.")] if head else []
        self.bring(name, {n: self.model.get_parameter(n).detach().clone() for n in heads})
        self.designs[name] = design
        self.use(name)
        for parameter in self.parameters(name).values():
            parameter.requires_grad_(True)

    def branch(self, name: str, path: str, parts: list[Part], rank: int, design: Design) -> Branch:
        """Corrections of one layer for the adapter `name`, all zero."""
        layer = self.model.get_submodule(path)
        if not isinstance(layer, LoraLinear):
            layer = LoraLinear(layer)  # type: ignore[arg-type]
            _replace(self.model, path, layer)
        made = Branch(layer.base, parts, rank, dropout=design.dropout, dora=design.dora).requires_grad_(False)
        layer.branches[name] = made
        return made

    def bring(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Parameters that take the place of the model's own while `name` is in use."""
        self.brought[name] = {n: nn.Parameter(tensor, requires_grad=False) for n, tensor in tensors.items()}

    def use(self, name: str | None) -> None:
        """Answer as the adapter `name`; None: as the model itself.

        Raises   BadSetting for an unknown name
        """
        if name is not None and name not in self.designs:
            raise BadSetting(f"there is no adapter {name!r}", fix=f"the adapters are: {', '.join(self.designs)}")
        for _, layer in self.layers():
            layer.active = name if name is not None and name in layer.branches else None
        for parameter, own in self._own.items():
            _replace(self.model, parameter, own)
        self._own = {}
        for parameter, value in self.brought.get(name or "", {}).items():
            self._own[parameter] = self.model.get_parameter(parameter)
            _replace(self.model, parameter, value)

    def layers(self) -> list[tuple[str, LoraLinear]]:
        """The layers that have corrections, by their path."""
        return [(path, layer) for path, layer in self.model.named_modules() if isinstance(layer, LoraLinear)]

    def width(self, path: str) -> int:
        """Inputs of one of our layers."""
        layer = self.model.get_submodule(path)
        inner = layer.base if isinstance(layer, LoraLinear) else layer
        return int(inner.in_features)  # type: ignore[arg-type]

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Everything that belongs to one adapter, as the model names it while the adapter is in use."""
        found = {
            f"{path}.branches.{name}.{n}": parameter
            for path, layer in self.layers()
            if name in layer.branches
            for n, parameter in layer.branch(name).named_parameters()
        }
        return found | self.brought[name]

    def stacked_parts(self) -> dict[str, tuple[int, ...]]:
        """For the corrections: the rows of the single matrices in each parameter, as `heads.stacked_parts`."""
        return {
            f"{path}.branches.{name}.{factor}": rows
            for path, layer in self.layers()
            for name in layer.branches
            for factor, rows in layer.branch(name).stacked_parts().items()
        }

    def merge(self, name: str) -> Model:
        """The model with one adapter built in, in float32; it has plain layers again, and no adapters.

        Raises   TypeError when the model's matrices are in 4 bits
        """
        self.use(name)
        for path, layer in self.layers():
            _replace(self.model, path, layer.merged())
        self._own, self.designs, self.brought = {}, {}, {}
        return self.model.requires_grad_(True)


def chosen(linears: Iterable[str], targets: tuple[str, ...]) -> list[str]:
    """The layers that targets mean: each is a name, or the end of one after a dot.

    Raises   BadSetting naming a target that means nothing
    """
    names = list(linears)
    if ALL_LINEAR in targets:
        return names
    for target in targets:
        if not any(ends_with(name, target) for name in names):
            known = sorted({name.rpartition(".")[2] for name in names})
            raise BadSetting(
                f"the model has no linear layer {target!r}",
                where="lora.targets",
                fix=f'name some of {", ".join(known)}, or write "all-linear"',
            )
    return [name for name in names if any(ends_with(name, target) for target in targets)]


def ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def by_path(places: Iterable[Place]) -> dict[str, list[Place]]:
    """The places in each of our layers, in row order."""
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(place.path, []).append(place)
    return {path: sorted(inside, key=lambda place: int(place.rows.start)) for path, inside in found.items()}


def _linears(model: Model, files: Mapping[str, list[HfPart]]) -> dict[str, Place]:
    found = {}
    for path, module in model.named_modules():
        if path.startswith("body.") and isinstance(module, nn.Linear):
            sizes = module.parts if isinstance(module, Stacked) else ()
            for part in files[f"{path}.weight"]:
                name = part.name.removesuffix(".weight")
                found[name] = Place(name, path, part, sizes)
    return found


def _replace(model: nn.Module, path: str, value: nn.Module | nn.Parameter) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, value)
