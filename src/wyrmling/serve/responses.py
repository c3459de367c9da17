"""The shapes of the answers on the wire. Keys that are None are sent as null; keys never set are left out."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

FinishReason = Literal["stop", "length", "tool_calls"]


class Body(BaseModel):
    def json_bytes(self) -> bytes:
        return self.model_dump_json(exclude_unset=True).encode()


class PromptDetails(Body):
    cached_tokens: int


class UsageCount(Body):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None


def count(prompt_tokens: int, completion_tokens: int, *, cached_tokens: int | None = None) -> UsageCount:
    """cached_tokens: of the prompt, not read again. None: nothing could be, and it is not spoken of."""
    used = UsageCount(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )
    if cached_tokens is not None:
        used.prompt_tokens_details = PromptDetails(cached_tokens=cached_tokens)
    return used


class ModelCard(Body):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Body):
    object: Literal["list"]
    data: list[ModelCard]


# completions


class CompletionLogprobs(Body):
    """Aligned lists, one entry per token; None for the first token of a prompt, which nothing foretold."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Body):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(Body):
    """A completion, or one chunk of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: UsageCount | None = None


# chat


class TopLogprob(Body):
    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Body):
    content: list[TokenLogprob]
    refusal: None


class CalledFunction(Body):
    name: str
    arguments: str


class ToolCall(Body):
    """A call of a function. `index` is its number in a stream."""

    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None


class AnswerMessage(Body):
    """`content` is None when the answer is nothing but calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Body):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Body):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageCount


class Delta(Body):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChunkChoice(Body):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Body):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: UsageCount | None = None


# embeddings


class Embedding(Body):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Body):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Body):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


# moderations


class PrivateData(Body):
    """Where private data of a type is: `start` inclusive, `end` exclusive, in characters. A key of our own."""

    type: str
    start: int
    end: int


class Moderation(Body):
    """An empty list of applied input types says that a category was not looked at."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]
    private_data: list[PrivateData]


class Moderations(Body):
    """`categories_checked` is a key of our own: the categories that are looked at at all."""

    id: str
    model: str
    results: list[Moderation]
    categories_checked: list[str]


# classify, tag, feedback: our own


class Classified(Body):
    index: int
    label: str
    labels: list[str]
    probabilities: dict[str, float]


class Classification(Body):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Classified]
    usage: UsageCount


class Entity(Body):
    """A named stretch of words: `start` inclusive, `end` exclusive; probability is the least of its words'."""

    label: str
    text: str
    start: int
    end: int
    probability: float


class Tagged(Body):
    index: int
    words: list[str]
    tags: list[str]
    probabilities: list[float]
    entities: list[Entity]


class Tagging(Body):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Tagged]
    usage: UsageCount


class FeedbackReceipt(Body):
    id: str
    object: Literal["feedback"]
    answer_id: str
    created: str
