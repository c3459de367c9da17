"""/v1/fine_tuning/jobs: make, follow, pause and cancel jobs, which run in processes of their own."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wyrmling.core.tables import Job, JobEvent
from wyrmling.serve import job_project
from wyrmling.serve.files import seconds_of
from wyrmling.serve.openai import ApiError, Wire, unsupported
from wyrmling.serve.paging import limit_of, page_of, query_of
from wyrmling.serve.service import Service, read, sent_before
from wyrmling.serve.workshop import Workshop

# A job that is told to stop saves its work first; the answer waits so long for it, then says what it is doing.
SETTLE_SECONDS, LOOK_SECONDS = 5.0, 0.1

Auto = Literal["auto"]


class Hyperparameters(Wire):
    n_epochs: Auto | Annotated[int, Field(ge=1, le=1000)] | None = None
    batch_size: Auto | Annotated[int, Field(ge=1, le=100_000)] | None = None
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=1000)] | None = None


class PreferenceHyperparameters(Hyperparameters):
    beta: Auto | Annotated[float, Field(gt=0, le=2)] | None = None


class Supervised(Wire):
    hyperparameters: Hyperparameters | None = None


class Preferred(Wire):
    hyperparameters: PreferenceHyperparameters | None = None


class Method(Wire):
    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Preferred | None = None


class JobRequest(Wire):
    model: str
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None


async def create(service: Service, request: Request) -> Response:
    """Make a job. Its process starts as soon as there is room."""
    workshop = service.need_workshop()
    body = await read(JobRequest, request)
    caller = request.state.caller
    if service.settings.max_jobs == 0:
        raise ApiError(403, "this server takes no fine-tuning jobs", code="jobs_not_taken", kind="permission_error")
    for param in ("training_file", "validation_file"):
        _check_file(workshop, getattr(body, param), param, caller.key_id)
    base = await service.of(body.model, None, "fine-tuning", caller)
    if base.loaded.job not in ("generate", "classify"):
        raise ApiError(400, f"{body.model} can't be fine-tuned here", code="unsupported_model", param="model")
    if body.method is not None and body.method.type == "dpo" and base.loaded.job != "generate":
        message = f"{body.model} labels texts: it learns no preferences"
        raise ApiError(400, message, code="invalid_value", param="method")
    asked = body.model_dump(mode="json", exclude_none=True)
    if (since := sent_before(request)) is not None:
        for job in await run_in_threadpool(workshop.jobs.since, caller.key_id, since):
            if job.asked == asked:
                return JSONResponse(wire(workshop, job))
    if len(await run_in_threadpool(workshop.jobs.unfinished)) >= service.settings.max_queue:
        raise ApiError(
            429, "too many jobs are waiting", code="rate_limit_exceeded", kind="rate_limit_error",
            headers={"retry-after": "60"},
        )  # fmt: skip
    job = Job(f"ftjob-{secrets.token_hex(12)}", caller.key_id, asked, str(base.loaded.found.folder))
    await run_in_threadpool(workshop.jobs.add, job)
    await run_in_threadpool(workshop.jobs.say, job.id, f"Created fine-tuning job: {job.id}")
    service.wake_foreman()
    return JSONResponse(wire(workshop, job))


async def jobs(service: Service, request: Request) -> Response:
    """The jobs of the caller, newest first."""
    workshop = service.need_workshop()
    query = query_of(request, ("after", "limit", "metadata"))
    limit = limit_of(query, default=20, most=100)
    metadata = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[") and name[-1] == "]"}
    if "metadata" in query:
        raise unsupported("metadata", "must be given as metadata[KEY]=VALUE")
    return await run_in_threadpool(
        page_of,
        lambda: workshop.jobs.page(
            request.state.caller.key_id, after=query.get("after"), limit=limit, metadata=metadata
        ),
        lambda job: wire(workshop, job),
    )


async def job(service: Service, request: Request) -> Response:
    """What is known of a job."""
    workshop = service.need_workshop()
    return JSONResponse(wire(workshop, _find(workshop, request)))


async def events(service: Service, request: Request) -> Response:
    """What a job reported, newest first."""
    return await _reported(service, request, checkpoints=False, default=20)


async def checkpoints(service: Service, request: Request) -> Response:
    """The models a job has made, newest first."""
    return await _reported(service, request, checkpoints=True, default=10)


async def cancel(service: Service, request: Request) -> Response:
    """Stop a job for good. A job that is over can't be cancelled: that is 400, as 409 would be tried again."""
    return await _want(service, request, "cancel")


async def pause(service: Service, request: Request) -> Response:
    """Stop a job and keep its work. The API has no word for it: the job is `running`, an event says the rest."""
    return await _want(service, request, "pause")


async def resume(service: Service, request: Request) -> Response:
    """Let a paused job go on."""
    return await _want(service, request, "run")


def wire(workshop: Workshop, job: Job) -> dict[str, Any]:
    """The job as the API shows it."""
    method = job_project.method_of(job)
    numbers = ("n_epochs", "batch_size", "learning_rate_multiplier", *(["beta"] if method == "dpo" else []))
    asked = dict.fromkeys(numbers, "auto")
    asked |= job_project.hyperparameters(job)
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": seconds_of(job.created),
        "error": job.error,
        "fine_tuned_model": job.fine_tuned_model,
        "finished_at": None if job.finished is None else seconds_of(job.finished),
        "hyperparameters": asked,
        "model": job.asked["model"],
        "organization_id": workshop.project.settings.name,
        "result_files": list(job.result_files),
        "seed": job_project.seed(job),
        "status": "running" if job.state == "paused" else job.state,
        "trained_tokens": job.trained_tokens,
        "training_file": job.asked["training_file"],
        "validation_file": job.asked.get("validation_file"),
        "estimated_finish": None if job.over or job.estimated_finish is None else seconds_of(job.estimated_finish),
        "integrations": [],
        "metadata": job.asked.get("metadata"),
        "method": {"type": method, method: {"hyperparameters": asked}},
    }


def _event(event: JobEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": seconds_of(event.created),
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": event.data or {},
    }


def _checkpoint(event: JobEvent) -> dict[str, Any]:
    data = event.data or {}
    return {
        "id": event.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": seconds_of(event.created),
        "fine_tuned_model_checkpoint": data["model"],
        "fine_tuning_job_id": event.job_id,
        "step_number": data["step"],
        "metrics": data["metrics"],
    }


async def _reported(service: Service, request: Request, *, checkpoints: bool, default: int) -> Response:
    workshop = service.need_workshop()
    found = _find(workshop, request)
    query = query_of(request, ("after", "limit"))
    limit = limit_of(query, default=default, most=100)
    return await run_in_threadpool(
        page_of,
        lambda: workshop.jobs.events(found.id, after=query.get("after"), limit=limit, checkpoints=checkpoints),
        _checkpoint if checkpoints else _event,
    )


async def _want(service: Service, request: Request, wanted: Literal["run", "pause", "cancel"]) -> Response:
    workshop = service.need_workshop()
    job = _find(workshop, request)
    # A job that goes on is not held against the attempts that were lost before.
    more = {"attempts": 0} if wanted == "run" else {}
    if not await run_in_threadpool(lambda: workshop.jobs.change(job.id, wanted=wanted, **more)):
        raise ApiError(400, f"the job is over: it has {job.state}", code="job_is_over", param="id")
    service.wake_foreman()
    settled = {"run": None, "pause": "paused", "cancel": "cancelled"}[wanted]
    for _ in range(round(SETTLE_SECONDS / LOOK_SECONDS)):
        job = await run_in_threadpool(_find, workshop, request)
        if job.over or settled in (None, job.state):
            break
        await asyncio.sleep(LOOK_SECONDS)
    return JSONResponse(wire(workshop, job))


def _find(workshop: Workshop, request: Request) -> Job:
    found = workshop.jobs.find(request.path_params["job"], request.state.caller.key_id)
    if found is None:
        raise ApiError(404, "there is no such fine-tuning job", code="fine_tune_not_found", param="fine_tune_id")
    return found


def _check_file(workshop: Workshop, file_id: str | None, param: str, key_id: str | None) -> None:
    if file_id is None:
        return
    file = workshop.uploads.find(file_id, key_id)
    if file is None:
        raise ApiError(400, f"{param}: there is no file {file_id[:100]!r}", code="invalid_value", param=param)
    if file.purpose != "fine-tune":
        message = f"{param}: the file was uploaded for {file.purpose}, not for fine-tune"
        raise ApiError(400, message, code="invalid_value", param=param)
