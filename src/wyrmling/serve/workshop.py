"""The files and fine-tuning jobs of a project, and the models that came out of them. No torch."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from wyrmling.config import Project
from wyrmling.core.artifact import write_durably
from wyrmling.core.jobs import Jobs
from wyrmling.core.store import ModelRecord, Store
from wyrmling.core.tables import File, Job
from wyrmling.core.uploads import Uploads
from wyrmling.serve import job_project


@dataclass(frozen=True)
class Workshop:
    """Where a project keeps what clients upload and train."""

    project: Project
    store: Store

    @property
    def uploads(self) -> Uploads:
        return Uploads(self.store, self.project.root / "files")

    @property
    def jobs(self) -> Jobs:
        return Jobs(self.store)

    def log_of(self, job: Job) -> Path:
        """Where the worker of a job writes what goes wrong."""
        folder = job_project.folder_of(self.project, job)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder / "worker.log"

    def model(self, name: str, key_id: str | None) -> ModelRecord | None:
        """The registered version behind the name of a fine-tuned model, or of one of its checkpoints.

        None when there is none, or it belongs to another key.
        """
        base, mark, step = name.rpartition(":ckpt-step-")
        job = self.jobs.of_model(base if mark else name, key_id)
        if job is None or job.registered is None:
            return None
        if mark and not any(
            event.data and str(event.data["step"]) == step for event in self.jobs.events(job.id, checkpoints=True)[0]
        ):
            return None
        return self.store.resolve(job.registered)


def keep_file(
    uploads: Uploads, content: bytes, filename: str, purpose: str, key_id: str | None, *, expires: str | None = None
) -> File:
    """A new file with these bytes."""
    file = File(
        id=new_file_id(), key_id=key_id, filename=filename, purpose=purpose, bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(), expires=expires,
    )  # fmt: skip
    uploads.folder.mkdir(mode=0o700, exist_ok=True)
    write_durably(uploads.path(file.id), content)
    uploads.add(file)
    return file


def new_file_id() -> str:
    return f"file-{secrets.token_hex(12)}"
