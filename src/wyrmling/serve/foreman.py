"""Sees to it that every fine-tuning job has a living worker, now and after the server was restarted, and that what is
kept for some days only is then erased."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from typing import Any

from wyrmling.core.store import now
from wyrmling.core.tables import Job
from wyrmling.feedback.retention import expire
from wyrmling.serve.processes import is_alive
from wyrmling.serve.workshop import Workshop

LOOK_SECONDS = 1.0
EXPIRY_SECONDS = 600.0
# An upload that no row names after so long will not get one.
LOST_SECONDS = 24 * 3600.0
# A job whose worker was lost so often is given up: something in it kills them.
MAX_ATTEMPTS = 5

_log = logging.getLogger("wyrmling.serve")


class Foreman:
    """A thread that starts workers. They outlive it: a job goes on while no server runs.

    at_once   jobs that run at the same time; the others wait
    """

    def __init__(self, workshop: Workshop, at_once: int) -> None:
        self._workshop, self._at_once = workshop, at_once
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._wake, self._stopping = threading.Event(), False
        self._next_expiry = 0.0
        self._thread = threading.Thread(target=self._work, name="foreman", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look at the jobs now."""
        self._wake.set()

    def stop(self) -> None:
        """Start no more workers; those at work go on."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping:
            try:
                self._look()
                self._workshop.uploads.delete_expired()
                if time.monotonic() >= self._next_expiry:
                    self._next_expiry = time.monotonic() + EXPIRY_SECONDS
                    expire(self._workshop.store, self._workshop.project.settings.feedback.keep_days)
                    self._workshop.uploads.delete_lost(LOST_SECONDS)
            except Exception:
                # The edge of the thread: the database may be locked or away for a moment.
                _log.exception("the foreman could not look at the jobs")
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()

    def _look(self) -> None:
        # Asking the processes also lets those that have ended go.
        self._started = {job_id: process for job_id, process in self._started.items() if process.poll() is None}
        jobs = self._workshop.jobs.unfinished()
        idle = [job for job in jobs if job.id not in self._started and not is_alive(job.worker)]
        busy = len(jobs) - len(idle)
        for job in idle:
            if job.wanted == "cancel":
                self._end(job, "cancelled", "Fine-tuning job cancelled")
            elif job.wanted == "pause":
                if job.state != "paused":
                    self._workshop.jobs.change(job.id, state="paused", worker=None)
            elif job.attempts >= MAX_ATTEMPTS:
                error = {"code": "worker_lost", "message": "the job's process was lost too often", "param": None}
                self._end(job, "failed", "The job failed: its process was lost too often", error)
            elif busy < self._at_once:
                busy += 1
                self._start(job)

    def _end(self, job: Job, state: str, message: str, error: dict[str, Any] | None = None) -> None:
        if self._workshop.jobs.change(job.id, state=state, finished=now(), error=error):
            self._workshop.jobs.say(job.id, message, level="error" if error else "info")

    def _start(self, job: Job) -> None:
        log = self._workshop.log_of(job)
        with log.open("ab") as err:
            self._started[job.id] = subprocess.Popen(
                [sys.executable, "-m", "wyrmling.serve.worker", str(self._workshop.project.root), job.id],
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
                # Signals to the server, such as Ctrl-C, are not for the worker.
                start_new_session=True,
            )
