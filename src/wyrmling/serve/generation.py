"""/v1/completions and /v1/chat/completions: from a request to questions, and from pieces to one body or a stream."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from wyrmling.model.sampling import Sampling
from wyrmling.serve import structured
from wyrmling.serve.answers import Piece, Question, for_choice
from wyrmling.serve.conversation import ChatRequest
from wyrmling.serve.dialects import ChatDialect, CompletionDialect, Dialect, Head, Whole
from wyrmling.serve.openai import ApiError, CompletionRequest, Generation, too_long
from wyrmling.serve.responses import UsageCount, count
from wyrmling.serve.service import Asked, Service, internal_error, read, unless_gone
from wyrmling.serve.spelling import Spelling

# Proxies close a connection that is silent for long; a comment line keeps it open and clients skip it.
KEEP_ALIVE_SECONDS = 15.0

_log = logging.getLogger("wyrmling.serve")


@dataclass(frozen=True)
class Job:
    """A request that was understood. `prompt_tokens` counts each prompt once, however many answers it gets."""

    asked: Asked[Service]
    questions: Sequence[Question]
    choices: Sequence[Whole]
    dialect: Dialect
    prompt_tokens: int
    wants_usage: bool
    cached: dict[int, int] = field(default_factory=dict)
    """Per choice how many tokens of its prompt did not have to be read."""

    @property
    def head(self) -> Head:
        service = self.asked.service
        return Head(self.asked.id, self.asked.created, service.name, service.fingerprint)

    @property
    def finished(self) -> bool:
        return all(choice.finish is not None for choice in self.choices)

    @property
    def completion_tokens(self) -> int:
        return sum(choice.count for choice in self.choices)

    @property
    def usage(self) -> UsageCount:
        return count(self.prompt_tokens, self.completion_tokens, cached_tokens=self.cached_tokens)

    @property
    def cached_tokens(self) -> int:
        """As `prompt_tokens`: each prompt once."""
        of_prompt: dict[int, int] = {}
        for question in self.questions:
            known = of_prompt.get(id(question.prompt), 0)
            of_prompt[id(question.prompt)] = max(known, self.cached.get(question.choice, 0))
        return sum(of_prompt.values())

    def start(self) -> None:
        self.asked.ticket = self.asked.service.engine.ask(self.questions, self.asked.deliver)

    async def record(self) -> None:
        cut_off = any(choice.finish == "length" for choice in self.choices)
        if any(question.sampling is not None and question.sampling.grammar is not None for question in self.questions):
            # The grammar keeps the form; only an answer that is cut off breaks it.
            self.asked.formatted = not cut_off
        await self.asked.record(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            finish="length" if cut_off else "stop",
            answer="\n".join(choice.text for choice in self.choices),
        )

    def abandon(self, finish: str = "abort") -> None:
        self.asked.abandon(prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens, finish=finish)


async def completions(service: Service, request: Request) -> Response:
    """Continue a prompt, several prompts, or only score them (`echo`, `logprobs`, `max_tokens: 0`)."""
    body = await read(CompletionRequest, request)
    service = await service.of(body.model, "generate", "completions", request.state.caller)
    tokenizer, n = service.loaded.tokenizer, body.n or 1
    questions: list[Question] = []
    choices: list[Whole] = []
    prompt_tokens = 0
    for prompt in body.prompts:
        given_ids = isinstance(prompt, list)
        ids = prompt if isinstance(prompt, list) else tokenizer.prompt(prompt)
        only_score = body.max_tokens == 0
        _check_prompt(service, ids, "prompt", room=0 if only_score else 1)
        prompt_tokens += len(ids)
        sampling = None if only_score else _sampling(service, body, body.max_tokens, body.logprobs or 0, len(ids))
        score_prompt = only_score or (bool(body.echo) and body.logprobs is not None)
        # The token that opens a text is ours, not the client's: it is not echoed. Token ids are taken as they are.
        opened = not given_ids and tokenizer.bos_id is not None
        echoed = tokenizer.decode(ids) if body.echo else ""
        for choice in range(n):
            choices.append(Whole(prompt=echoed, first_token=None if opened or not score_prompt else ids[0]))
            questions.append(
                Question(
                    choice=len(questions),
                    prompt=ids,
                    sampling=None if sampling is None else for_choice(sampling, choice),
                    stops=body.stops,
                    score_prompt=score_prompt,
                    top_logprobs=body.logprobs or 0,
                    adapter=service.loaded.adapter,
                    owner=request.state.caller.key_id or "",
                )
            )
    dialect = CompletionDialect(
        Spelling(tokenizer), logprobs=body.logprobs, usage_in_chunks=bool(body.stream) and body.wants_usage
    )
    asked = Asked(service, "completions", "cmpl", request.state.caller, body.prompt)
    return await _answer(request, Job(asked, questions, choices, dialect, prompt_tokens, body.wants_usage), body.stream)


async def chat_completions(service: Service, request: Request) -> Response:
    """Answer a conversation."""
    body = await read(ChatRequest, request)
    service = await service.of(body.model, "generate", "chat/completions", request.state.caller)
    messages = [message.for_template() for message in body.messages]
    tools = [tool.for_template() for tool in body.offered]
    ids = service.loaded.prompt(messages, tools)
    _check_prompt(service, ids, "messages", room=1)
    top = body.top_logprobs or 0
    sampling = _sampling(service, body, body.token_limit, top, len(ids))
    sampling = replace(sampling, grammar=await run_in_threadpool(_grammar, service, body))
    n = body.n or 1
    questions = [
        Question(
            choice,
            ids,
            for_choice(sampling, choice),
            body.stops,
            top_logprobs=top,
            adapter=service.loaded.adapter,
            owner=request.state.caller.key_id or "",
        )
        for choice in range(n)
    ]
    dialect = ChatDialect(
        Spelling(service.loaded.tokenizer),
        logprobs=bool(body.logprobs),
        usage_in_chunks=bool(body.stream) and body.wants_usage,
        functions=[function.name for function in body.callable],
    )
    asked = Asked(service, "chat", "chatcmpl", request.state.caller, messages)
    job = Job(asked, questions, [Whole() for _ in questions], dialect, len(ids), body.wants_usage)
    return await _answer(request, job, body.stream)


def _grammar(service: Service, body: ChatRequest) -> structured.Form | None:
    """The form that the answer must have; None for free text."""
    tokenizer, tokens = service.loaded.tokenizer, service.loaded.tokens
    if body.must_call or any(function.strict for function in body.callable):
        functions = [function.model_dump() for function in body.callable]
        return structured.of_calls(functions, tokenizer, tokens, must_call=body.must_call)
    schema = body.response_format.wanted if body.response_format is not None else None
    return None if schema is None else structured.of_schema(schema, tokenizer, tokens)


def _check_prompt(service: Service, ids: Sequence[int], param: str, *, room: int) -> None:
    """Raises ApiError 400 for a prompt that the decoder would refuse."""
    if not ids:
        raise ApiError(400, f"{param} is empty", code="invalid_value", param=param)
    if len(ids) + room > service.loaded.context:
        raise too_long(len(ids), service.loaded.context, param)
    highest = service.loaded.model.config.vocab_size
    if max(ids) >= highest:
        raise ApiError(400, f"{param}: token id {max(ids)} is not below {highest}", code="invalid_value", param=param)


def _sampling(service: Service, body: Generation, limit: int | None, top_logprobs: int, prompt_length: int) -> Sampling:
    """The sampling a request asks for; what it leaves open is the default of the API, or of this server."""
    known = service.loaded.tokens
    bias = {int(token): value for token, value in (body.logit_bias or {}).items() if len(token) < 10}
    if len(bias) < len(body.logit_bias or {}) or any(token >= known for token in bias):
        raise ApiError(400, f"logit_bias: token ids end at {known - 1}", code="invalid_value", param="logit_bias")
    wanted = service.settings.max_tokens if limit is None else limit
    return Sampling(
        max_tokens=min(wanted, service.loaded.context - prompt_length),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=body.top_k or None,
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=bias,
        # A generator takes 64 bits without a sign.
        seed=None if body.seed is None else body.seed % 2**63,
        stop_ids=frozenset([*service.loaded.tokenizer.end_ids, *(body.stop_token_ids or ())]),
        top_logprobs=top_logprobs,
    )


async def _answer(request: Request, job: Job, stream: bool | None) -> Response:
    job.asked.items = len(job.choices)
    job.start()
    if not stream:
        return await unless_gone(request, _whole(job), job.abandon)
    return StreamingResponse(
        _stream(job, request.state.caller.request_id),
        media_type="text/event-stream",
        # nginx would collect the stream before it passes it on.
        headers={"x-accel-buffering": "no"},
    )


async def _whole(job: Job) -> Response:
    async for events in job.asked.events():
        _take(job, events)
        if job.finished:
            break
    await job.record()
    body = job.dialect.whole(job.head, job.choices, job.usage)
    return job.asked.answered(body.json_bytes())


def _take(job: Job, events: Sequence[object]) -> None:
    """Add pieces to their choices. Raises ApiError when the engine says that the request failed."""
    for event in events:
        if isinstance(event, ApiError):
            job.abandon("error")
            raise event
        if isinstance(event, Piece):
            job.choices[event.choice].add(event)
            if event.token is not None and event.token.cached:
                job.cached[event.choice] = event.token.cached


async def _stream(job: Job, request_id: str) -> AsyncIterator[bytes]:
    """Server-sent events. A failure after the headers is an event too: a stream that just ends would look complete."""
    try:
        for body in job.dialect.opening(job.head, len(job.choices)):
            yield _event(body.json_bytes())
        async for events in job.asked.events(patience_seconds=KEEP_ALIVE_SECONDS):
            if not events:
                yield b": keep-alive\n\n"
            _take(job, events)
            for event in events:
                if isinstance(event, Piece):
                    for body in job.dialect.chunk(job.head, event):
                        yield _event(body.json_bytes())
            if job.finished:
                break
        await job.record()
        if job.wants_usage:
            yield _event(job.dialect.closing(job.head, job.usage).json_bytes())
        yield _event(b"[DONE]")
    except ApiError as error:
        yield _event(error.json_bytes())
    except Exception:
        _log.exception("%s stream", request_id)
        yield _event(internal_error(request_id).json_bytes())
    finally:
        if not job.asked.recorded:
            job.abandon()


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
