"""`wyrmling feedback drift`: look for drift, keep the report, tell the webhook; and the golden replay."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from wyrmling.config import Project
from wyrmling.core import artifact, resolve
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadInput, UsageError
from wyrmling.core.log import warn
from wyrmling.core.reviews import Reviews
from wyrmling.core.store import ModelRecord, Store
from wyrmling.feedback import alerts, drift
from wyrmling.feedback.drift import Drift, Signal

EXIT_CODES: dict[drift.Status, int] = {"none": 0, "drift": 3, "too_little": 4}
# The same weights on the same rows: another library may round another way, no more.
REPLAY_TOLERANCE = 0.001


def look(project: Project, *, replay: bool = False) -> tuple[dict[str, Any], str, int]:
    """The drift of what the champion is asked and how it is received: a document, the same for people, the exit code.

    replay   also score the champion again on its own test rows: the same weights must give the same scores
    """
    settings, name = project.settings.feedback, project.settings.name
    with closing(Store.open(project.database_url)) as store:
        champion, reviews = store.resolve(name), Reviews(store)
        windows = [
            store.usage(digest=champion.digest, limit=settings.window, oldest_first=oldest) for oldest in (True, False)
        ]
        usage = {one.id: one for window in windows for one in window}
        found = drift.look(usage.values(), reviews.find(), settings)
        if replay:
            signal = replayed(project, champion)
            status = "drift" if signal.alarm else found.status
            found = replace(found, status=status, signals=(*found.signals, signal))
        reviews.keep_drift(found.status, found.as_dict())
    text = _text(f"{name}:{champion.version}", found)
    if found.status == "drift" and settings.webhook is not None:
        message = {"text": text, "project": name, "model": f"{name}:{champion.version}", **found.as_dict()}
        try:
            alerts.send(settings.webhook, message)
        except BadInput as error:
            # The alarm stands in the database and in the metrics all the same.
            warn(str(error))
    return {"model": f"{name}:{champion.version}", **found.as_dict()}, text, EXIT_CODES[found.status]


def replayed(project: Project, champion: ModelRecord) -> Signal:
    """The champion's main score on its test rows, computed again, beside what was registered."""
    from wyrmling.evaluate import run as evaluate

    folder = resolve.folder_of(champion.path) or champion.path
    settings = project.settings
    plain = settings.model_copy(
        update={
            "objective": settings.objective.model_copy(update={"accept": ()}),
            "evaluate": settings.evaluate.model_copy(update={"baselines": False}),
        }
    )
    with tempfile.TemporaryDirectory(prefix="wyrmling-") as elsewhere:
        # Elsewhere nothing is found finished.
        again = evaluate.run(Project(Path(elsewhere), plain), _data_of(project, folder), folder)
    main = again.figures["main"]
    before, now = champion.metrics.get(main), again.figures["metrics"][main]["value"]
    if before is None or now is None:
        raise UsageError(f"{champion.name}:{champion.version} was registered without {main}", fix="run: wyrmling run")
    gap = abs(now - before)
    return Signal(f"replay_{main}", gap, REPLAY_TOLERANCE, 1.0, before, now, gap > REPLAY_TOLERANCE)


def _data_of(project: Project, model: Path) -> Artifact:
    """The data that a model learned from and was tested on."""
    manifest = model.parent / artifact.MANIFEST
    wanted = json.loads(manifest.read_text(encoding="utf-8"))["inputs"].get("data") if manifest.is_file() else None
    for folder in sorted((project.runs / "data").glob(f"{project.settings.name}-*")):
        if folder.name.endswith(f"-{wanted}"):
            return artifact.open_artifact(folder)
    raise UsageError("the data of the champion is gone, so it can't be replayed", fix="make it again: wyrmling run")


def _text(name: str, found: Drift) -> str:
    if found.status == "too_little" and not found.signals:
        return f"{name} has given {found.reference:,} answers; two windows need {found.missing:,} more"
    head = f"{'drift' if found.status == 'drift' else 'no drift'}: {name}, its first {found.reference:,} answers "
    lines = [f"{head}against its newest {found.current:,}"]
    for signal in found.signals:
        shown = ["" if value is None else f"{value:.4g}" for value in (signal.reference, signal.current)]
        change = f"{shown[0]} -> {shown[1]}" if any(shown) else ""
        mark = "ALARM" if signal.alarm else ""
        lines.append(
            f"  {signal.name:<22} {signal.value:>8.4f}  threshold {signal.threshold:.4f}  p {signal.p:.4f}  "
            f"{change:<24} {mark}".rstrip()
        )
    return "\n".join(lines)
