"""/v1/classify and /v1/tag: texts in, labels with probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from wyrmling.core.errors import BadInput
from wyrmling.serve import labels
from wyrmling.serve.engine import Labelled
from wyrmling.serve.labels import Row
from wyrmling.serve.openai import ApiError, ClassifyRequest, TagRequest, too_long
from wyrmling.serve.responses import Body, Classification, Tagging, count
from wyrmling.serve.service import Asked, Service, read, unless_gone

Item = TypeVar("Item")
# Row, word -> probabilities.
Found = list[list[list[float]]]


async def classify(service: Service, request: Request) -> Response:
    """The label of each text, with the probabilities of all labels."""
    body = await read(ClassifyRequest, request)
    service = await service.of(body.model, "classify", "classify", request.state.caller)
    loaded = service.loaded
    rows = _rows(body.texts, lambda text: labels.text_row(loaded.tokenizer, text, loaded.context))
    asked = Asked(service, "classify", "cls", request.state.caller, body.texts)

    def answer(found: Found) -> Body:
        data = [
            labels.classified(loaded.labels, index, words[0], several=loaded.several)
            for index, words in enumerate(found)
        ]
        asked.labels = [one.label for one in data]
        asked.confidence = sum(one.probabilities[one.label] for one in data) / len(data)
        return Classification(
            id=asked.id,
            object="list",
            created=asked.created,
            model=service.name,
            data=data,
            usage=count(sum(len(row.tokens) for row in rows), 0),
        )

    return await _answer(request, asked, rows, answer)


async def tag(service: Service, request: Request) -> Response:
    """The tag of each word, with its probability, and the entities that the tags make."""
    body = await read(TagRequest, request)
    service = await service.of(body.model, "tag", "tag", request.state.caller)
    loaded = service.loaded
    texts = [labels.split_words(text) if isinstance(text, str) else text for text in body.texts]
    rows = _rows(texts, lambda words: labels.words_row(loaded.tokenizer, words, loaded.context))
    asked = Asked(service, "tag", "tag", request.state.caller, texts)

    def answer(found: Found) -> Body:
        return Tagging(
            id=asked.id,
            object="list",
            created=asked.created,
            model=service.name,
            data=[
                labels.tagged(loaded.tags, index, row.words, words)
                for index, (row, words) in enumerate(zip(rows, found, strict=True))
            ],
            usage=count(sum(len(row.tokens) for row in rows), 0),
        )

    return await _answer(request, asked, rows, answer)


def _rows(items: Sequence[Item], row_of: Callable[[Item], Row]) -> list[Row]:
    """The row of each input. Raises ApiError 400 that names the input."""
    rows = []
    for index, item in enumerate(items):
        try:
            rows.append(row_of(item))
        except labels.TooLong as error:
            raise too_long(error.tokens, error.context, f"input.{index}") from None
        except BadInput as error:
            raise ApiError(400, f"{error.what}; {error.fix}", code="invalid_value", param=f"input.{index}") from None
    return rows


async def _answer(
    request: Request, asked: Asked[Service], rows: list[Row], answer: Callable[[Found], Body]
) -> Response:
    tokens = sum(len(row.tokens) for row in rows)
    asked.items = len(rows)
    asked.ticket = asked.service.engine.label(rows, asked.deliver)

    async def work() -> Response:
        found: dict[int, Any] = {}
        async for events in asked.events():
            for event in events:
                if isinstance(event, ApiError):
                    asked.abandon(prompt_tokens=tokens, completion_tokens=0, finish="error")
                    raise event
                if isinstance(event, Labelled):
                    found[event.row] = event.distributions
            if len(found) == len(rows):
                break
        body = answer([found[index] for index in range(len(rows))]).json_bytes()
        await asked.record(prompt_tokens=tokens, completion_tokens=0, finish="stop", answer=body.decode())
        return asked.answered(body)

    return await unless_gone(request, work(), lambda: asked.abandon(prompt_tokens=tokens, completion_tokens=0))
