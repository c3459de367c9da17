"""Model folders in the Hugging Face layout: read, checked and written. safetensors only; no pickle, no remote code."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch

from wyrmling.core import hardware
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.model import families, few_shot, foreign
from wyrmling.model.embed import read_pooling, write_pooling
from wyrmling.model.foreign import Foreign
from wyrmling.model.heads import Model
from wyrmling.model.json_files import read_json, write_json
from wyrmling.model.shown import shown
from wyrmling.model.tensor_files import SHARD_BYTES, WEIGHTS, read_folder, read_tensors, write_folder, write_tensors
from wyrmling.model.transformer import ModelConfig

__all__ = [
    "ABOUT", "CONFIG", "GENERATION", "TOKENIZER_FILES", "WEIGHTS", "About", "about", "describe", "load", "locate",
    "read_json", "read_tensors", "save", "write_json", "write_tensors",
]  # fmt: skip

CONFIG, ABOUT, GENERATION = "config.json", "wyrmling.json", "generation_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


@dataclass(frozen=True)
class About:
    """What wyrmling knows about a model beyond its weights; `wyrmling.json` of the folder."""

    task: str
    head: str
    context: int
    objective: str
    labels: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    several: bool = False
    """A text may have several of the labels."""
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
             CorruptArtifact when a file can't be read or holds values that are not finite; BadSetting for a GPU that
             is not there
    """
    folder = locate(path)
    hardware.require(device)
    model = _load(folder)
    if (about := few_shot.read(folder)) is not None:
        model = shown(model, about, folder)
    return model.to(device=device, dtype=dtype).eval()


def _load(folder: Path) -> Model:
    """The model of config.json and its weights."""
    raw = read_json(folder / CONFIG)
    if not families.is_known(raw):
        other = foreign.load(folder, raw)
        other.config = replace(other.config, tokens=_tokens(folder, other.config))
        return other
    described = families.read_config(raw, where=folder / CONFIG)
    config = replace(described.config, tokens=_tokens(folder, described.config))
    if described.head == "embed":
        config = replace(config, pooling=read_pooling(folder))
    described = described._replace(config=config)
    return families.read_weights(described, read_folder(folder), where=folder)


def describe(path: Path) -> ModelConfig:
    """The sizes that config.json says. Raises as `load`, without looking at the weights."""
    folder = locate(path)
    raw = read_json(folder / CONFIG)
    if not families.is_known(raw):
        return foreign.describe(folder, raw)
    return families.read_config(raw, where=folder / CONFIG).config


def _tokens(folder: Path, config: ModelConfig) -> int | None:
    """Ids the tokenizer knows; None when every row of the embedding may be drawn."""
    known = about(folder)
    if known is not None:
        return known.tokens
    tokens = _tokenizer_ids(folder)
    if tokens and max(tokens.values()) >= config.vocab_size:
        raise BadInput(
            f"the tokenizer knows ids up to {max(tokens.values())}, but the embedding has {config.vocab_size} rows",
            where=folder,
            fix="the tokenizer and the weights are of different models; get the model folder again from its origin",
        )
    return max(tokens.values()) + 1 if tokens else None


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


def save(
    model: Model, folder: Path, tokenizer_folder: Path | None, about: About, *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a model folder; the same model and tokenizer give the same bytes.

    tokenizer_folder   its tokenizer files are copied. None: a model without tokenizer
    shard_bytes        weights larger than this are split over several files with an index
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
    labels = about.labels or about.tags
    if isinstance(model, Foreign):
        config, tensors = model.files(labels)
    else:
        config = families.write_config(model, labels=labels, special_ids=special_ids)
        tensors = families.write_weights(model)
    write_json(folder / CONFIG, config)
    if not encoder:
        write_json(folder / GENERATION, {"_from_model_config": True} | special_ids)
    write_json(folder / ABOUT, asdict(replace(about, tokens=model.config.tokens)))
    if model.head_name == "embed":
        write_pooling(folder, model)
    write_folder(folder, tensors, shard_bytes=shard_bytes)


def _special_ids(folder: Path) -> dict[str, int | None]:
    """bos, eos and pad ids by the tokenizer's own files; None where it has no such token."""
    ids = _tokenizer_ids(folder)
    if not ids or not (folder / "tokenizer_config.json").is_file():
        return {}
    settings = read_json(folder / "tokenizer_config.json")
    found: dict[str, int | None] = {}
    for kind in ("bos", "eos", "pad"):
        token = settings.get(f"{kind}_token")
        content = token["content"] if isinstance(token, dict) else token
        found[f"{kind}_token_id"] = None if content is None else ids.get(content)
    return found


def _tokenizer_ids(folder: Path) -> dict[str, int]:
    """The id of each token, as tokenizer.json says; nothing when there is no such file."""
    if not (folder / "tokenizer.json").is_file():
        return {}
    tokenizer = read_json(folder / "tokenizer.json")
    vocab = tokenizer["model"]["vocab"]
    # Unigram tokenizers list their tokens with a score, in the order of the ids.
    ids = dict(vocab) if isinstance(vocab, dict) else {token: id for id, (token, _) in enumerate(vocab)}
    return ids | {added["content"]: added["id"] for added in tokenizer.get("added_tokens") or []}
