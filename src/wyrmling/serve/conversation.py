"""The wire contract of chat completions: messages, functions that may be called, and the form of the answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from wyrmling.serve.openai import Generation, Wire

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class TextPart(Wire):
    type: Literal["text"]
    text: str


class CalledFunction(Wire):
    """`arguments` is JSON in a text, as the model wrote it."""

    name: FunctionName
    arguments: str


class ToolCall(Wire):
    id: str = Field(min_length=1, max_length=64)
    type: Literal["function"] = "function"
    function: CalledFunction
    # Part of a streamed call that is sent back as it came.
    index: int | None = None


class Message(Wire):
    """One message of a chat. `developer` is another word for `system`."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    # What a client sends back when it returns an answer of this server.
    refusal: None = None
    function_call: None = None
    audio: None = None
    annotations: list[Any] | None = Field(default=None, max_length=0)

    @model_validator(mode="after")
    def _is_whole(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"content: a {self.role} message needs a text")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls: a {self.role} message calls no functions")
        if (self.tool_call_id is None) == (self.role == "tool"):
            raise ValueError("tool_call_id: belongs to messages of the role tool, which need it")
        return self

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates know it: newer clients say `developer` where templates say `system`."""
        given: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.text}
        if self.name is not None:
            given["name"] = self.name
        if self.tool_calls:
            given["tool_calls"] = [call.model_dump(exclude={"index"}) for call in self.tool_calls]
        if self.tool_call_id is not None:
            given["tool_call_id"] = self.tool_call_id
        return given


class FunctionOffer(Wire):
    """strict: calls have arguments by the schema `parameters`; without it they are the model's own."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    type: Literal["function"]
    function: FunctionOffer

    def for_template(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, exclude={"function": {"strict"}})


class ChosenFunction(Wire):
    name: FunctionName


class ToolChoice(Wire):
    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(Wire):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema", default_factory=lambda: {"type": "object"})
    # Answers are always held to the schema.
    strict: bool | None = None


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _belongs(self) -> ResponseFormat:
        if (self.json_schema is None) == (self.type == "json_schema"):
            raise ValueError('json_schema: belongs to the type "json_schema", which needs it')
        return self

    @property
    def wanted(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None for free text."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class ChatRequest(Generation):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    # Values that ask for nothing.
    store: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None
    # Hints to another provider's machinery.
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prediction: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None

    @model_validator(mode="after")
    def _can_answer(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only allowed when logprobs is true")
        if self.max_tokens == 0:
            raise ValueError("max_tokens: must be at least 1")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("tools: two functions have the same name")
        if isinstance(self.tool_choice, ToolChoice) and self.tool_choice.function.name not in names:
            raise ValueError("tool_choice: names a function that is not among tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice: required, but there are no tools")
        if self.must_call and self.response_format is not None and self.response_format.type != "text":
            raise ValueError("response_format: can't be had together with a call that is required")
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def offered(self) -> list[Tool]:
        """The functions that the prompt tells of."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def callable(self) -> list[FunctionOffer]:
        """The functions that the answer may call."""
        chosen = self.tool_choice.function.name if isinstance(self.tool_choice, ToolChoice) else None
        return [tool.function for tool in self.offered if chosen in (None, tool.function.name)]

    @property
    def must_call(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, ToolChoice)
