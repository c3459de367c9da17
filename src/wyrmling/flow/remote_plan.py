"""`wyrmling plan` for a model that is trained behind an API: the price, before anything is sent."""

from __future__ import annotations

from typing import Any

from wyrmling.config import Project
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact
from wyrmling.evaluate import remote_model, tasks
from wyrmling.flow import facts, stage_costs
from wyrmling.train import remote
from wyrmling.train.forecast import Pricing, Range
from wyrmling.train.remote import Price

# A token is taken to be shorter than it mostly is, so the price is more often too high than too low.
SHORTEST, LONGEST = 0.6, 1.1
# A quick look at the sources does not know which rows will be kept.
LOOSE = 1.5


def answer(project: Project) -> tuple[dict[str, Any], str]:
    """Tokens x epochs x price, and what asking for the test rows will cost; the rest is what the data stage takes here.

    Raises   BadSetting for settings that an API can't follow, and without prices
    """
    remote.step_of(project)
    remote_model.check_conditions(project)
    known = facts.look(project)
    data = _made(project)
    price = _looked(project, known) if data is None else remote.price_of(project, data)
    asked = None if data is None else _asking(project, data)
    usd = price.usd + (asked or 0.0)
    here = stage_costs.data(known, Pricing.of(project))
    band = Range(usd, usd * SHORTEST, usd * LONGEST * (LOOSE if data is None else 1.0))
    document = here.document() | {"usd": here.usd.plus(band).as_dict()}
    document |= {"remote": _document(project, price, asked)}
    return document, _text(project, price, asked, band)


def _made(project: Project) -> Artifact | None:
    """The data artifact of the project as it stands, where there is one."""
    from wyrmling.data import run
    from wyrmling.data.origins import find_origin

    sources = project.settings.data.sources.items()
    origins = [find_origin(name, source, project.root) for name, source in sources]
    return artifact.find(project.runs, run.key_of(project, origins))


def _looked(project: Project, known: facts.Known) -> Price:
    sources = known.facts.of(remote.step_of(project))
    return remote.price(project, sum(one.tokens for one in sources), sum(one.rows for one in sources))


def _asking(project: Project, data: Artifact) -> float:
    url = project.settings.model.remote.url
    assert url is not None
    return remote_model.estimate(project, url, tasks.from_artifact(data, project.settings.objective.task)).usd


def _document(project: Project, price: Price, asked: float | None) -> dict[str, Any]:
    settings = project.settings.model
    return {
        "url": settings.remote.url,
        "model": settings.behind,
        "rows": price.rows,
        "tokens": price.tokens,
        "epochs": price.epochs,
        "training_usd": price.usd,
        "asking_usd": asked,
    }


def _text(project: Project, price: Price, asked: float | None, band: Range) -> str:
    settings = project.settings.model
    later = "what asking for the test rows costs is known after `wyrmling data`"
    lines = [
        f"{project.settings.name}: {settings.behind} is trained behind {settings.remote.url}; nothing is sent now",
        f"training: {price.rows:,} rows, {price}: about ${price.usd:.2f}",
        later if asked is None else f"asking for the test rows: about ${asked:.2f}",
        f"US dollars: {band.value:.2f} ({band.low:.2f} to {band.high:.2f}); how long the API takes is not known",
        f"to do it: wyrmling run --spend {remote_model.cents(band.high)}",
    ]
    return "\n".join(lines)
