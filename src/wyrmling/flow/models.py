"""The models of a project: which folder a name means, the list, promote and roll back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wyrmling.config import Home, Project
from wyrmling.core import resolve as where
from wyrmling.core.errors import UsageError
from wyrmling.core.store import ModelRecord, Store


def project_of(home: Home, reference: str) -> Project | None:
    """The project to look a model up in: the one named, else the nearest upward, else none for a plain folder.

    Raises   UsageError when `reference` means nothing without a project, or settings are given for one that there
             is not
    """
    try:
        return home.project()
    except UsageError as error:
        if home != Home():
            raise
        if where.is_path(reference) or where.is_hub_id(reference, Path.cwd()):
            return None
        raise UsageError(
            f"there is no model folder {reference}, and no project here that could have a model of that name",
            fix="correct the path, or say whose model it is: --project DIR",
        ) from error


def resolve(project: Project | None, reference: str, *, whole: bool = True, remote: bool = False) -> Path:
    """The model folder that a path, a model of the Hugging Face hub or a registered name means.

    reference  a model folder, a train artifact; ORGANISATION/NAME, ORGANISATION/NAME@REVISION; NAME (its champion),
               NAME:3, NAME:challenger
    whole      False: of a hub model that is not here yet, only its settings are fetched
    remote     whether a model behind an API will do
    Raises     UsageError naming what there is when nothing is meant, or when the weights are not here; BadInput when
               the hub can't give it
    """
    folder = _folder(project, reference, whole)
    if where.is_remote(folder) and not remote:
        found = json.loads((folder / where.REMOTE).read_text(encoding="utf-8"))
        raise UsageError(
            f"{reference} is the model {found['model']} behind {found['url']}: its weights are not here",
            where=folder,
            fix=f"put a server of ours in front of it: wyrmling serve --model {found['model']} --engine {found['url']}",
        )
    return folder


def _folder(project: Project | None, reference: str, whole: bool) -> Path:
    if project is None:
        return where.model(reference, root=None, database_url=None, whole=whole)
    asked = project.settings.model
    revision = asked.revision if reference == asked.base else None
    return where.model(reference, root=project.root, database_url=project.database_url, revision=revision, whole=whole)


def is_champion(project: Project | None, reference: str) -> bool:
    """Whether a reference means whichever version is the champion, rather than a folder or a fixed version."""
    name, colon, alias = reference.partition(":")
    if project is None or (colon and alias != "champion") or "/" in reference:
        return False
    return not any(where.folder_of(path) for path in (project.root / name, Path(name)))


def listing(project: Project) -> tuple[dict[str, Any], str]:
    """Every version with its aliases, verdict and scores."""
    store = Store.open(project.database_url)
    records = store.list_models()
    store.close()
    lines = [_line(record) for record in records] or ["no model is registered yet; make one with: wyrmling run"]
    return {"models": [record.as_dict() for record in records]}, "\n".join(lines)


def promote(project: Project, reference: str) -> tuple[dict[str, Any], str]:
    """Make a version the champion."""
    store = Store.open(project.database_url)
    record = store.promote(reference)
    store.close()
    return record.as_dict(), _line(record)


def rollback(project: Project, name: str | None) -> tuple[dict[str, Any], str]:
    """Swap the champion and the previous champion."""
    store = Store.open(project.database_url)
    record = store.rollback(name or project.settings.name)
    store.close()
    return record.as_dict(), _line(record)


def _line(record: ModelRecord) -> str:
    scores = "  ".join(f"{name} {value:.4g}" for name, value in record.metrics.items() if isinstance(value, float))
    aliases = ", ".join(record.aliases) or "-"
    place = f"{record.path}{'  (remote)' if record.remote else ''}"
    return f"{record.name}:{record.version}  {aliases:<20} {record.verdict or '-':<12} {scores}  {place}"
