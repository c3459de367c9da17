"""The same answers in two dialects of the API: completions and chat completions, whole or in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from wyrmling.model.generate import Token
from wyrmling.serve.answers import Piece
from wyrmling.serve.calls import Call, CallScan
from wyrmling.serve.responses import (
    AnswerMessage,
    Body,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChunkChoice,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Delta,
    FinishReason,
    TokenLogprob,
    ToolCall,
    TopLogprob,
    UsageCount,
)
from wyrmling.serve.spelling import Offsets, Spelling


@dataclass
class Whole:
    """All pieces of one choice so far. `prompt` is its echoed text, where that was asked for."""

    prompt: str = ""
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    end: Token | None = None
    """The token that ended it, which has no text. Completions list it, as harnesses that score texts expect."""
    finish: FinishReason | None = None
    count: int = 0
    prompt_scores: tuple[Token, ...] = ()
    first_token: int | None = None
    """The first token of an echoed prompt, when it is part of the text."""

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.count = max(self.count, piece.count)
        self.finish = piece.finish or self.finish
        if piece.is_end:
            self.end = piece.token
        elif piece.token is not None:
            self.tokens.append(piece.token)
        if piece.prompt_scores is not None:
            self.prompt_scores = piece.prompt_scores


@dataclass(frozen=True)
class Head:
    """What every body of one answer begins with."""

    id: str
    created: int
    model: str
    fingerprint: str

    @property
    def fields(self) -> dict[str, Any]:
        """These under the names of the wire."""
        return {"id": self.id, "created": self.created, "model": self.model, "system_fingerprint": self.fingerprint}


class Dialect(Protocol):
    """How an endpoint writes answers down."""

    def whole(self, head: Head, choices: Sequence[Whole], usage: UsageCount) -> Body: ...

    def opening(self, head: Head, choices: int) -> list[Body]: ...

    def chunk(self, head: Head, piece: Piece) -> list[Body]: ...

    def closing(self, head: Head, usage: UsageCount) -> Body: ...


def _counted(usage: UsageCount | None, in_chunks: bool) -> dict[str, Any]:
    """The key `usage`: left out where nothing is counted, null in chunks before the last where it was asked for."""
    return {"usage": usage} if usage is not None or in_chunks else {}


class CompletionDialect:
    """Plain text. logprobs: alternatives per token, None for no log-probabilities. usage_in_chunks: as asked for."""

    def __init__(self, spelling: Spelling, *, logprobs: int | None, usage_in_chunks: bool) -> None:
        self._spelling, self._logprobs, self._usage_in_chunks = spelling, logprobs, usage_in_chunks
        self._offsets: dict[int, Offsets] = {}

    def whole(self, head: Head, choices: Sequence[Whole], usage: UsageCount) -> Body:
        return self._body(
            head,
            [
                CompletionChoice(
                    index=index,
                    text=whole.prompt + whole.text,
                    logprobs=self._logprobs_of(whole),
                    finish_reason=whole.finish,
                )
                for index, whole in enumerate(choices)
            ],
            usage,
        )

    def opening(self, head: Head, choices: int) -> list[Body]:
        return []

    def chunk(self, head: Head, piece: Piece) -> list[Body]:
        logprobs = None
        if self._logprobs is not None:
            offsets = self._offsets.setdefault(piece.choice, Offsets(self._spelling))
            logprobs = self._listed([] if piece.token is None else [piece.token], offsets)
        elif not piece.text and piece.finish is None:
            return []
        choice = CompletionChoice(index=piece.choice, text=piece.text, logprobs=logprobs, finish_reason=piece.finish)
        return [self._body(head, [choice], None)]

    def closing(self, head: Head, usage: UsageCount) -> Body:
        return self._body(head, [], usage)

    def _body(self, head: Head, choices: list[CompletionChoice], usage: UsageCount | None) -> Completion:
        counted = _counted(usage, self._usage_in_chunks)
        return Completion(object="text_completion", choices=choices, **head.fields, **counted)

    def _logprobs_of(self, whole: Whole) -> CompletionLogprobs | None:
        if self._logprobs is None:
            return None
        offsets = Offsets(self._spelling)
        found = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        if whole.first_token is not None:
            found.tokens.append(self._spelling.readable(whole.first_token))
            found.token_logprobs.append(None)
            found.top_logprobs.append(None)
            found.text_offset.append(offsets.next(whole.first_token))
        end = [] if whole.end is None else [whole.end]
        rest = self._listed([*whole.prompt_scores, *whole.tokens, *end], offsets)
        return CompletionLogprobs(
            tokens=found.tokens + rest.tokens,
            token_logprobs=found.token_logprobs + rest.token_logprobs,
            top_logprobs=found.top_logprobs + rest.top_logprobs,
            text_offset=found.text_offset + rest.text_offset,
        )

    def _listed(self, tokens: Sequence[Token], offsets: Offsets) -> CompletionLogprobs:
        return CompletionLogprobs(
            tokens=[self._spelling.readable(token.id) for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            # The token itself is always among the alternatives, so there may be one more than asked for.
            top_logprobs=[
                {self._spelling.readable(other): logprob for other, logprob in (*token.top, (token.id, token.logprob))}
                for token in tokens
            ],
            text_offset=[offsets.next(token.id) for token in tokens],
        )


class ChatDialect:
    """Messages. logprobs: whether to report log-probabilities. usage_in_chunks: as asked for.

    functions   names of those that the answer may call; with none, everything is text
    """

    def __init__(
        self, spelling: Spelling, *, logprobs: bool, usage_in_chunks: bool, functions: Sequence[str] = ()
    ) -> None:
        self._spelling, self._logprobs, self._usage_in_chunks = spelling, logprobs, usage_in_chunks
        self._functions = functions
        self._scans: dict[int, CallScan] = {}

    def whole(self, head: Head, choices: Sequence[Whole], usage: UsageCount) -> Body:
        return ChatCompletion(
            **head.fields,
            object="chat.completion",
            choices=[self._choice(index, whole) for index, whole in enumerate(choices)],
            usage=usage,
        )

    def _choice(self, index: int, whole: Whole) -> ChatChoice:
        scan = CallScan(self._functions)
        text = whole.text if not self._functions else scan.push(whole.text)[0] + scan.finish()[0]
        message = AnswerMessage(role="assistant", content=text, refusal=None)
        if scan.calls:
            # The white space between calls is no answer.
            message.content = text.strip() or None
            message.tool_calls = [_tool_call(call) for call in scan.calls]
        finish = _finish(whole.finish, scan) or "length"
        return ChatChoice(index=index, message=message, logprobs=self._scores(whole.tokens), finish_reason=finish)

    def opening(self, head: Head, choices: int) -> list[Body]:
        return [
            self._body(
                head,
                [
                    ChunkChoice(
                        index=index, delta=Delta(role="assistant", content=""), logprobs=None, finish_reason=None
                    )
                ],
                None,
            )
            for index in range(choices)
        ]

    def chunk(self, head: Head, piece: Piece) -> list[Body]:
        tokens = [] if piece.token is None or piece.is_end else [piece.token]
        text, calls, finish = self._parts(piece)
        deltas = [Delta(content=text)] if text or (self._logprobs and tokens) else []
        deltas += [Delta(tool_calls=[call]) for call in calls]
        scores = self._scores(tokens)
        choices = [
            ChunkChoice(index=piece.choice, delta=delta, logprobs=None if number else scores, finish_reason=None)
            for number, delta in enumerate(deltas)
        ]
        if finish is not None:
            choices.append(ChunkChoice(index=piece.choice, delta=Delta(), logprobs=None, finish_reason=finish))
        return [self._body(head, [choice], None) for choice in choices]

    def _parts(self, piece: Piece) -> tuple[str, list[ToolCall], FinishReason | None]:
        """What a piece makes certain: text, whole calls, and why the answer is over."""
        if not self._functions:
            return piece.text, [], piece.finish
        scan = self._scans.setdefault(piece.choice, CallScan(self._functions))
        text, calls = scan.push(piece.text)
        if piece.finish is not None:
            rest, last = scan.finish()
            text, calls = text + rest, calls + last
        # Between calls and after the last there is only white space, which is no answer.
        text = "" if scan.calls and not text.strip() else text
        first = len(scan.calls) - len(calls)
        numbered = [_tool_call(call, index) for index, call in enumerate(calls, first)]
        return text, numbered, _finish(piece.finish, scan)

    def closing(self, head: Head, usage: UsageCount) -> Body:
        return self._body(head, [], usage)

    def _body(self, head: Head, choices: list[ChunkChoice], usage: UsageCount | None) -> ChatChunk:
        counted = _counted(usage, self._usage_in_chunks)
        return ChatChunk(object="chat.completion.chunk", choices=choices, **head.fields, **counted)

    def _scores(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        if not self._logprobs:
            return None
        return ChatLogprobs(content=[self._score(token) for token in tokens], refusal=None)

    def _score(self, token: Token) -> TokenLogprob:
        return TokenLogprob(
            token=self._spelling.shown(token.id),
            bytes=list(self._spelling.spelled(token.id)),
            logprob=token.logprob,
            top_logprobs=[
                TopLogprob(
                    token=self._spelling.shown(other), bytes=list(self._spelling.spelled(other)), logprob=logprob
                )
                for other, logprob in token.top
            ],
        )


def _finish(finish: FinishReason | None, scan: CallScan) -> FinishReason | None:
    """Why an answer is over; one that ended by itself with calls waits for what they give back."""
    return "tool_calls" if finish == "stop" and scan.calls else finish


def _tool_call(call: Call, index: int | None = None) -> ToolCall:
    """A call as it is sent; `index` in streams only."""
    function = CalledFunction(name=call.name, arguments=call.arguments)
    numbered = {} if index is None else {"index": index}
    return ToolCall(id=call.id, type="function", function=function, **numbered)
