"""Model folders in the Hugging Face layout: read, checked and written. safetensors only; no pickle, no remote code."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from wyrmling.core.artifact import write_durably
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.model import families
from wyrmling.model.heads import Model

CONFIG, WEIGHTS, ABOUT, GENERATION = "config.json", "model.safetensors", "wyrmling.json", "generation_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class About:
    """What wyrmling knows about a model beyond its weights; `wyrmling.json` of the folder."""

    task: str
    head: str
    context: int
    objective: str
    labels: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    tokenizer_sha256: str = ""
    data_id: str = ""
    run_id: str = ""
    chat: bool = False
    tokens: int | None = None
    """Ids the tokenizer knows, when the embedding has more rows."""


def locate(path: Path) -> Path:
    """The model folder at `path`: the folder itself, or `model/` inside a train artifact.

    Raises   BadInput when neither holds a config.json
    """
    for folder in (path, path / "model"):
        if (folder / CONFIG).is_file():
            return folder
    raise BadInput(
        f"{path} is not a model folder: it has no {CONFIG}",
        where=path,
        fix="name a folder with config.json and model.safetensors, or a train artifact that holds one in model/",
    )


def load(path: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """The model in a folder, in evaluation mode.

    Raises   BadInput when the folder is of an unsupported kind or its parts contradict each other;
             CorruptArtifact when a file can't be read or holds values that are not finite
    """
    folder = locate(path)
    described = families.read_config(read_json(folder / CONFIG), where=folder / CONFIG)
    known = about(folder)
    if known is not None:
        described = described._replace(config=replace(described.config, tokens=known.tokens))
    tensors = read_tensors(_weights_file(folder))
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise CorruptArtifact(
                f"tensor {name} holds values that are not finite numbers",
                where=folder / WEIGHTS,
                fix="restore the file from a backup, or train the model again",
            )
    model = families.read_weights(described, tensors, where=folder / WEIGHTS)
    return model.to(device=device, dtype=dtype).eval()


def about(path: Path) -> About | None:
    """What wyrmling.json says; None for a folder that another program made.

    Raises   CorruptArtifact when the file can't be read
    """
    file = locate(path) / ABOUT
    if not file.is_file():
        return None
    raw = read_json(file)
    known = {f.name for f in fields(About)}
    try:
        return About(**{key: value for key, value in raw.items() if key in known})
    except TypeError as error:
        raise CorruptArtifact(f"{ABOUT} is incomplete: {error}", where=file, fix="train the model again") from error


def save(model: Model, folder: Path, tokenizer_folder: Path | None, about: About) -> None:
    """Write a model folder; the same model and tokenizer give the same bytes.

    tokenizer_folder   its tokenizer files are copied. None: a model without tokenizer
    """
    folder.mkdir(parents=True, exist_ok=True)
    special_ids: dict[str, int | None] = {}
    if tokenizer_folder is not None:
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file() and tokenizer_folder.resolve() != folder.resolve():
                shutil.copyfile(tokenizer_folder / name, folder / name)
        special_ids = _special_ids(folder)
    encoder = not model.config.causal
    if encoder:
        special_ids |= {
            "cls_token_id": special_ids.get("bos_token_id"),
            "sep_token_id": special_ids.get("eos_token_id"),
        }
    config = families.write_config(model, labels=about.labels or about.tags, special_ids=special_ids)
    write_json(folder / CONFIG, config)
    if not encoder:
        write_json(folder / GENERATION, {"_from_model_config": True} | special_ids)
    write_json(folder / ABOUT, asdict(replace(about, tokens=model.config.tokens)))
    write_tensors(folder / WEIGHTS, families.write_weights(model))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CorruptArtifact when it is damaged or cut off."""
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptArtifact(
            f"{file.name} is not a readable safetensors file: {error}",
            where=file,
            fix="restore the file from a backup, or make it again",
        ) from error


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file whole or not at all; equal tensors give equal bytes."""
    write_durably(file, to_bytes({name: tensors[name].contiguous() for name in sorted(tensors)}, {"format": "pt"}))


def _weights_file(folder: Path) -> Path:
    file = folder / WEIGHTS
    if file.is_file():
        return file
    if (folder / f"{WEIGHTS}.index.json").is_file():
        raise BadInput(
            "the weights are split over several files, which is not supported",
            where=folder,
            fix=f"save the model as one {WEIGHTS}",
        )
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise BadInput(
            f"the weights are in {pickles[0]}, a pickle, which can run code when opened; only safetensors is read",
            where=folder,
            fix='if you trust it, convert it: python -c "import torch; from safetensors.torch import save_file; '
            f"save_file(torch.load('{pickles[0]}', weights_only=True), '{WEIGHTS}')\"",
        )
    raise CorruptArtifact(
        f"{WEIGHTS} is missing", where=folder, fix="restore it from a backup, or train the model again"
    )


def _special_ids(folder: Path) -> dict[str, int | None]:
    """bos, eos and pad ids by the tokenizer's own files; None where it has no such token."""
    if not (folder / "tokenizer_config.json").is_file() or not (folder / "tokenizer.json").is_file():
        return {}
    settings, tokenizer = read_json(folder / "tokenizer_config.json"), read_json(folder / "tokenizer.json")
    ids: dict[str, int] = dict(tokenizer["model"]["vocab"]) if isinstance(tokenizer["model"]["vocab"], dict) else {}
    ids |= {added["content"]: added["id"] for added in tokenizer.get("added_tokens", [])}
    found: dict[str, int | None] = {}
    for kind in ("bos", "eos", "pad"):
        token = settings.get(f"{kind}_token")
        content = token["content"] if isinstance(token, dict) else token
        found[f"{kind}_token_id"] = None if content is None else ids.get(content)
    return found


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CorruptArtifact when there is none."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptArtifact(
            f"{file.name} is not readable JSON: {error}",
            where=file,
            fix="restore the file from a backup, or make it again",
        ) from error
    if not isinstance(raw, dict):
        raise CorruptArtifact(f"{file.name} holds no JSON object", where=file, fix="restore the file from a backup")
    return raw


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_durably(file, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
