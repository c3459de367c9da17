"""The project folder of a fine-tuning job: its rows and its `wyrmling.toml`, made from the request.

A request chooses among a few numbers. It names no code, no path and no other setting.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from wyrmling.config import PROJECT_FILE, Project
from wyrmling.core import toml
from wyrmling.core.artifact import write_durably
from wyrmling.core.errors import WyrmlingError
from wyrmling.core.tables import Job
from wyrmling.core.uploads import Uploads
from wyrmling.serve.training_files import MIN_EXAMPLES, Form, convert

FOLDER = "jobs"
# The columns of the job's rows, and what is learned from them: preferences by DPO, as long as nothing else is said.
COLUMNS: dict[Form, tuple[str, ...]] = {
    "label": ("text", "label"),
    "conversation": ("messages",),
    "pair": ("chosen", "rejected"),
}
OBJECTIVES: dict[Form, str] = {"label": "classify", "conversation": "sft", "pair": "preference"}
# The test rows decide whether the gate says yes, so a small file gives more of its rows than a large one.
WANTED_TEST_ROWS, TEST_SHARE, MOST_TEST_SHARE = 10, 0.1, 0.4


def folder_of(project: Project, job: Job) -> Path:
    """Where the job works."""
    return project.root / FOLDER / job.id


def short(job: Job) -> str:
    """The last digits of a job's id, which its models carry."""
    return job.id[-8:]


def model_name(project: Project, job: Job) -> str:
    """The name that the finished model answers to: ft:BASE:PROJECT:SUFFIX:ID."""
    return f"ft:{_base(job)}:{project.settings.name}:{job.asked.get('suffix') or ''}:{short(job)}"


def registry_name(job: Job) -> str:
    """The name of the finished model in the registry."""
    return "-".join(part for part in (_base(job), job.asked.get("suffix"), short(job)) if part)


def _base(job: Job) -> str:
    """What the model began as, also when it is tuned a second time."""
    name = job.asked["model"]
    base = name.split(":")[1] if name.startswith("ft:") else name.partition(":")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-._") or "model"


def labels_texts(job: Job) -> bool:
    """Whether the base model is a classifier."""
    about = Path(job.base) / "wyrmling.json"
    return about.is_file() and json.loads(about.read_text(encoding="utf-8")).get("head") == "classes"


def form_of(job: Job) -> Form:
    """What a row of the job is."""
    if method_of(job) == "dpo":
        return "pair"
    return "label" if labels_texts(job) else "conversation"


def write_rows(project: Project, job: Job, uploads: Uploads) -> int:
    """The rows of the uploaded files, in the job's folder; how many there are to learn from.

    Raises   WyrmlingError that says which file and line is wrong
    """
    folder = folder_of(project, job)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    count = 0
    for param, name, least in (("training_file", "training", MIN_EXAMPLES), ("validation_file", "validation", 1)):
        file_id = job.asked.get(param)
        if file_id is None:
            continue
        upload = uploads.find(file_id, job.key_id)
        if upload is None:
            raise WyrmlingError(f"the file {file_id} is gone", where=param)
        try:
            rows = convert(uploads.path(upload.id), folder / f"{name}.jsonl", form_of(job), least=least)
        except WyrmlingError as error:
            raise WyrmlingError(f"{file_id}: {error.what}", where=param, fix=error.fix) from error
        count = rows if name == "training" else count
    return count


def write_project(project: Project, job: Job, rows: int, derived: dict[str, Any] | None = None) -> None:
    """The job's `wyrmling.toml`.

    rows      how many there are to learn from
    derived   {lr, tokens_per_row} of the plan, which multipliers and row counts of the request refer to
    """
    form = form_of(job)
    columns = {name: name for name in COLUMNS[form]}
    sources = {"training": {"path": "training.jsonl", **columns}}
    split: dict[str, Any] = {"test": min(MOST_TEST_SHARE, max(TEST_SHARE, WANTED_TEST_ROWS / max(1, rows)))}
    if job.asked.get("validation_file") is not None:
        sources["validation"] = {"path": "validation.jsonl", "split": "test", **columns}
        split = {}
    settings = project.settings
    task = "classify" if form == "label" else "chat"
    content = {
        "name": registry_name(job),
        "seed": seed(job),
        "database": _absolute(project.database_url),
        "objective": {
            "goal": f"fine-tuning job {job.id}",
            "task": task,
            # What the project demands of its models holds for this one too, where it is about the same task.
            "accept": list(settings.objective.accept) if settings.objective.task == task else [],
        },
        "data": {
            "sources": sources,
            "clean": settings.data.clean.model_dump(mode="json", exclude_unset=True),
            "split": split,
        },
        "model": {"base": job.base},
        "train": [_step(job, form, derived)],
        "machine": settings.machine.model_dump(mode="json", exclude_unset=True),
    }
    write_durably(folder_of(project, job) / PROJECT_FILE, "\n".join(toml.lines(content)).encode())


def seed(job: Job) -> int:
    """The seed of the request; without one, the job's own."""
    asked = job.asked.get("seed")
    return int(short(job), 16) % 2**31 if asked is None else int(asked)


def method_of(job: Job) -> str:
    """supervised, or dpo."""
    return str((job.asked.get("method") or {}).get("type", "supervised"))


def hyperparameters(job: Job) -> dict[str, Any]:
    """The numbers that were asked for; "auto" leaves one to be derived."""
    method = job.asked.get("method") or {}
    asked = (method.get(method.get("type")) or {}).get("hyperparameters") or job.asked.get("hyperparameters") or {}
    return {name: value for name, value in asked.items() if value not in (None, "auto")}


def needs_plan(job: Job) -> bool:
    """Whether the request has numbers that only a plan can turn into settings."""
    return bool({"learning_rate_multiplier", "batch_size"} & set(hyperparameters(job)))


def _step(job: Job, form: Form, derived: dict[str, Any] | None) -> dict[str, Any]:
    asked = hyperparameters(job)
    step: dict[str, Any] = {"name": "tune", "objective": OBJECTIVES[form]}
    if "beta" in asked:
        step["preference"] = {"beta": float(asked["beta"])}
    if "n_epochs" in asked:
        step["epochs"] = float(asked["n_epochs"])
    if derived is not None and "learning_rate_multiplier" in asked:
        step["lr"] = derived["lr"] * asked["learning_rate_multiplier"]
    if derived is not None and "batch_size" in asked:
        step["batch_tokens"] = max(1, round(derived["tokens_per_row"] * asked["batch_size"]))
    return step


def _absolute(url: str) -> str:
    """The same database from every folder: a relative SQLite path is relative to where the server was started."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        parsed = parsed.set(database=str(Path(parsed.database).resolve()))
    return parsed.render_as_string(hide_password=False)
