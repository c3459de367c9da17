"""The other models that a model is compared with on the same rows: the champion, or one that the user names."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from wyrmling.config import Project
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
                return record.path if (record.path / "config.json").is_file() else record.path / "model"
    return None
