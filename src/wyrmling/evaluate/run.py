"""From a model folder and held-out rows to scores with intervals, a verdict on `objective.accept`, and a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wyrmling.config import Project, Quantize
from wyrmling.core import artifact, resolve
from wyrmling.core.artifact import Artifact, Key, file_digest
from wyrmling.core.errors import BadInput
from wyrmling.evaluate import accept, opponents, remote_model, tasks

if TYPE_CHECKING:
    from wyrmling.evaluate.measure import Evaluation

VERSION = 5
METRICS, PREDICTIONS, REPORT, LOSS = "metrics.json", "predictions.parquet", "report.html", "loss.png"
# The files of a model folder that decide its answers, beside its tensors.
_MODEL_FILES = (
    "config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "wyrmling.json",
    "few_shot.json",
    resolve.REMOTE,
)


def run(
    project: Project,
    data: Artifact,
    model: Path,
    *,
    test_file: Path | None = None,
    against: Path | None = None,
    quantize: Quantize | None = None,
    limit_usd: float | None = None,
) -> Artifact:
    """The evaluation of a model on the test rows of the data artifact, or on those of a file.

    model      a model folder, or a train artifact that holds one
    against    another model to compare with on the same rows. None: only what objective.accept speaks of
    quantize   round the weights first, and compare with the same model unrounded. None: not
    limit_usd  what asking a model behind an API may cost. None: nothing is sent
    Artifact   metrics.json, predictions.parquet, report.html, and loss.png for a model that was trained here; figures
               hold rows, metrics, baselines and verdict
    Raises     BadSetting for a bad line of objective.accept; BadInput for test rows that can't be scored
    """
    settings = project.settings
    task = settings.objective.task
    # Before anything is loaded: a misspelt condition should not cost minutes.
    criteria = accept.of(settings)
    folder = _model_folder(model)
    others = opponents.of(project, criteria, folder, None if against is None else _model_folder(against))
    opponents.refuse_remote(folder, others, quantize)
    if quantize is not None:
        others[opponents.UNROUNDED] = folder
    inputs = {"data": data.id, "model": _digest(folder)} | {name: _digest(path) for name, path in others.items()}
    if test_file is not None:
        if not test_file.is_file():
            raise BadInput(f"{test_file} does not exist", where="--test", fix="name a file that can be read")
        inputs["test"] = file_digest(test_file)
    shaping: dict[str, Any] = {
        "objective": settings.objective.model_dump(mode="json"),
        "evaluate": settings.evaluate.model_dump(exclude={"remote", "judge"}),
        "device": settings.machine.device,
    }
    if quantize is not None:
        shaping["quantize"] = quantize
    key = Key("evaluate", settings.name, inputs, shaping, VERSION)
    if (done := artifact.find(project.runs, key)) is not None:
        return done
    rows = tasks.from_artifact(data, task) if test_file is None else tasks.from_file(project, data, test_file)
    if remote := resolve.is_remote(folder):
        remote_model.agree(project, folder, rows, limit_usd)
    with artifact.create(project.runs, key, project.meter()) as draft:
        from wyrmling.evaluate import measure

        if remote:
            found = remote_model.evaluate(project, data, folder, rows, limit_usd or 0.0)
        else:
            found = measure.evaluate(project, folder, rows, others, quantize)
        _write(draft.path, found)
        draft.figures = figures(found.document)
        if remote:
            draft.figures["paid_usd"] = draft.earlier_cost["usd"] = found.usd
    return draft.done


def figures(document: Mapping[str, Any]) -> dict[str, Any]:
    """The part of metrics.json that goes into the manifest and to `wyrmling evaluate --json`."""
    wanted = ("task", "objective", "rows", "clusters", "main", "metrics", "baselines", "opponents", "overlap")
    return {name: document[name] for name in (*wanted, "temperature", "verdict", "notes")} | {"report": REPORT}


def _model_folder(path: Path) -> Path:
    """As model.folder.locate, without loading torch: finding a finished evaluation must stay quick."""
    if (folder := resolve.folder_of(path)) is not None:
        return folder
    raise BadInput(f"{path} is not a model folder", where=path, fix="name a folder that holds config.json")


def _digest(folder: Path) -> str:
    files = [*(folder / name for name in _MODEL_FILES), *sorted(folder.glob("*.safetensors"))]
    return artifact.digest({file.name: file_digest(file) for file in files if file.is_file()})


def _write(folder: Path, found: Evaluation) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from wyrmling.evaluate import report

    text = json.dumps(found.document, indent=1, ensure_ascii=False, allow_nan=False)
    artifact.write_durably(folder / METRICS, text.encode())
    ids = {name: [row[name] for row in found.rows.test] for name in ("row_id", "origin")}
    nearest = [[found.rows.train[one.row]["row_id"] for one in row] for row in found.near.nearest]
    table = pa.table({**ids, **found.model.columns, "near_train": found.near.flags, "nearest": nearest})
    if found.document["confusion"] is not None:
        names = json.dumps(found.document["confusion"]["labels"], ensure_ascii=False)
        table = table.replace_schema_metadata({"labels": names})
    pq.write_table(table, folder / PREDICTIONS, compression="zstd")
    artifact.write_durably(folder / REPORT, report.page(found).encode())
    if (curve := found.document["training_curve"]) is not None:
        artifact.write_durably(folder / LOSS, report.loss_picture(curve))
