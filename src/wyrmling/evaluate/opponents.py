"""The other models that a model is compared with on the same rows: the champion, or one that the user names."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from wyrmling.config import Project, Quantize
from wyrmling.core import resolve
from wyrmling.core.errors import BadInput
from wyrmling.evaluate.accept import CHAMPION, Criterion

NAMED = "against"
# The same model with the weights it was trained to, beside its quantised form.
UNROUNDED = "unrounded"


def of(project: Project, criteria: list[Criterion], model: Path, against: Path | None) -> dict[str, Path]:
    """Model folders by the name they are shown under: `champion` where a condition speaks of it, `against` if given."""
    found = {}
    if any(criterion.against == CHAMPION for criterion in criteria):
        champion = _champion(project, model)
        if champion is not None:
            found[CHAMPION] = champion
    if against is not None:
        found[NAMED] = against
    return found


def refuse_remote(model: Path, others: Mapping[str, Path], quantize: Quantize | None) -> None:
    """Raises BadInput where a model behind an API would be rounded or compared row by row: its weights are not here."""
    remote = [folder for folder in (model, *others.values()) if resolve.is_remote(folder)]
    if remote and (others or quantize is not None):
        raise BadInput(
            "a model behind an API can't be rounded here or compared row by row with another model",
            where=remote[0],
            fix="leave out --against, --quantize and conditions about the champion, or compare the two reports",
        )


def _champion(project: Project, model: Path) -> Path | None:
    """The champion's folder; for the champion itself the one before it. None when there is neither.

    A model that passed becomes the champion. Looked at again it is compared with the same model as before, so an
    unchanged evaluation is found and not made again.
    """
    if project.settings.database is None and not (project.root / "wyrmling.db").is_file():
        return None
    from wyrmling.core.store import Store, folder_digest

    own = folder_digest(model)
    with closing(Store.open(project.database_url)) as store:
        records = [record for record in store.list_models() if record.name == project.settings.name]
    for alias in ("champion", "previous"):
        for record in records:
            if alias in record.aliases and record.digest != own:
                return resolve.folder_of(record.path) or record.path / "model"
    return None
