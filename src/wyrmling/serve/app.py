"""The routes of the server."""

from __future__ import annotations

import datetime

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from wyrmling.feedback.ratings import UnknownAnswer, rate
from wyrmling.serve import generation, labelling
from wyrmling.serve.guard import Guard
from wyrmling.serve.metrics import CONTENT_TYPE
from wyrmling.serve.openai import ApiError, FeedbackRequest, model_not_found
from wyrmling.serve.responses import FeedbackReceipt, ModelCard, ModelList
from wyrmling.serve.service import Service, answering, read


def create_app(service: Service, *, loopback: bool) -> ASGIApp:
    """The whole application behind its guard.

    loopback   True when only this machine can connect; then keys are asked for only once one was made
    """
    routes = [
        Route("/v1/models", answering(models), methods=["GET"]),
        # Model names may hold slashes and colons.
        Route("/v1/models/{model:path}", answering(model), methods=["GET"]),
        Route("/v1/completions", answering(generation.completions), methods=["POST"]),
        Route("/v1/chat/completions", answering(generation.chat_completions), methods=["POST"]),
        Route("/v1/classify", answering(labelling.classify), methods=["POST"]),
        Route("/v1/tag", answering(labelling.tag), methods=["POST"]),
        Route("/v1/feedback", answering(feedback), methods=["POST"]),
        Route("/livez", answering(live), methods=["GET"]),
        Route("/readyz", answering(ready), methods=["GET"]),
        Route("/health", answering(ready), methods=["GET"]),
        Route("/metrics", answering(metrics), methods=["GET"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_such_route})
    app.state.service = service
    return Guard(app, service.store, loopback, service.metrics)


async def models(service: Service, request: Request) -> Response:
    """The one model that is served."""
    body = ModelList(object="list", data=[_card(service)])
    return Response(body.json_bytes(), media_type="application/json")


async def model(service: Service, request: Request) -> Response:
    """The card of the model that is served."""
    name = request.path_params["model"]
    if name not in service.names:
        raise model_not_found(name)
    return Response(_card(service).json_bytes(), media_type="application/json")


def _card(service: Service) -> ModelCard:
    return ModelCard(id=service.name, object="model", created=service.started, owned_by="wyrmling")


async def feedback(service: Service, request: Request) -> Response:
    """Keep what a person says about an answer."""
    body = await read(FeedbackRequest, request)
    loaded = service.loaded
    try:
        kept = await run_in_threadpool(
            rate,
            service.store,
            body.id,
            rating=body.rating,
            correction=body.correction,
            comment=body.comment,
            key_id=request.state.key_id,
            labels=loaded.labels if loaded.job == "classify" else None,
            tags=loaded.tags if loaded.job == "tag" else None,
        )
    except UnknownAnswer as error:
        raise ApiError(404, f"{error.what}; {error.fix}", code="answer_not_found", param="id") from None
    service.metrics.rated(kept.rating)
    receipt = FeedbackReceipt(id=kept.id, object="feedback", answer_id=kept.answer_id, created=kept.created)
    return Response(receipt.json_bytes(), media_type="application/json")


async def live(service: Service, request: Request) -> Response:
    """The process answers."""
    return JSONResponse({"status": "ok"})


async def ready(service: Service, request: Request) -> Response:
    """The model is loaded, gave the trained answers, and requests are taken."""
    if not service.engine.ready:
        raise ApiError(503, "the server is stopping", code="not_ready", kind="server_error")
    since = datetime.datetime.fromtimestamp(service.started, datetime.UTC).isoformat()
    return JSONResponse({"status": "ok", "model": service.name, "since": since})


async def metrics(service: Service, request: Request) -> Response:
    """Everything counted, for Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    message = f"there is no {request.method} {request.url.path[:100]}"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return JSONResponse(ApiError(status, message, code="unknown_route").body(), status, headers=headers)
