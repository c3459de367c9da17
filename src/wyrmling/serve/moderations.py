"""/v1/moderations: insults by a list of words, and private data by pattern. No model looks at the text."""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import Annotated

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from wyrmling.data import insults, pii
from wyrmling.serve.openai import MAX_INPUTS, ApiError, Harmless
from wyrmling.serve.responses import Moderation, Moderations, PrivateData
from wyrmling.serve.service import Front, read

# Answers say that they come from it. A request that names another moderation model wants what is not here.
MODEL = "word-list"
# What the word list can show; the other categories of the API are not looked at.
CHECKED = "harassment"
CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


class ModerationRequest(Harmless):
    model: str | None = None
    input: str | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


async def moderations(service: Front, request: Request) -> Response:
    """What each text holds. Nothing is kept of it."""
    body = await read(ModerationRequest, request)
    if body.model not in (None, MODEL):
        message = f"there is no moderation model {body.model[:100]!r} here; leave model out, or name {MODEL!r}"
        raise ApiError(404, message, code="model_not_found", param="model")
    results = await run_in_threadpool(lambda: [moderation(text) for text in body.texts])
    answer = Moderations(id=f"modr-{secrets.token_hex(12)}", model=MODEL, results=results, categories_checked=[CHECKED])
    return Response(answer.json_bytes(), media_type="application/json")


def moderation(text: str) -> Moderation:
    """Flagged when a word of the list is in the text. Private data is named beside it and flags nothing."""
    insulting = insults.has_word(text, _words())
    return Moderation(
        flagged=insulting,
        categories={name: name == CHECKED and insulting for name in CATEGORIES},
        category_scores={name: float(name == CHECKED and insulting) for name in CATEGORIES},
        category_applied_input_types={name: ["text"] if name == CHECKED else [] for name in CATEGORIES},
        private_data=[PrivateData(type=one.type, start=one.start, end=one.end) for one in pii.find(text)],
    )


@lru_cache
def _words() -> frozenset[str]:
    return insults.words(None)
