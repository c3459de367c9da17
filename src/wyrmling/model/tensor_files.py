"""Tensors on disk: safetensors files, one or several with an index; pickles are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wyrmling.core.artifact import replacing_durably
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.model.json_files import read_json, write_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# What the Hub recommends for one file.
SHARD_BYTES = 5_000_000_000
AGAIN = "get the file again from its origin, or restore it from a backup"


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CorruptArtifact when it is damaged or cut off."""
    try:
        # Read and not mapped: of a mapped file all stays in memory as long as one of its tensors is used.
        return dict(load_file(file, backend="pread"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptArtifact(
            f"{file.name} is not a readable safetensors file: {error}", where=file, fix=AGAIN
        ) from error


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whole or not at all; equal tensors give equal bytes."""
    with replacing_durably(file) as temporary:
        save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, temporary, {"format": "pt"})


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The weights of a model folder, from its one file or from the files its index names.

    Raises   BadInput for a pickle, with the command that converts it, and for an index that points out of the folder;
             CorruptArtifact naming the missing or damaged file, or the tensor that is in no file or not finite
    """
    if (folder / WEIGHTS).is_file():
        tensors = read_tensors(folder / WEIGHTS)
        _check_finite(tensors, folder / WEIGHTS)
        return tensors
    if not (folder / INDEX).is_file():
        _refuse_pickles(folder)
        raise CorruptArtifact(f"{WEIGHTS} is missing", where=folder, fix=AGAIN)
    where = _weight_map(folder / INDEX)
    found: dict[str, Tensor] = {}
    for name in sorted(set(where.values())):
        if not (folder / name).is_file():
            lost = sorted(tensor for tensor, file in where.items() if file == name)
            raise CorruptArtifact(
                f"{name} is missing; by {INDEX} it holds {len(lost)} tensors: {', '.join(lost[:3])}, …",
                where=folder,
                fix=AGAIN,
            )
        tensors = read_tensors(folder / name)
        _check_finite(tensors, folder / name)
        found |= {tensor: value for tensor, value in tensors.items() if where.get(tensor) == name}
    if lost := sorted(where.keys() - found.keys()):
        raise CorruptArtifact(
            f"tensor {lost[0]} is not in {where[lost[0]]}, where {INDEX} says it is", where=folder, fix=AGAIN
        )
    return found


def write_folder(folder: Path, tensors: Mapping[str, Tensor], *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a model folder's weights, into several files with an index when they are larger than `shard_bytes`."""
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name in sorted(tensors):
        room -= tensors[name].nbytes
        if room < 0 and shards[-1]:
            shards.append([])
            room = shard_bytes - tensors[name].nbytes
        shards[-1].append(name)
    for stale in (*folder.glob("model-*-of-*.safetensors"), folder / INDEX, folder / WEIGHTS):
        stale.unlink(missing_ok=True)
    if len(shards) == 1:
        write_tensors(folder / WEIGHTS, tensors)
        return
    files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for file, names in zip(files, shards, strict=True):
        write_tensors(folder / file, {name: tensors[name] for name in names})
    metadata = {
        "total_size": sum(tensor.nbytes for tensor in tensors.values()),
        "total_parameters": sum(tensor.numel() for tensor in tensors.values()),
    }
    weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    write_json(folder / INDEX, {"metadata": metadata, "weight_map": weight_map})


def _weight_map(index: Path) -> dict[str, str]:
    where: Any = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()) or not where:
        raise CorruptArtifact(f"{INDEX} has no weight_map", where=index, fix=AGAIN)
    if outside := sorted(name for name in where.values() if Path(name).name != name):
        raise BadInput(f"{INDEX} points out of the folder: {outside[0]}", where=index, fix="do not use this model")
    return dict(where)


def _check_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CorruptArtifact(f"tensor {name} holds values that are not finite numbers", where=file, fix=AGAIN)


def _refuse_pickles(folder: Path) -> None:
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise BadInput(
            f"the weights are in {pickles[0]}, a pickle, which can run code when opened; only safetensors is read",
            where=folder,
            fix='if you trust it, convert it: python -c "import torch; from safetensors.torch import save_file; '
            f"save_file(torch.load('{pickles[0]}', weights_only=True), '{WEIGHTS}')\"",
        )
