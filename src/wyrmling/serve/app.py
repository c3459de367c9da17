"""The routes of the server."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wyrmling.core.reviews import Reviews
from wyrmling.feedback.ratings import UnknownAnswer, rate
from wyrmling.serve import embeddings, files, fine_tuning, generation, labelling, models, moderations, openapi, widget
from wyrmling.serve.access import AccessLog
from wyrmling.serve.guard import Guard
from wyrmling.serve.limits import Limits
from wyrmling.serve.metrics import CONTENT_TYPE
from wyrmling.serve.openai import ApiError, FeedbackRequest
from wyrmling.serve.responses import FeedbackReceipt
from wyrmling.serve.service import Front, Handler, Service, answering, read, sent_before
from wyrmling.serve.tracing import Tracing


async def feedback(service: Front, request: Request) -> Response:
    """Keep what a person says about an answer."""
    body = await read(FeedbackRequest, request)
    usage = await run_in_threadpool(service.store.find_usage, body.id)
    # A fine-tuned model that answered has labels of its own.
    loaded = None if usage is None else service.answered_by(usage.model_digest)
    try:
        kept = await run_in_threadpool(
            rate,
            service.store,
            body.id,
            rating=body.rating,
            correction=body.correction,
            comment=body.comment,
            preferred_over=body.preferred_over,
            item=body.item,
            prompt=body.prompt,
            user=body.user,
            key_id=request.state.caller.key_id,
            labels=loaded.labels if loaded is not None and loaded.job == "classify" else None,
            tags=loaded.tags if loaded is not None and loaded.job == "tag" else None,
            unless_since=sent_before(request),
        )
    except UnknownAnswer as error:
        raise ApiError(404, f"{error.what}; {error.fix}", code="answer_not_found", param=error.param) from None
    service.metrics.rated(kept.rating)
    receipt = FeedbackReceipt(id=kept.id, object="feedback", answer_id=kept.answer_id, created=kept.created)
    return Response(receipt.json_bytes(), media_type="application/json")


async def live(service: Front, request: Request) -> Response:
    """The process answers."""
    return JSONResponse({"status": "ok"})


async def ready(service: Service, request: Request) -> Response:
    """The model is loaded, gave the trained answers, and requests are taken."""
    if not service.engine.ready:
        raise ApiError(503, "the server is stopping", code="not_ready", kind="server_error")
    since = datetime.datetime.fromtimestamp(service.started, datetime.UTC).isoformat()
    found = service.loaded.found
    return JSONResponse({"status": "ok", "model": service.name, "version": found.version, "since": since})


async def metrics(service: Front, request: Request) -> Response:
    """Everything counted, for Prometheus, and the last look for drift."""
    if (drift := await run_in_threadpool(Reviews(service.store).last_drift)) is not None:
        service.metrics.drifted(drift)
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


async def described(service: Front, request: Request) -> Response:
    """This API as an OpenAPI document."""
    return JSONResponse(openapi.document(request.app.state.routes))


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    message = f"there is no {request.method} {request.url.path[:100]}"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return JSONResponse(ApiError(status, message, code="unknown_route").body(), status, headers=headers)


Routes = Sequence[tuple[str, str, Handler]]

ROUTES: Routes = (
    ("GET", "/v1/models", models.models),
    # Model names may hold slashes and colons.
    ("GET", "/v1/models/{model:path}", models.model),
    ("DELETE", "/v1/models/{model:path}", models.delete),
    ("POST", "/v1/completions", generation.completions),
    ("POST", "/v1/chat/completions", generation.chat_completions),
    ("POST", "/v1/embeddings", embeddings.embeddings),
    ("POST", "/v1/moderations", moderations.moderations),
    ("POST", "/v1/classify", labelling.classify),
    ("POST", "/v1/tag", labelling.tag),
    ("POST", "/v1/files", files.create),
    ("GET", "/v1/files", files.files),
    ("GET", "/v1/files/{file}", files.file),
    ("DELETE", "/v1/files/{file}", files.delete),
    ("GET", "/v1/files/{file}/content", files.content),
    ("POST", "/v1/fine_tuning/jobs", fine_tuning.create),
    ("GET", "/v1/fine_tuning/jobs", fine_tuning.jobs),
    ("GET", "/v1/fine_tuning/jobs/{job}", fine_tuning.job),
    ("GET", "/v1/fine_tuning/jobs/{job}/events", fine_tuning.events),
    ("GET", "/v1/fine_tuning/jobs/{job}/checkpoints", fine_tuning.checkpoints),
    ("POST", "/v1/fine_tuning/jobs/{job}/cancel", fine_tuning.cancel),
    ("POST", "/v1/fine_tuning/jobs/{job}/pause", fine_tuning.pause),
    ("POST", "/v1/fine_tuning/jobs/{job}/resume", fine_tuning.resume),
    ("POST", "/v1/feedback", feedback),
    ("GET", "/livez", live),
    ("GET", "/readyz", ready),
    ("GET", "/health", ready),
    ("GET", "/metrics", metrics),
    ("GET", "/openapi.json", described),
    ("GET", widget.PATH, widget.widget),
)


def create_app(
    service: Front, *, loopback: bool, log: AccessLog, routes: Routes = ROUTES, tracing: Tracing | None = None
) -> Guard:
    """The whole application behind its guard.

    routes     method, path and handler of each; handlers get the service
    loopback   True when only this machine can connect; then keys are asked for only once one was made
    log        gets one line per request
    tracing    gets a span of each; None: no traces
    """
    handlers: dict[str, dict[str, Handler]] = {}
    for method, path, handler in routes:
        handlers.setdefault(path, {})[method] = handler
    made = [Route(path, answering(by_method), methods=list(by_method)) for path, by_method in handlers.items()]
    app = Starlette(routes=made, exception_handlers={HTTPException: _no_such_route})
    app.state.service, app.state.routes = service, routes
    origins = frozenset(service.settings.origins)
    return Guard(app, service.store, loopback, service.metrics, Limits(service.store), log, origins, tracing)
