"""From messages to tokens: the chat template of a tokenizer folder, and which tokens of a conversation are learned.

A template is Jinja in the dialect of Hugging Face folders, rendered in a sandbox: it comes with a model, so it may be
hostile. Special tokens count only where the template wrote them. The same characters inside a message stay text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wyrmling.core.errors import BadInput

if TYPE_CHECKING:
    from wyrmling.tokenizer.tokenizer import Tokenizer

# ChatML, the form most open models use, opened by an end-of-text like every other row.
TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

Message = Mapping[str, Any]


class Piece(NamedTuple):
    """A stretch of a row: text still to be encoded, or one token that is already known."""

    text: str
    token: int | None = None
    learn: bool = False


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words in some templates; what it encloses is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as an instance variable)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def environment() -> ImmutableSandboxedEnvironment:
    """The Jinja environment that `transformers` gives chat templates."""
    jinja = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    jinja.filters["tojson"] = _to_json
    jinja.globals["raise_exception"] = _refuse
    jinja.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return jinja


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False
) -> tuple[list[int], list[bool]]:
    """The token ids of a conversation, and for each whether it is learned.

    messages                {role, content} in order
    add_generation_prompt   True ends with the opening of an assistant's turn, for the model to go on from
    Learned are the assistant's words and the token that ends the turn.
    Raises   BadInput when the tokenizer has no chat template or the template refuses the messages.
    """
    ids: list[int] = []
    learn: list[bool] = []
    for piece in pieces(tokenizer, messages, add_generation_prompt=add_generation_prompt):
        new = tokenizer.encode(piece.text) if piece.token is None else [piece.token]
        ids += new
        learn += [piece.learn] * len(new)
    return ids, learn


def pieces(tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> list[Piece]:
    """The rendered conversation, cut at special tokens and where the learned stretches begin and end.

    The cut before an answer makes the prompt of training end in exactly the tokens of the prompt of serving.
    Raises   BadInput as `render`.
    """
    escape = _unused_character(messages)
    guarded = [_guard(message, tokenizer.special_ids, escape) for message in messages]
    whole = _render_text(tokenizer, guarded, add_generation_prompt)
    found: list[Piece] = []
    at = 0
    for start, end in _answers(tokenizer, guarded, whole):
        found += _cut(whole[at:start], tokenizer.special_ids, escape, learn=False)
        found += _cut(whole[start:end], tokenizer.special_ids, escape, learn=True)
        at = end
    return found + _cut(whole[at:], tokenizer.special_ids, escape, learn=False)


def _render_text(tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool) -> str:
    if tokenizer.chat_template is None:
        raise BadInput(
            "this tokenizer has no chat template", fix="use the model for completion, or tune it on conversations"
        )
    try:
        return tokenizer.chat_template.render(
            messages=messages, add_generation_prompt=add_generation_prompt, **tokenizer.special_tokens
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise BadInput(
            f"the chat template refuses the messages: {error}",
            fix="give messages as a list of {role, content} with text as content, user and assistant in turn",
        ) from error


def _answers(tokenizer: Tokenizer, messages: Sequence[Message], whole: str) -> Iterator[tuple[int, int]]:
    """Where in the rendered text each assistant turn's words begin, and where the token that ends it stops."""
    ends = [special for special, token in tokenizer.special_ids.items() if token in tokenizer.end_ids]
    for index, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        before = _render_text(tokenizer, messages[:index], True)
        through = _render_text(tokenizer, messages[: index + 1], False)
        if not (through.startswith(before) and whole.startswith(through)):
            raise BadInput(
                f"the chat template shows message {index + 1} differently once others follow: "
                "it is unclear what would be learned",
                fix="cut the conversation after its first answer, or use a base whose template keeps earlier turns",
            )
        stops = [through.rfind(end) + len(end) for end in ends if through.rfind(end) >= len(before)]
        yield len(before), max(stops, default=len(through))


def _unused_character(messages: Sequence[Message]) -> str:
    """A noncharacter that no message contains; it breaks up special tokens that a message spells out."""
    said = "".join(str(value) for message in messages for value in message.values())
    for code in (*range(0xFDD0, 0xFDF0), *range(0xE000, 0xF900)):
        if chr(code) not in said:
            return chr(code)
    raise BadInput("the messages hold every private-use character", fix="remove what is not text from the messages")


def _guard(message: Message, specials: Mapping[str, int], escape: str) -> dict[str, Any]:
    guarded = dict(message)
    for key, value in guarded.items():
        if isinstance(value, str):
            for special in specials:
                value = value.replace(special, special[0] + escape + special[1:])
            guarded[key] = value
    return guarded


def _cut(text: str, specials: Mapping[str, int], escape: str, *, learn: bool) -> list[Piece]:
    """`text` cut into special tokens and the text between them."""
    if not specials:
        return [Piece(text.replace(escape, ""), learn=learn)] if text else []
    # Longest first: one special token may begin with another.
    anyone = "|".join(re.escape(special) for special in sorted(specials, key=len, reverse=True))
    found = []
    for part in re.split(f"({anyone})", text):
        if part in specials:
            found.append(Piece(part, specials[part], learn))
        elif part:
            found.append(Piece(part.replace(escape, ""), None, learn))
    return found
