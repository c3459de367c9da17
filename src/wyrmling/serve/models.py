"""/v1/models: the model that is served, and the fine-tuned ones of the caller."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wyrmling.core.tables import Job
from wyrmling.serve.files import seconds_of
from wyrmling.serve.openai import ApiError, model_not_found
from wyrmling.serve.responses import ModelCard, ModelList
from wyrmling.serve.service import Service


async def models(service: Service, request: Request) -> Response:
    """The models that the caller may use."""
    jobs = await run_in_threadpool(_jobs, service, request)
    body = ModelList(object="list", data=[*_served(service), *(_tuned(job) for job in jobs)])
    return Response(body.json_bytes(), media_type="application/json")


async def model(service: Service, request: Request) -> Response:
    """The card of one model."""
    name = request.path_params["model"]
    if name in service.names:
        name = service.name
    served = next((card for card in _served(service) if card.id == name), None)
    card = served or _tuned(await _find(service, request))
    return Response(card.json_bytes(), media_type="application/json")


async def delete(service: Service, request: Request) -> Response:
    """Let a fine-tuned model answer no more. Its version stays in the registry."""
    name = request.path_params["model"]
    if name in service.names or name in service.adapters:
        raise ApiError(400, "the model that is served can't be deleted here", code="model_in_use", param="model")
    job = await _find(service, request)
    await run_in_threadpool(service.need_workshop().jobs.forget_model, job.id)
    return JSONResponse({"id": name, "object": "model", "deleted": True})


def _jobs(service: Service, request: Request) -> list[Job]:
    return [] if service.workshop is None else service.workshop.jobs.models(request.state.caller.key_id)


async def _find(service: Service, request: Request) -> Job:
    name = request.path_params["model"]
    for job in await run_in_threadpool(_jobs, service, request):
        if job.fine_tuned_model == name:
            return job
    raise model_not_found(name)


def _served(service: Service) -> list[ModelCard]:
    """The model and its adapters."""
    names = (service.name, *service.adapters)
    return [ModelCard(id=name, object="model", created=service.started, owned_by="wyrmling") for name in names]


def _tuned(job: Job) -> ModelCard:
    created = seconds_of(job.finished or job.created)
    return ModelCard(id=job.fine_tuned_model or "", object="model", created=created, owned_by="wyrmling")
