"""Where a model comes from: a folder, the Hugging Face hub, or this project's registry."""

from __future__ import annotations

import re
from pathlib import Path

from wyrmling.core import hub
from wyrmling.core.artifact import file_digest
from wyrmling.core.errors import UsageError

CONFIG = "config.json"
# In the place of weights: where a model that was trained behind an API answers.
REMOTE = "remote.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model(
    reference: str, *, root: Path | None, database_url: str | None, revision: str | None = None, whole: bool = True
) -> Path:
    """The model folder that a path, a hub id or a registered name means.

    reference     a model folder or train artifact, from `root` or the working folder; ORGANISATION/NAME or
                  ORGANISATION/NAME@REVISION of the hub; NAME, NAME:3 or NAME:challenger of the registry
    database_url  the registry; None: paths and hub ids only
    revision      of a hub model: a commit, tag or branch
    whole         False: of a hub model only config.json has to be there
    Raises        UsageError naming what was looked for when nothing is meant; what `hub.fetch` raises
    """
    for path in (root / reference if root else Path(reference), Path(reference).expanduser()):
        if (found := folder_of(path)) is not None:
            return found
    name, _, at = reference.partition("@")
    if Path(reference).expanduser().exists() or (root is not None and (root / reference).exists()):
        raise UsageError(
            f"{reference} is no model folder: it has no {CONFIG}",
            where=Path(reference).absolute() if root is None else root / reference,
            fix="name a folder with config.json and model.safetensors, or a train artifact that holds one in model/",
        )
    if _HUB_ID.fullmatch(name):
        fetch = hub.fetch if whole else hub.fetch_settings
        return fetch(name, at or revision).folder
    if "/" in reference or database_url is None:
        raise UsageError(
            f"there is no model folder {reference}",
            fix="name a folder with config.json and model.safetensors, or a model of the hub as ORGANISATION/NAME",
        )
    return _registered(reference, database_url)


def folder_of(path: Path) -> Path | None:
    """The model folder at `path` or in its `model` folder, of a remote model too; None when there is none."""
    return next((one for one in (path, path / "model") if (one / CONFIG).is_file() or is_remote(one)), None)


def is_path(reference: str) -> bool:
    """Whether this can only be meant as a folder: it is there, or no name looks so."""
    path = Path(reference).expanduser()
    return path.exists() or path.is_absolute() or reference.startswith((".", "~")) or reference.count("/") > 1


def is_remote(folder: Path) -> bool:
    """Whether the model of a folder is behind an API."""
    return (folder / REMOTE).is_file()


def is_hub_id(reference: str, root: Path) -> bool:
    """Whether `model` would look for this on the hub."""
    local = (root / reference).exists() or Path(reference).expanduser().exists()
    return not local and _HUB_ID.fullmatch(reference.partition("@")[0]) is not None


def inputs(folder: Path) -> dict[str, str]:
    """What identifies a model folder in a manifest: the id and commit of a hub model, else the digest of each file."""
    if (snapshot := hub.snapshot_of(folder)) is not None:
        return {f"hub:{snapshot.repository}": snapshot.commit}
    files = [folder / CONFIG, folder / "few_shot.json", *sorted(folder.glob("*.safetensors"))]
    return {file.name: file_digest(file) for file in files if file.is_file()}


def _registered(reference: str, database_url: str) -> Path:
    from wyrmling.core.store import Store

    store = Store.open(database_url)
    try:
        path = store.resolve(reference).path
    finally:
        store.close()
    folder = folder_of(path)
    if folder is None:
        raise UsageError(
            f"{reference} is registered, but its folder is gone: {path}",
            fix="make it again with: wyrmling run, or take another version: wyrmling models list",
        )
    return folder
