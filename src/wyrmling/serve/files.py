"""/v1/files: uploads, which lie under their id; the name a client gives is only shown."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from wyrmling.core.store import now
from wyrmling.core.tables import File
from wyrmling.serve.openai import ApiError, unsupported
from wyrmling.serve.paging import limit_of, page_of, query_of
from wyrmling.serve.service import BODY_SECONDS, Service, sent_before, too_large, too_slow
from wyrmling.serve.workshop import Workshop, new_file_id

PURPOSES = ("fine-tune", "batch", "user_data", "evals", "assistants", "vision")
FIELDS = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")
LEAST_SECONDS, MOST_SECONDS = 3600, 30 * 24 * 3600
# Beside the file itself a form has a few short fields.
FORM_BYTES = 10_000
MAX_NAME = 1000
CHUNK_BYTES = 1 << 20


async def create(service: Service, request: Request) -> Response:
    """Keep an uploaded file."""
    workshop = service.need_workshop()
    form = await _form(service, request)
    try:
        upload, purpose, expires = _checked(form)
        file = await run_in_threadpool(_keep, workshop, upload, purpose, expires, request)
    finally:
        await form.close()
    return JSONResponse(wire(file))


async def files(service: Service, request: Request) -> Response:
    """The files of the caller, newest first."""
    uploads = service.need_workshop().uploads
    query = query_of(request, ("purpose", "limit", "order", "after"))
    if query.get("order", "desc") not in ("asc", "desc"):
        raise ApiError(400, "order: must be asc or desc", code="invalid_value", param="order")
    limit = limit_of(query, default=10_000, most=10_000)
    return await run_in_threadpool(
        page_of,
        lambda: uploads.page(
            request.state.caller.key_id,
            purpose=query.get("purpose"),
            after=query.get("after"),
            limit=limit,
            newest_first=query.get("order", "desc") == "desc",
        ),
        wire,
    )


async def file(service: Service, request: Request) -> Response:
    """What is known of a file."""
    return JSONResponse(wire(_find(service, request)))


async def content(service: Service, request: Request) -> Response:
    """The bytes of a file."""
    path = service.need_workshop().uploads.path(_find(service, request).id)
    return FileResponse(path, media_type="application/octet-stream", headers={"content-disposition": "attachment"})


async def delete(service: Service, request: Request) -> Response:
    """Remove a file."""
    found = _find(service, request)
    await run_in_threadpool(service.need_workshop().uploads.delete, found)
    return JSONResponse({"id": found.id, "object": "file", "deleted": True})


def wire(file: File) -> dict[str, Any]:
    """The file as the API shows it."""
    shown = {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": seconds_of(file.created),
        "filename": file.filename,
        "purpose": file.purpose,
        # Clients wait for this word before they use a file; there is nothing to wait for here.
        "status": "processed",
        "status_details": None,
    }
    return shown if file.expires is None else shown | {"expires_at": seconds_of(file.expires)}


def seconds_of(time: str) -> int:
    """A time of the database as seconds since 1970."""
    return int(datetime.fromisoformat(time).timestamp())


def _find(service: Service, request: Request) -> File:
    found = service.need_workshop().uploads.find(request.path_params["file"], request.state.caller.key_id)
    if found is None:
        raise ApiError(404, "there is no such file", code="file_not_found", param="id")
    return found


async def _form(service: Service, request: Request) -> FormData:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "the body must be multipart/form-data", code="invalid_content_type")
    limit = service.settings.max_upload_bytes

    async def body() -> AsyncGenerator[bytes, None]:
        size, chunks = 0, request.stream()
        while True:
            try:
                chunk = await asyncio.wait_for(anext(chunks), BODY_SECONDS)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise too_slow(BODY_SECONDS) from None
            if (size := size + len(chunk)) > limit + FORM_BYTES:
                raise too_large(limit)
            yield chunk

    try:
        return await MultiPartParser(request.headers, body(), max_files=1, max_fields=8, max_part_size=1000).parse()
    except MultiPartException as error:
        raise ApiError(400, f"the form can't be read: {error.message}", code="invalid_form") from None
    except AssertionError:
        raise ApiError(
            501,
            'files can\'t be taken here until the server has: pip install "wyrmling[files]"',
            code="not_installed",
            kind="server_error",
            headers={"x-should-retry": "false"},
        ) from None


def _checked(form: FormData) -> tuple[UploadFile, str, str | None]:
    for name in form:
        if name not in FIELDS:
            raise unsupported(name[:100])
    upload, purpose = form.get("file"), form.get("purpose")
    if not isinstance(upload, UploadFile):
        raise ApiError(400, "file is missing", code="missing_required_parameter", param="file")
    if purpose not in PURPOSES:
        raise ApiError(400, f"purpose: must be one of {', '.join(PURPOSES)}", code="invalid_value", param="purpose")
    return upload, str(purpose), _expiry(form)


def _expiry(form: FormData) -> str | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    number = int(seconds) if isinstance(seconds, str) and seconds.isascii() and seconds[:9].isdigit() else 0
    if anchor != "created_at" or not LEAST_SECONDS <= number <= MOST_SECONDS:
        raise ApiError(
            400,
            f"expires_after: anchor must be created_at, and seconds from {LEAST_SECONDS} to {MOST_SECONDS}",
            code="invalid_value",
            param="expires_after",
        )
    return (datetime.now(UTC) + timedelta(seconds=number)).isoformat(timespec="microseconds")


def _keep(workshop: Workshop, upload: UploadFile, purpose: str, expires: str | None, request: Request) -> File:
    uploads, key_id = workshop.uploads, request.state.caller.key_id
    uploads.folder.mkdir(mode=0o700, exist_ok=True)
    file_id = new_file_id()
    path = uploads.path(file_id)
    try:
        with path.open("xb") as target:
            size, sha256 = _copy(upload.file, target)
        name = "".join(sign for sign in upload.filename or "upload" if sign.isprintable())[:MAX_NAME]
        since = sent_before(request)
        if since is not None and (same := uploads.same(sha256, name, purpose, key_id, since)) is not None:
            path.unlink()
            return same
        file = File(file_id, key_id, name, purpose, size, sha256, expires, now())
        uploads.add(file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return file


def _copy(source: BinaryIO, target: BinaryIO) -> tuple[int, str]:
    """The number of bytes and their sha256, once they are on the disk."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        size += target.write(chunk)
    target.flush()
    os.fsync(target.fileno())
    return size, digest.hexdigest()
