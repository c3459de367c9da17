"""/v1/embeddings: one vector per text, from the hidden states of any model."""

from __future__ import annotations

import base64
import time
from typing import Annotated, Literal

from pydantic import Field, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from wyrmling.model.embed import embed
from wyrmling.serve import threads
from wyrmling.serve.engine import Ticket
from wyrmling.serve.openai import MAX_INPUTS, ApiError, Harmless, TokenIds, too_long, unsupported
from wyrmling.serve.responses import Embedding, EmbeddingList, EmbeddingUsage
from wyrmling.serve.service import Asked, Service, read, unless_gone


class EmbeddingRequest(Harmless):
    model: str
    input: str | Annotated[list[str] | TokenIds | list[TokenIds], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _can_answer(self) -> EmbeddingRequest:
        if len(self.inputs) > MAX_INPUTS:
            raise ValueError(f"input: at most {MAX_INPUTS} texts are allowed")
        return self

    @property
    def inputs(self) -> list[str | list[int]]:
        """One entry per text, as text or token ids."""
        if isinstance(self.input, str):
            return [self.input]
        tokens = [item for item in self.input if isinstance(item, int)]
        return [tokens] if tokens else [item for item in self.input if not isinstance(item, int)]


async def embeddings(service: Service, request: Request) -> Response:
    """The vector of each text: length 1, so that the product of two is their cosine."""
    body = await read(EmbeddingRequest, request)
    service = await service.of(body.model, None, "embeddings", request.state.caller)
    width = service.loaded.model.config.width
    if body.dimensions not in (None, width):
        raise unsupported("dimensions", f"must be {width}, the width of this model, or be left out")
    documents = [_ids(service, index, text) for index, text in enumerate(body.inputs)]
    tokens = sum(len(ids) for ids in documents)
    asked = Asked(service, "embeddings", "embd", request.state.caller, body.inputs)

    async def work() -> Response:
        async with service.turns.mine():
            started = time.monotonic()
            vectors_SD = await run_in_threadpool(_embed, service, documents)
            asked.ticket = Ticket(asked.deliver, busy_seconds=time.monotonic() - started)
        service.metrics.prompt_tokens.inc(tokens)
        shown = [
            Embedding(object="embedding", index=index, embedding=_written(vector_D, body.encoding_format))
            for index, vector_D in enumerate(vectors_SD)
        ]
        usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
        answer = EmbeddingList(object="list", data=shown, model=service.name, usage=usage)
        await asked.record(prompt_tokens=tokens, completion_tokens=0, finish="stop", answer="")
        return asked.answered(answer.json_bytes())

    return await unless_gone(request, work(), lambda: asked.abandon(prompt_tokens=tokens, completion_tokens=0))


def _embed(service: Service, documents: list[list[int]]) -> Tensor:
    threads.choose(service.loaded.model.config, sum(map(len, documents)))
    with service.engine.applied(service.loaded.adapter):
        return embed(service.loaded.model, documents)


def _ids(service: Service, index: int, text: str | list[int]) -> list[int]:
    """The tokens of one input. Raises ApiError 400 that names the input."""
    loaded, param = service.loaded, f"input.{index}"
    ids = loaded.tokenizer.document(text) if isinstance(text, str) else text
    if not ids or text == "":
        raise ApiError(400, f"{param} is empty", code="invalid_value", param=param)
    if len(ids) > loaded.context:
        raise too_long(len(ids), loaded.context, param)
    if max(ids) >= loaded.model.config.vocab_size:
        highest = loaded.model.config.vocab_size - 1
        raise ApiError(400, f"{param}: token ids end at {highest}", code="invalid_value", param=param)
    return ids


def _written(vector_D: Tensor, encoding: str | None) -> list[float] | str:
    """A list of numbers, or the bytes of little-endian float32 in base64, which the official client asks for."""
    if encoding == "base64":
        return base64.b64encode(vector_D.numpy().astype("<f4").tobytes()).decode()
    numbers: list[float] = vector_D.tolist()
    return numbers
