"""Adapter folders in PEFT's format, read and written: adapter_config.json and adapter_model.safetensors.

PEFT loads tensors that fit nothing without a word; here every tensor has its place, or the folder is refused. Beside
PEFT's files, `wyrmling.json` holds the sha256 of the base model's weights, so that another base is refused by its name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wyrmling.core.artifact import digest, file_digest
from wyrmling.core.errors import BadInput
from wyrmling.model import folder as model_folder
from wyrmling.model.adapter import Adapters, Design, Place, by_path, ends_with
from wyrmling.model.families import from_file, to_file
from wyrmling.model.heads import HeadName, with_head
from wyrmling.model.lora import Part, scale_of

CONFIG, WEIGHTS, ABOUT = "adapter_config.json", "adapter_model.safetensors", "wyrmling.json"
PREFIX = "base_model.model."
DOWN, UP, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
TASK_TYPES: dict[HeadName, str | None] = {
    "next": "CAUSAL_LM",
    "masked": None,
    "classes": "SEQ_CLS",
    "tags": "TOKEN_CLS",
    "embed": "FEATURE_EXTRACTION",
}
# Settings of PEFT that change what an adapter computes and that are not implemented here; each is off in most files.
UNSUPPORTED = (
    "lora_bias", "layer_replication", "trainable_token_indices", "target_parameters", "use_qalora", "use_bdlora",
    "alora_invocation_tokens", "arrow_config", "monteclora_config", "velora_config", "kasa_config",
)  # fmt: skip


class Base(NamedTuple):
    """The model that an adapter belongs to.

    name     where it came from
    digest   sha256 over its weights
    """

    name: str
    digest: str


def base_of(path: Path, *, name: str | None = None) -> Base:
    """The identity of the model in a folder."""
    folder = model_folder.locate(path)
    files = sorted(folder.glob("*.safetensors"))
    weights = {file.name: file_digest(file) for file in files if file.name != "probes.safetensors"}
    return Base(name or str(folder), digest(weights))


def write(adapters: Adapters, name: str, folder: Path, *, base: Base) -> None:
    """Write one adapter as PEFT does; the same adapter gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    kinds: dict[str, _Kind] = {}
    for place in adapters.linears.values():
        pair = _pair_at(adapters, name, place)
        if pair is not None:
            kinds[place.name] = _Kind(len(pair.down), pair.scale)
            tensors |= pair.tensors(place.name)
    for parameter, value in adapters.brought[name].items():
        tensors |= {part.name: to_file(value.detach()[part.rows], part, ()) for part in adapters.files[parameter]}
    model_folder.write_json(folder / CONFIG, _config(adapters, name, kinds, base))
    model_folder.write_json(folder / ABOUT, {"base": base.name, "base_sha256": base.digest})
    model_folder.write_tensors(folder / WEIGHTS, {f"{PREFIX}{n}": tensor.cpu() for n, tensor in tensors.items()})


def read(adapters: Adapters, folder: Path, name: str, *, base: Base | None = None) -> None:
    """Add the adapter in a folder to a model under `name`; it is in use then.

    base     the model's identity; an adapter that names another one is refused. None: only names and shapes are checked
    Raises   BadInput when the adapter is of another kind or for another base; CorruptArtifact for a damaged file
    """
    config = model_folder.read_json(folder / CONFIG)
    _refuse_unsupported(config, folder)
    _check_base(folder, base)
    tensors = {key.removeprefix(PREFIX): value for key, value in model_folder.read_tensors(folder / WEIGHTS).items()}
    pairs = {
        key.removesuffix(DOWN): _pair_in(key.removesuffix(DOWN), tensors, config, folder)
        for key in list(tensors)
        if key.endswith(DOWN)
    }
    _check_fit(adapters, pairs, config, folder)
    brought = _brought(adapters, tensors, config, folder)
    adapters.designs[name], adapters.brought[name] = _design(config), {}
    for path, places in by_path(adapters.linears[linear] for linear in pairs).items():
        _fill(adapters, name, path, [(place, pairs[place.name]) for place in places])
    adapters.bring(name, brought)
    adapters.use(name)


def on_base(folder: Path, base: Path, name: str, *, head: HeadName, n_classes: int) -> Adapters:
    """The adapter in a folder on the model in another, in use under `name`.

    head, n_classes   the head that the adapter was trained with; an adapter for labels brings its own
    Raises            what `read` and the loading of a model raise
    """
    model = model_folder.load(base)
    if model.head_name != head or (n_classes and model.n_out != n_classes):
        model = with_head(model, head, n_classes).eval()
    adapters = Adapters(model)
    read(adapters, folder, name, base=base_of(base))
    return adapters


class _Pair(NamedTuple):
    """The correction of one layer of the file. down: A (rank, in); up: B (out, rank); magnitude: (out,) or None."""

    down: Tensor
    up: Tensor
    magnitude: Tensor | None
    scale: float

    def tensors(self, linear: str) -> dict[str, Tensor]:
        found = {f"{linear}{DOWN}": self.down, f"{linear}{UP}": self.up}
        return found if self.magnitude is None else found | {f"{linear}{MAGNITUDE}": self.magnitude}


class _Kind(NamedTuple):
    """What two layers must share to be described by the same numbers of the config."""

    rank: int
    scale: float


def _pair_at(adapters: Adapters, name: str, place: Place) -> _Pair | None:
    """The correction that an adapter makes at a place; None when it makes none."""
    layer = dict(adapters.layers()).get(place.path)
    if layer is None or name not in layer.branches:
        return None
    branch = layer.branch(name)
    number = next((i for i, part in enumerate(branch.parts) if part.rows == place.rows), None)
    if number is None:
        return None
    down, up = branch.downs(branch.down.detach())[number], branch.ups(branch.up.detach())[number]
    magnitude = None if branch.magnitude is None else place.to_file(branch.ups(branch.magnitude.detach())[number])
    return _Pair(down, place.to_file(up), magnitude, branch.parts[number].scale)


def _pair_in(linear: str, tensors: dict[str, Tensor], config: Mapping[str, Any], folder: Path) -> _Pair:
    """The correction of one layer, taken out of a file's tensors."""
    down, up = tensors.pop(f"{linear}{DOWN}"), tensors.pop(f"{linear}{UP}", None)
    magnitude = tensors.pop(f"{linear}{MAGNITUDE}", None)
    if up is None or (magnitude is None) == bool(config.get("use_dora")):
        raise BadInput(
            f"the adapter has no {linear}{UP if up is None else MAGNITUDE}",
            where=folder / WEIGHTS,
            fix="get the adapter again from its origin",
        )
    alpha = float(_by_pattern(config.get("alpha_pattern"), linear, config.get("lora_alpha", 8)))
    return _Pair(down, up, magnitude, scale_of(len(down), alpha, rslora=bool(config.get("use_rslora"))))


def _by_pattern(patterns: Mapping[str, Any] | None, linear: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that is a regular expression for the name or for its end after a dot."""
    return next((value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", linear)), default)


def _fill(adapters: Adapters, name: str, path: str, pairs: list[tuple[Place, _Pair]]) -> None:
    """Give one of our layers the corrections of the file's layers in it; smaller ranks are filled up with zeros."""
    rank = max(len(pair.down) for _, pair in pairs)
    parts = [Part(place.rows, pair.scale) for place, pair in pairs]
    branch = adapters.branch(name, path, parts, rank, adapters.designs[name])
    with torch.no_grad():
        for (place, pair), down, up in zip(pairs, branch.downs(branch.down), branch.ups(branch.up), strict=True):
            down[: len(pair.down)] = pair.down
            up[:, : len(pair.down)] = place.from_file(pair.up)
        if branch.magnitude is not None:
            magnitudes = [place.from_file(pair.magnitude) for place, pair in pairs if pair.magnitude is not None]
            branch.magnitude.copy_(torch.cat(magnitudes))


def _config(adapters: Adapters, name: str, kinds: Mapping[str, _Kind], base: Base) -> dict[str, Any]:
    design = adapters.designs[name]
    usual = Counter(kinds.values()).most_common(1)[0][0]
    unusual = {linear: kind for linear, kind in kinds.items() if kind != usual}
    heads = sorted({part.name.rpartition(".")[0] for n in adapters.brought[name] for part in adapters.files[n]})
    others = [linear for linear in adapters.linears if linear not in kinds] + heads
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[adapters.model.head_name],
        "base_model_name_or_path": base.name,
        "r": usual.rank,
        "lora_alpha": _alpha(usual, design),
        "lora_dropout": design.dropout,
        "target_modules": short_names(kinds, others),
        "modules_to_save": heads or None,
        "rank_pattern": {linear: kind.rank for linear, kind in unusual.items()},
        "alpha_pattern": {linear: _alpha(kind, design) for linear, kind in unusual.items()},
        "use_rslora": design.rslora,
        "use_dora": design.dora,
        "bias": "none",
        "fan_in_fan_out": any(adapters.linears[linear].part.transposed for linear in kinds),
        "inference_mode": True,
    }


def _alpha(kind: _Kind, design: Design) -> float:
    alpha = kind.scale / scale_of(kind.rank, 1.0, rslora=design.rslora)
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 else alpha


def short_names(linears: Iterable[str], others: Iterable[str]) -> list[str]:
    """The shortest ends of names that mean these layers and none of the others."""
    linears, others = list(linears), list(others)
    found: set[str] = set()
    for linear in linears:
        words = linear.split(".")
        ends = (".".join(words[-count:]) for count in range(1, len(words) + 1))
        found.add(next(end for end in ends if not any(ends_with(other, end) for other in others)))
    return sorted(found)


def _design(config: Mapping[str, Any]) -> Design:
    targets = config.get("target_modules") or ()
    return Design(
        rank=int(config.get("r", 8)),
        alpha=float(config.get("lora_alpha", 8)),
        dropout=float(config.get("lora_dropout", 0.0)),
        targets=(targets,) if isinstance(targets, str) else tuple(sorted(targets)),
        rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
    )


def _brought(
    adapters: Adapters, tensors: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path
) -> dict[str, Tensor]:
    """The parameters that the adapter brings along whole, by our names.

    Raises   BadInput for a tensor without a place
    """
    left, found = dict(tensors), {}
    for ours, parts in adapters.files.items():
        if all(part.name in left for part in parts):
            found[ours] = torch.cat([from_file(left.pop(part.name), part, ()) for part in parts])
            shape = adapters.model.get_parameter(ours).shape
            if found[ours].shape[1:] != shape[1:]:
                raise _misfit(f"{parts[0].name} has shape {list(found[ours].shape)}, not {list(shape)}", config, folder)
    if left:
        raise _misfit(f"the model has no place for {_few(left)}", config, folder)
    return found


def _refuse_unsupported(config: Mapping[str, Any], folder: Path) -> None:
    wrong = {key: config[key] for key in UNSUPPORTED if config.get(key)}
    if config.get("peft_type") != "LORA":
        wrong["peft_type"] = config.get("peft_type")
    if config.get("bias", "none") != "none":
        wrong["bias"] = config["bias"]
    if wrong:
        raise BadInput(
            f"the adapter uses what wyrmling does not compute: {wrong}",
            where=folder / CONFIG,
            fix="use a LoRA, rsLoRA or DoRA adapter without these settings, or merge it with peft",
        )


def _check_base(folder: Path, base: Base | None) -> None:
    if base is None or not (folder / ABOUT).is_file():
        return
    known = model_folder.read_json(folder / ABOUT)
    if known.get("base_sha256") not in (None, base.digest):
        raise BadInput(
            f"the adapter belongs to the base {known.get('base')!r} with weights {str(known['base_sha256'])[:12]}, "
            f"not to {base.name!r} with weights {base.digest[:12]}",
            where=folder,
            fix="load it on the base it was trained on",
        )


def _check_fit(adapters: Adapters, pairs: Mapping[str, _Pair], config: Mapping[str, Any], folder: Path) -> None:
    unknown = [linear for linear in pairs if linear not in adapters.linears]
    if unknown or not pairs:
        raise _misfit(f"the model has no layer {_few(unknown)}" if unknown else "it corrects no layer", config, folder)
    for linear, pair in pairs.items():
        place = adapters.linears[linear]
        shape = (int(place.rows.stop - place.rows.start), adapters.width(place.path))
        if (len(pair.up), pair.down.shape[1]) != shape or pair.up.shape[1] != len(pair.down):
            made = f"{list(pair.up.shape)} x {list(pair.down.shape)}"
            raise _misfit(f"{linear} has corrections {made} for a matrix {list(shape)}", config, folder)


def _misfit(what: str, config: Mapping[str, Any], folder: Path) -> BadInput:
    return BadInput(
        f"the adapter is for another base, {config.get('base_model_name_or_path')!r}: {what}",
        where=folder,
        fix="load it on the base it was trained on",
    )


def _few(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
