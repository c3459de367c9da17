"""One fine-tuning job, in a process of its own: `python -m wyrmling.serve.worker PROJECT JOB`.

It needs no server: it takes the job over, runs the verbs data, plan and run on the job's folder, and writes what
happens to the database. Killed at any time and started again, it goes on where the pipeline was.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.errors import GateRefused, Inconclusive, Interrupted, WyrmlingError
from wyrmling.core.jobs import Jobs
from wyrmling.core.store import Store, now
from wyrmling.core.tables import Job
from wyrmling.core.uploads import Uploads
from wyrmling.serve import job_project
from wyrmling.serve.processes import end, identity, is_alive
from wyrmling.serve.progress import Following, checkpoint_metrics, results_csv
from wyrmling.serve.workshop import Workshop, keep_file

POLL_SECONDS = 0.25
# Says which process runs a verb of the job, for a worker that follows one that was killed.
PROCESS_FILE = "process"
# What the verbs may know of the server's surroundings: no keys, no tokens.
KEPT_VARIABLES = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "SYSTEMROOT", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "HF_HOME", "HF_HUB_OFFLINE",
    "WYRMLING_CACHE",
)  # fmt: skip


class Failed(Exception):
    """The job can't succeed. `code` and `param` are those of the API's error."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


class Stopped(Exception):
    """The job is paused or cancelled."""


@dataclass(frozen=True)
class Worker:
    """Does one job of a project."""

    project: Project
    jobs: Jobs
    uploads: Uploads
    job: Job

    def work(self) -> None:
        """Do the job until it is over, paused or cancelled."""
        try:
            self._begin()
            if self.job.estimated_finish is None:
                self._plan(self._check())
            document, following = self._train()
            self._finish(document, following)
        except Stopped:
            pass
        except Failed as error:
            self._fail(error)

    # ---- the stages of a job ----

    def _begin(self) -> None:
        file = self._folder / PROCESS_FILE
        if file.is_file():
            # A worker that was killed could not end its run.
            end(file.read_text())
        self._obey()
        if self.job.attempts > 0:
            self.jobs.say(self.job.id, "The job is taken up again where it was")

    def _check(self) -> int:
        """The uploaded rows through the data stage; how many there are."""
        self.jobs.say(self.job.id, f"Validating training file: {self.job.asked['training_file']}")
        try:
            rows = job_project.write_rows(self.project, self.job, self.uploads)
        except WyrmlingError as error:
            raise Failed("invalid_training_file", error.what, error.where) from None
        job_project.write_project(self.project, self.job, rows)
        data = self._verb("data", "invalid_training_file")
        found = {key: data[key] for key in ("read", "kept", "dropped", "errors", "by_rule")}
        message = "Data checks: {read} read, {kept} kept, {dropped} dropped".format(**found)
        self.jobs.say(self.job.id, message, data=found)
        self.jobs.change(self.job.id, state="queued")
        return rows

    def _plan(self, rows: int) -> None:
        """What it will take, said before it begins."""
        plan = self._verb("plan", "training_failed")
        if job_project.needs_plan(self.job):
            derived, facts = plan["derived"]["train"]["tune"], plan["facts"]
            per_row = {"lr": derived["lr"], "tokens_per_row": facts["train_tokens"] / max(1, facts["rows"])}
            job_project.write_project(self.project, self.job, rows, per_row)
            plan = self._verb("plan", "training_failed")
        until = datetime.now(UTC) + timedelta(minutes=plan["minutes"]["value"])
        forecast = {key: plan[key] for key in ("minutes", "usd", "kwh")}
        about = "about {:.1f} minutes and {:.4f} USD".format(*(forecast[key]["value"] for key in ("minutes", "usd")))
        self.jobs.say(self.job.id, f"Fine-tuning job started: {about}", data={"forecast": forecast})
        self.jobs.change(self.job.id, state="running", estimated_finish=until.isoformat())

    def _train(self) -> tuple[dict[str, Any], Following]:
        self.jobs.change(self.job.id, state="running")
        plan = json.loads((self._folder / "plan.json").read_bytes())
        following = Following(self._folder / "runs", plan["derived"]["train"]["tune"]["steps"])
        # What an earlier worker saw was reported by it.
        events, _ = self.jobs.events(self.job.id, limit=1000)
        reported = max((event.data["step"] for event in events if event.data and "step" in event.data), default=0)
        try:
            return self._verb("run", "training_failed", lambda: self._report(following, reported)), following
        finally:
            seconds, wh = following.spent
            self.jobs.change(self.job.id, wh=wh, usd=self.project.meter().tariff.usd(seconds, wh / 1000))

    def _report(self, following: Following, reported: int) -> None:
        for line in following.news():
            if line["step"] <= reported or not following.reports(line):
                continue
            data = {"step": line["step"]}
            if "val" in line:
                data |= {f"valid_{name}": value for name, value in line["val"].items() if isinstance(value, float)}
                message = f"Step {line['step']}: validation"
            else:
                data |= {
                    "train_loss": line["loss"],
                    "tokens": line["tokens"],
                    "seconds": line["seconds"],
                    "wh": line["wh"],
                    "usd": self.project.meter().tariff.usd(line["seconds"], line["wh"] / 1000),
                }
                message = f"Step {line['step']}: training loss={line['loss']:.2f}"
            self.jobs.say(self.job.id, message, type="metrics", data=data)

    def _finish(self, document: dict[str, Any], following: Following) -> None:
        list(following.news())
        stages = document["stages"]
        cost = {
            name: math.fsum(stage["cost"][name] for stage in stages if "cost" in stage)
            for name in ("usd", "wh", "seconds")
        }
        name = job_project.model_name(self.project, self.job)
        results = keep_file(
            self.uploads, results_csv(following.lines), "step_metrics.csv", "fine-tune-results", self.job.key_id
        )
        metrics = checkpoint_metrics(following.lines)
        step = int(metrics.get("step", 0))
        checkpoint = {"model": f"{name}:ckpt-step-{step}", "step": step, "metrics": metrics}
        self.jobs.say(self.job.id, f"Checkpoint created at step {step}", type="checkpoint", data=checkpoint)
        for line in document["verdict"]["lines"]:
            self.jobs.say(self.job.id, line)
        self.jobs.say(
            self.job.id, f"Gate: {document['verdict']['why']}", data={"verdict": document["verdict"]["status"]}
        )
        spent = f"Cost: {cost['usd']:.6f} USD, {cost['wh']:.4f} Wh, {cost['seconds']:.1f} s"
        self.jobs.say(self.job.id, spent, data={"cost": cost})
        self.jobs.say(self.job.id, f"New fine-tuned model created: {name}")
        self.jobs.change(
            self.job.id,
            state="succeeded",
            finished=now(),
            fine_tuned_model=name,
            registered=document["model"],
            trained_tokens=max((line["tokens"] for line in following.lines if "tokens" in line), default=0),
            result_files=(results.id,),
            usd=cost["usd"],
            wh=cost["wh"],
        )

    def _fail(self, error: Failed) -> None:
        self.jobs.say(self.job.id, f"The job failed: {error.message}", level="error")
        told = {"code": error.code, "message": error.message, "param": error.param}
        self.jobs.change(self.job.id, state="failed", finished=now(), error=told)

    # ---- verbs ----

    @property
    def _folder(self) -> Path:
        return job_project.folder_of(self.project, self.job)

    def _verb(self, verb: str, code: str, report: Any = None) -> dict[str, Any]:
        """The JSON document of a verb on the job's project. Raises Failed, or Stopped when the owner wants it."""
        command = [sys.executable, "-m", "wyrmling", verb, "--project", str(self._folder), "--json", "--quiet"]
        answer, log = self._folder / f"{verb}.json", self._folder / f"{verb}.log"
        with answer.open("wb") as out, log.open("ab") as err:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=self._folder,
                env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
                preexec_fn=_modest if os.name == "posix" else None,
            )  # fmt: skip
            running = identity(process.pid)
            (self._folder / PROCESS_FILE).write_text(running)
            try:
                while process.poll() is None:
                    if report is not None:
                        report()
                    self._obey(running)
                    time.sleep(POLL_SECONDS)
                if report is not None:
                    report()
            finally:
                end(running)
                process.wait()
        return self._outcome(process.returncode, answer, code)

    def _outcome(self, status: int, answer: Path, code: str) -> dict[str, Any]:
        document: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            document = json.loads(answer.read_bytes() or b"{}")
        if status == 0:
            return document
        if status == Interrupted.exit_code or status < 0:
            # Someone else stopped the run: whoever starts a worker next goes on from here.
            raise SystemExit(1)
        verdicts = {GateRefused.exit_code: "gate_refused", Inconclusive.exit_code: "gate_inconclusive"}
        if status in verdicts and "verdict" in document:
            raise Failed(verdicts[status], document["verdict"]["why"])
        said = document.get("error") or {}
        message = said.get("message", f"the pipeline ended with exit code {status}")
        raise Failed(code, f"{message}; {said['fix']}" if said.get("fix") else message)

    def _obey(self, running: str | None = None) -> None:
        """Stop the run when the owner wants the job paused or cancelled."""
        job = self.jobs.find(self.job.id)
        if job is None or job.over:
            wanted = "cancel"
        elif job.wanted == "run":
            return
        else:
            wanted = job.wanted
        if running is not None:
            end(running)
        if wanted == "pause":
            self.jobs.say(self.job.id, "The job is paused; its work so far is saved")
            self.jobs.change(self.job.id, state="paused", worker=None)
        elif self.jobs.change(self.job.id, state="cancelled", finished=now()):
            self.jobs.say(self.job.id, "Fine-tuning job cancelled")
        raise Stopped


def _modest() -> None:
    """Let answering go first, and leave no memory image behind."""
    import resource

    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(root: str, job_id: str) -> None:
    """Take the job over, unless a living worker has it."""
    project = config.load(Path(root))
    workshop = Workshop(project, Store.open(project.database_url))
    jobs = workshop.jobs
    job = jobs.find(job_id)
    if job is None or job.over or is_alive(job.worker) or not jobs.claim(job, identity()):
        return
    # Told to end, the worker ends its run too, which saves what it has.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Interrupted.exit_code))
    Worker(project, jobs, workshop.uploads, job).work()


if __name__ == "__main__":
    main(*sys.argv[1:])
