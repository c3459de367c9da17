"""Adapters on the model that is served: each answers under a name of its own, and all share one copy of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.core.log import say, warn
from wyrmling.core.store import folder_digest
from wyrmling.model import adapter_folder, probes
from wyrmling.model import folder as model_folder
from wyrmling.model.adapter import Adapters
from wyrmling.model.foreign import Foreign
from wyrmling.serve.loaded import Found, Loaded


def put_on(
    loaded: Loaded, folders: Mapping[str, str], root: Path, *, rounded: bool = False
) -> tuple[Adapters, dict[str, Loaded]]:
    """The adapters on a model that generates, and what answers under each name.

    folders  per name the folder of an adapter, or the artifact of the lora step that made it, relative to `root`
    rounded  the weights will be rounded afterwards
    Raises   BadSetting for a name that is taken, or a model that takes none; BadInput for a folder without an adapter
             or with one for another base; GateRefused when it does not give the answers it was trained to
    """
    if loaded.job != "generate" or isinstance(loaded.model, Foreign):
        raise BadSetting(
            f"{loaded.found.name} can't take adapters here: only models of wyrmling's own kinds that generate text can",
            where="serve.adapters",
            fix="serve the merged model of the lora step instead",
        )
    if loaded.found.name in folders:
        raise BadSetting(
            f"{loaded.found.name!r} is the name of the model itself", where="serve.adapters", fix="choose another name"
        )
    base = adapter_folder.base_of(loaded.found.folder)
    adapters = Adapters(loaded.model)
    served: dict[str, Loaded] = {}
    for name, given in folders.items():
        folder = _locate(root / Path(given).expanduser())
        # Names of modules hold no dots, names of models may.
        key = f"adapter{len(served)}"
        adapter_folder.read(adapters, folder, key, base=base)
        if rounded and adapters.designs[key].dora:
            raise BadSetting(
                f"{name} is a DoRA adapter, which needs the weights unrounded",
                where="serve.adapters",
                fix="serve without --quantize",
            )
        found = Found(name, folder, folder_digest(folder))
        served[name] = replace(loaded, found=found, chat=_checked(adapters, found, loaded), adapter=key)
        say(f"{name}: the adapter {folder}, digest {found.digest[:12]}")
    adapters.use(None)
    return adapters, served


def _locate(path: Path) -> Path:
    for folder in (path, path / "adapter"):
        if (folder / adapter_folder.CONFIG).is_file():
            return folder
    raise BadInput(
        f"{path} is no adapter: it has no {adapter_folder.CONFIG}",
        where="serve.adapters",
        fix="name a folder in PEFT's format, or the artifact of a lora or qlora step",
    )


def _checked(adapters: Adapters, found: Found, base: Loaded) -> bool:
    """Compare the answers with those of the merged model beside the adapter; whether that learned to chat.

    Raises   GateRefused when they differ
    """
    merged = found.folder.parent / "model"
    about = model_folder.about(merged) if (merged / model_folder.CONFIG).is_file() else None
    if about is None:
        warn(f"{found.name} has no trained model beside it, so its answers can't be checked")
        return base.chat or base.tokenizer.chat_template is not None
    probes.check(probes.measure(adapters.model, probes.read(merged), where=merged), probes.EXACT, where=found.folder)
    return about.chat
