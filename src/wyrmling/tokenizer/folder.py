"""The files of a tokenizer folder: written for a new vocabulary, or copied from a base model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from wyrmling.config import Project
from wyrmling.core.artifact import digest, file_digest, write_durably
from wyrmling.core.errors import BadInput, BadSetting, UsageError
from wyrmling.tokenizer import bpe, chat
from wyrmling.tokenizer.tokenizer import CONFIG_FILE, TEMPLATE_FILE, TOKENIZER_FILE, Tokenizer

# What `transformers` writes for "no limit"; the context belongs to the model, not to its tokenizer.
NO_LIMIT = int(1e30)

# Everything that a folder may say about its tokenizer. config.json is among them for its special ids only.
_FILES = (TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE, "special_tokens_map.json")
_FALLBACK_IDS = "config.json"


def write(folder: Path, vocabulary: bpe.Vocabulary, *, ends: bool, extra: Sequence[str] = ()) -> None:
    """Write a new tokenizer folder that `tokenizers` and `transformers` load.

    ends, extra  as in `bpe.build`
    """
    tokenizer = bpe.build(vocabulary, ends=ends, extra=extra)
    write_durably(folder / TOKENIZER_FILE, tokenizer.to_str(pretty=True).encode())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bpe.END_OF_TEXT,
        "eos_token": bpe.END_OF_TEXT,
        "mask_token": bpe.MASK,
        "pad_token": bpe.PAD,
        "additional_special_tokens": [bpe.IM_START, bpe.IM_END],
        "clean_up_tokenization_spaces": False,
        "model_max_length": NO_LIMIT,
        "chat_template": chat.TEMPLATE,
    }
    write_durably(folder / CONFIG_FILE, json.dumps(config, indent=1, ensure_ascii=False).encode())
    write_durably(folder / TEMPLATE_FILE, chat.TEMPLATE.encode())


def base_digest(base: Path) -> str:
    """sha256 over the files of a base model that shape its tokenizer.

    Raises   BadInput when the folder has no tokenizer.json.
    """
    if not (base / TOKENIZER_FILE).is_file():
        raise BadInput(
            f"the base model {base} has no {TOKENIZER_FILE}",
            where="model.base",
            fix="name a folder in Hugging Face format with a fast tokenizer (tokenizer.json)",
        )
    files = [base / name for name in (*_FILES, _FALLBACK_IDS)]
    return digest({file.name: file_digest(file) for file in files if file.is_file()})


def copy(base: Path, folder: Path) -> None:
    """Copy the tokenizer of a base model. What only its config.json says about special tokens is written beside it."""
    for name in _FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    special_tokens = Tokenizer.load(base).special_tokens
    missing = {
        role: token for role, token in special_tokens.items() if role not in Tokenizer.load(folder).special_tokens
    }
    if missing or not (folder / CONFIG_FILE).is_file():
        path = folder / CONFIG_FILE
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        write_durably(path, json.dumps({**config, **missing}, indent=1, ensure_ascii=False).encode())


def locate_base(project: Project) -> Path | None:
    """The model folder that `model.base` means, None for "scratch".

    A folder is looked for from the project folder; anything else is a registered name.
    Raises   BadSetting when it is neither.
    """
    reference = project.settings.model.base
    if reference == "scratch":
        return None
    for folder in (project.root / reference, project.root / reference / "model"):
        if (folder / TOKENIZER_FILE).is_file():
            return folder
    if (project.root / reference).exists():
        raise BadSetting(
            f"model.base = {reference!r} is a folder without {TOKENIZER_FILE}",
            where=project.root / reference,
            fix="name a folder in Hugging Face format with a fast tokenizer",
        )
    return _registered(project, reference)


def _registered(project: Project, reference: str) -> Path:
    from wyrmling.core.store import Store

    store = Store.open(project.database_url)
    try:
        path = store.resolve(reference).path
    except UsageError as error:
        raise BadSetting(
            f"model.base = {reference!r} is neither a folder nor a registered model: {error.what}",
            where=project.root,
            fix='write base = "scratch", or the path of a model folder',
        ) from error
    finally:
        store.close()
    return path / "model" if (path / "model" / TOKENIZER_FILE).is_file() else path
