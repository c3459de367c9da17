"""The risks of a project's model: what it is compared with is found and loaded here."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wyrmling.config import Project
from wyrmling.core import resolve
from wyrmling.evaluate.outcomes import Score
from wyrmling.evaluate.risks.measure import Subject, measure
from wyrmling.evaluate.score import Scorer
from wyrmling.evaluate.tasks import Rows
from wyrmling.model import folder
from wyrmling.tokenizer.tokenizer import Tokenizer


def scores(project: Project, scorer: Scorer, rows: Rows, names: Sequence[str]) -> dict[str, Score]:
    """The measures named, of the model in `scorer`. Raises BadSetting for one that needs a setting that is missing."""
    base = _base(project, scorer.device) if "forgetting" in names else None
    return measure(Subject(scorer, rows, project.settings.evaluate.risks, base, project.root), dict.fromkeys(names))


def _base(project: Project, device: str) -> Scorer | None:
    settings = project.settings
    name = settings.evaluate.risks.base or settings.model.base
    if name == "scratch":
        return None
    path = resolve.model(name, root=project.root, database_url=project.database_url, revision=settings.model.revision)
    # A base from elsewhere names no task.
    return Scorer(folder.load(path, device=device, dtype=torch.float32), Tokenizer.load(path), [], [], device)
