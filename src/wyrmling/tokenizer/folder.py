"""The files of a tokenizer folder: written for a new vocabulary, or copied from a base model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from wyrmling.config import Project
from wyrmling.core import resolve
from wyrmling.core.artifact import digest, file_digest, write_durably
from wyrmling.core.errors import BadInput, BadSetting, UsageError
from wyrmling.tokenizer import bpe, chat, convert
from wyrmling.tokenizer.tokenizer import CONFIG_FILE, TEMPLATE_FILE, TOKENIZER_FILE, Tokenizer, vocabulary

# What `transformers` writes for "no limit"; the context belongs to the model, not to its tokenizer.
NO_LIMIT = int(1e30)

# Everything that a folder may say about its tokenizer. config.json is among them for its special ids only.
_SETTINGS = (CONFIG_FILE, TEMPLATE_FILE, "special_tokens_map.json")
_FALLBACK_IDS = "config.json"


def write(
    folder: Path, vocabulary: bpe.Vocabulary, *, ends: bool, extra: Sequence[str] = (), infill: bool = False
) -> None:
    """Write a new tokenizer folder that `tokenizers` and `transformers` load.

    ends, extra, infill  as in `bpe.build`
    """
    tokenizer = bpe.build(vocabulary, ends=ends, extra=extra, infill=infill)
    write_durably(folder / TOKENIZER_FILE, tokenizer.to_str(pretty=True).encode())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bpe.END_OF_TEXT,
        "eos_token": bpe.END_OF_TEXT,
        "mask_token": bpe.MASK,
        "pad_token": bpe.PAD,
        "additional_special_tokens": [bpe.IM_START, bpe.IM_END, *(bpe.INFILL if infill else ())],
        "clean_up_tokenization_spaces": False,
        "model_max_length": NO_LIMIT,
        "chat_template": chat.TEMPLATE,
    }
    write_durably(folder / CONFIG_FILE, json.dumps(config, indent=1, ensure_ascii=False).encode())
    write_durably(folder / TEMPLATE_FILE, chat.TEMPLATE.encode())


def base_digest(base: Path) -> str:
    """sha256 over the files of a base model that shape its tokenizer.

    Raises   BadInput when the folder has no tokenizer.
    """
    spelled = [base / TOKENIZER_FILE] if (base / TOKENIZER_FILE).is_file() else convert.files(base)
    if not spelled:
        raise BadInput(
            f"the base model {base} has no {TOKENIZER_FILE}",
            where="model.base",
            fix="name a folder in Hugging Face format with its tokenizer",
        )
    files = spelled + [base / name for name in (*_SETTINGS, "added_tokens.json", _FALLBACK_IDS)]
    return digest({file.name: file_digest(file) for file in files if file.is_file()})


def copy(base: Path, folder: Path) -> None:
    """Copy the tokenizer of a base model, as tokenizer.json whatever it was.

    What only other files of the base say about special tokens is written beside it. A base without a chat template gets
    a plain one.
    """
    for name in _SETTINGS:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    write_durably(folder / TOKENIZER_FILE, vocabulary(base)[0].encode())
    if Tokenizer.load(base).chat_template is None:
        # It counts for conversations only; a model that was not tuned on any is never asked with it.
        write_durably(folder / TEMPLATE_FILE, chat.PLAIN_TEMPLATE.encode())
    known = Tokenizer.load(folder).special_tokens
    missing = {role: token for role, token in Tokenizer.load(base).special_tokens.items() if role not in known}
    if missing or not (folder / CONFIG_FILE).is_file():
        path = folder / CONFIG_FILE
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        write_durably(path, json.dumps({**config, **missing}, indent=1, ensure_ascii=False).encode())


def refuse_remote(project: Project) -> None:
    """Raises BadSetting for a base behind an API, where its tokenizer or weights are wanted."""
    if project.settings.model.behind is not None:
        raise BadSetting(
            f"model.base = {project.settings.model.base!r} is trained behind an API: its weights are not here",
            where="model.base",
            fix="use wyrmling plan, train, evaluate or run, or set another base",
        )


def locate_base(project: Project) -> Path | None:
    """The model folder that `model.base` means, None for "scratch".

    Raises   BadSetting when it is no folder, no model of the hub and no registered name.
    """
    reference, revision = project.settings.model.base, project.settings.model.revision
    if revision is not None and (reference == "scratch" or not resolve.is_hub_id(reference, project.root)):
        raise BadSetting(
            f"model.revision is for a base from the Hugging Face hub, and model.base = {reference!r} is none",
            where="model.revision",
            fix='leave it out, or write base = "ORGANISATION/NAME"',
        )
    if reference == "scratch":
        return None
    refuse_remote(project)
    try:
        return resolve.model(reference, root=project.root, database_url=project.database_url, revision=revision)
    except UsageError as error:
        raise BadSetting(
            f"model.base = {reference!r} can't be used: {error.what}",
            where=error.where or project.root,
            fix=error.fix or 'write base = "scratch", the path of a model folder, or a model of the hub',
        ) from error
