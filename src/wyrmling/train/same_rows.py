"""A run that goes on must learn from the rows it began with: what to do when they have changed meanwhile. No torch.

Rows that changed make another token store, so another work folder: the run would silently begin anew, and what was
learned so far would lie in the old folder for ever. That is refused until somebody says that it is meant.
"""

from __future__ import annotations

import json
from pathlib import Path

from wyrmling.core.artifact import Key, write_durably
from wyrmling.core.errors import BadInput, CorruptArtifact
from wyrmling.core.log import say

# What a run was begun with, beside its checkpoints, with which it goes when the run is finished.
BEGUN = Path("checkpoints") / "begun.json"

Stamp = dict[str, tuple[int, int]]


def remember(work: Path, key: Key) -> None:
    """Note in a work folder what is learned there."""
    (work / BEGUN).parent.mkdir(exist_ok=True)
    begun = {"name": key.name, "inputs": dict(key.inputs), "settings": dict(key.settings)}
    write_durably(work / BEGUN, json.dumps(begun).encode())


def require(runs: Path, key: Key, *, accept: bool) -> None:
    """Look for an unfinished run of the same step and settings on other rows.

    accept   let it lie and begin anew; it goes on when its rows come back
    Raises   BadInput when there is one and `accept` is not set
    """
    for work in sorted((runs / key.stage).glob(f".{key.name}-*.work")):
        if work == key.work(runs) or not _same_step_on_other_rows(work, key):
            continue
        if not accept:
            newest = max(path.name for path in (work / BEGUN).parent.glob("step-*"))
            raise BadInput(
                f"the rows of train step {key.name} have changed since it was interrupted after step "
                f"{int(newest.removeprefix('step-').partition('.')[0])}",
                where=work,
                fix="put the data back as it was to go on, or begin anew: wyrmling train --accept-data-change",
            )
        say(f"train {key.name}: begins anew, because its rows have changed; what was interrupted is in {work}")
        (work / BEGUN).unlink()


def _same_step_on_other_rows(work: Path, key: Key) -> bool:
    if not (work / BEGUN).is_file() or not any((work / BEGUN).parent.glob("step-*")):
        return False
    begun = json.loads((work / BEGUN).read_text())
    same = begun["name"] == key.name and begun["settings"] == json.loads(json.dumps(dict(key.settings)))
    return bool(same and begun["inputs"]["tokens"] != key.inputs["tokens"])


def stamp(folder: Path) -> Stamp:
    """Size and time of change of each file: different when somebody wrote to one."""
    found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): (stat.st_size, stat.st_mtime_ns) for path, stat in found}


def require_same(folder: Path, before: Stamp) -> None:
    """Raises   CorruptArtifact naming a file of the token store that is not as it was when training began"""
    now = stamp(folder)
    if changed := [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]:
        raise CorruptArtifact(
            f"{changed[0]} was changed while training",
            where=folder / changed[0],
            fix="run the same command again: the file is checked, and training goes on from the last checkpoint",
        )
