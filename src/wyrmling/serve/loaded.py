"""A model ready to answer: found by path or registry name, read once, with its tokenizer and what it is for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from wyrmling.core import functions
from wyrmling.core.errors import BadInput, UsageError
from wyrmling.core.store import Store, folder_digest
from wyrmling.model import folder as model_folder
from wyrmling.model.few_shot import Turns, turns_of
from wyrmling.model.heads import Model
from wyrmling.tokenizer import chat
from wyrmling.tokenizer.tokenizer import Tokenizer

Job = Literal["generate", "classify", "tag", "embed"]
# A model that fills in hidden tokens answers nothing, but its hidden states can be pooled.
_JOBS: dict[str, Job] = {
    "next": "generate", "classes": "classify", "tags": "tag", "embed": "embed", "masked": "embed",
}  # fmt: skip
_DOES: dict[Job, tuple[str, str]] = {
    "generate": ("generates text", "use chat or completions"),
    "classify": ("classifies texts", "use classify"),
    "tag": ("tags words", "use tag"),
    "embed": ("only embeds texts", "use embeddings, or train a classify or tag step on top of it"),
}
_ASKS: dict[Job, tuple[str, dict[str, Any]]] = {
    "classify": ("classify", {"input": "your text"}),
    "tag": ("tag", {"input": "your text"}),
    "embed": ("embeddings", {"input": "your text"}),
    "generate": ("completions", {"prompt": "Once upon a time", "max_tokens": 64}),
}


@dataclass(frozen=True)
class Found:
    """A model folder and the name it is served under. `digest` identifies its bytes; `version` is None for a path."""

    name: str
    folder: Path
    digest: str
    version: int | None = None


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    chat     whether it learned its chat template
    ours     whether it was trained here, and so knows functions in the form of our training rows
    adapter  which of the model's adapters is meant. None: the model itself
    """

    found: Found
    model: Model
    tokenizer: Tokenizer
    job: Job
    context: int
    labels: tuple[str, ...]
    tags: tuple[str, ...]
    chat: bool
    ours: bool = True
    turns: Turns | None = None
    """What a few-shot model reads before each conversation."""
    adapter: str | None = None
    several: bool = False
    """A text may have several of the labels."""

    @property
    def tokens(self) -> int:
        """Ids that may be drawn; a padded vocabulary has more."""
        return self.model.config.tokens or self.model.config.vocab_size

    def need(self, job: Job, endpoint: str) -> None:
        """Raises UsageError when this model is for another job."""
        if self.job != job:
            does, instead = _DOES[self.job]
            raise UsageError(f"{self.found.name} {does}, so {endpoint} can't use it", fix=instead)

    @property
    def example(self) -> tuple[str, dict[str, Any]]:
        """A route and a request that this model answers."""
        if self.job == "generate" and self.chat:
            return "chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}
        return _ASKS[self.job]

    def prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The tokens of a conversation for the model to go on from.

        tools   functions that the answer may call
        A model that never learned its chat template would only be confused by it: it continues the last user message.
        Raises   BadInput when the template refuses the messages or has no place for functions, or there is no user
                 message to go on from
        """
        if self.turns is not None:
            # Half of the context at most is for what is shown; the rest is for the conversation and the answer.
            messages = list(itertools.chain(*self.turns.shown(messages, self._length, self.context // 2)))
        if self.chat and self.ours:
            return chat.render(self.tokenizer, functions.with_offer(messages, tools), add_generation_prompt=True)[0]
        if tools and not (self.chat and chat.takes_tools(self.tokenizer)):
            raise BadInput(
                "this model's chat template has no place for functions", where="tools", fix="leave tools out"
            )
        if self.chat:
            return chat.render(self.tokenizer, _parsed(messages), add_generation_prompt=True, tools=tools)[0]
        asked = [message["content"] for message in messages if message["role"] == "user"]
        if not asked:
            raise BadInput("there is no user message", where="messages", fix="end with a message of the role user")
        return self.tokenizer.prompt(asked[-1])

    def _length(self, messages: Sequence[Mapping[str, str]]) -> int:
        return len(chat.render(self.tokenizer, messages, add_generation_prompt=True)[0])


def find(reference: str | Path, store: Store | None = None) -> Found:
    """The model that a path or a registry name means.

    reference  a model folder, a train artifact, `name`, `name:3` or `name:challenger`
    store      the registry; None knows paths only. A registered folder is served under its registered name
    Raises     UsageError when there is no such model; BadInput for a folder without a model
    """
    if isinstance(reference, Path) or Path(reference).expanduser().exists():
        return _at(model_folder.locate(Path(reference).expanduser().resolve()), store)
    if store is None:
        raise UsageError(
            f"there is no folder {reference!r}",
            fix="name a model folder, or add --project DIR to use a name of that project's registry",
        )
    record = store.resolve(reference)
    return Found(record.name, model_folder.locate(record.path), record.digest, record.version)


def _at(folder: Path, store: Store | None) -> Found:
    for record in store.list_models() if store is not None else ():
        if record.path.exists() and model_folder.locate(record.path).resolve() == folder:
            return Found(record.name, folder, record.digest, record.version)
    artifact = folder.parent if folder.name == "model" else folder
    return Found(artifact.name, folder, folder_digest(folder))


def load(found: Found, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """The model in memory, in evaluation mode.

    Raises   BadInput when the names of its outputs are missing; whatever reading the folder raises
    """
    model = model_folder.load(found.folder, device=device, dtype=dtype)
    about = model_folder.about(found.folder)
    job = _JOBS[model.head_name]
    tokenizer = Tokenizer.load(found.folder)
    labels, tags = (tuple(about.labels), tuple(about.tags)) if about is not None else ((), ())
    for names, wanted in ((labels, "classify"), (tags, "tag")):
        if job == wanted and len(names) != model.n_out:
            raise BadInput(
                f"the model has {model.n_out} outputs, but {model_folder.ABOUT} names {len(names)} of them",
                where=found.folder / model_folder.ABOUT,
                fix="train the model again with wyrmling, which writes the names",
            )
    return Loaded(
        found=found,
        model=model,
        tokenizer=tokenizer,
        job=job,
        context=about.context if about is not None else model.config.context,
        labels=labels,
        tags=tags,
        # A folder from elsewhere that brings a chat template was made for it.
        turns=turns_of(found.folder),
        chat=about.chat if about is not None else tokenizer.chat_template is not None,
        ours=about is not None,
        several=about is not None and about.several,
    )


def _parsed(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the arguments of calls as objects, which chat templates expect; on the wire they are texts."""

    def parsed(call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        return {**call, "function": {**function, "arguments": functions.loaded(function["arguments"])}}

    return [
        {**message, "tool_calls": [parsed(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else dict(message)
        for message in messages
    ]
