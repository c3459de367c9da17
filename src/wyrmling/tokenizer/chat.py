"""From messages to tokens: the chat template of a tokenizer folder, and which tokens of a conversation are learned.

What is learned follows from the template: what its `{% generation %}` blocks enclose; without them, what a whole turn
has more than the prompt for it. Special tokens count only where the template wrote them. The same characters inside a
message stay text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from wyrmling.core.errors import BadInput
from wyrmling.tokenizer import sandbox

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

# For a base model without a template: no tokens but the one that ends a text, which every vocabulary here has.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

Message = Mapping[str, Any]
Span = tuple[int, int]

# Characters that no text has (noncharacters), then private ones: to break up special tokens that a message spells out,
# and to mark where a template says that the assistant speaks.
_SPARE = (*range(0xFDD0, 0xFDF0), *range(0xE000, 0xF900))


class Piece(NamedTuple):
    """A stretch of a row: text still to be encoded, or one token that is already known."""

    text: str
    token: int | None = None
    learn: bool = False


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[int], list[bool]]:
    """The token ids of a conversation, and for each whether it is learned.

    messages                {role, content} in order
    add_generation_prompt   True ends with the opening of an assistant's turn, for the model to go on from
    tools                   functions for a template that shows them, see `takes_tools`
    Learned are the assistant's words and the token that ends the turn.
    Raises   BadInput when the tokenizer has no chat template or the template refuses the messages.
    """
    ids: list[int] = []
    learn: list[bool] = []
    for piece in pieces(tokenizer, messages, add_generation_prompt=add_generation_prompt, tools=tools):
        new = tokenizer.encode(piece.text) if piece.token is None else [piece.token]
        ids += new
        learn += [piece.learn] * len(new)
    return ids, learn


def pieces(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[Piece]:
    """The rendered conversation, cut at special tokens and where the learned stretches begin and end.

    The cut before an answer makes the prompt of training end in exactly the tokens of the prompt of serving.
    Raises   BadInput as `render`, and when the template shows no answer the way the model is asked for it.
    """
    escape, begin, end = _unused_characters([*messages, *tools], 3)
    guarded, offered = (_guard(given, tokenizer.special_ids, escape) for given in (messages, tools))
    marked = _render_text(tokenizer, guarded, add_generation_prompt, marks=(begin, end), tools=offered)
    whole = marked.replace(begin, "").replace(end, "")
    if begin in marked:
        spans = _marked_spans(tokenizer, marked, begin, end)
    else:
        spans = _added_spans(tokenizer, guarded, whole, offered)
        if not spans and not add_generation_prompt and not tokenizer.shows_answers_as_asked:
            raise BadInput(
                "the chat template asks for an answer in one form and shows it in another: "
                "it is unclear what would be learned",
                fix="put {% generation %} and {% endgeneration %} around the answer in chat_template.jinja of the base",
            )
    found: list[Piece] = []
    at = 0
    for start, stop in spans:
        found += _cut(tokenizer, whole[at:start], escape, learn=False)
        found += _cut(tokenizer, whole[start:stop], escape, learn=True)
        at = stop
    found += _cut(tokenizer, whole[at:], escape, learn=False)
    return list(_going_on(tokenizer, _swallowed(tokenizer, found)))


_QUESTION = {"role": "user", "content": "How many?"}
_ANSWER = {"role": "assistant", "content": "Three: seven, eleven, twelve."}
# The switches by which templates of reasoning models leave thoughts out.
_NO_THOUGHTS = {"enable_thinking": False, "thinking": False}


def turn_end(tokenizer: Tokenizer) -> int | None:
    """The special token that the template puts after an answer; None without a template or without such a token."""
    try:
        text = _render_text(tokenizer, [_QUESTION, _ANSWER], False)
    except BadInput:
        return None
    _, found, after = text.rpartition(_ANSWER["content"])
    named = [special for special in tokenizer.special_ids if found and after.lstrip().startswith(special)]
    return tokenizer.special_ids[max(named, key=len)] if named else None


def switches(tokenizer: Tokenizer) -> dict[str, bool] | None:
    """What the template is told beside the messages, so that it shows an answer as it asks for one.

    Mostly nothing. A template that opens a thought where an answer is due, but shows answers without thoughts, is told
    to leave thoughts out. None: even then it shows an answer in another form.
    """
    for told in ({}, _NO_THOUGHTS):
        try:
            before = _render_text(tokenizer, [_QUESTION], True, told)
            through = _render_text(tokenizer, [_QUESTION, _ANSWER], False, told)
        except BadInput:
            # A template that wants other messages than these says so when it gets them.
            return {}
        if through.startswith(before):
            return told
    return None


_TOOL = {"type": "function", "function": {"name": "count", "description": "Counts", "parameters": {"type": "object"}}}


def takes_tools(tokenizer: Tokenizer) -> bool:
    """Whether the chat template shows the functions that may be called."""
    plain, offered = (_render_text(tokenizer, [_QUESTION], True, tools=tools) for tools in ((), (_TOOL,)))
    return plain != offered


def learned_rule(tokenizer: Tokenizer) -> str:
    """One sentence on what this template lets the model learn of a conversation."""
    names = {id_: special for special, id_ in tokenizer.special_ids.items()}
    end = turn_end(tokenizer)
    each = f", each with its {names[end]}" if end is not None else ""
    learned = [piece.learn for piece in pieces(tokenizer, [_QUESTION, _ANSWER, _QUESTION, _ANSWER])]
    stretches = sum(now and not before for before, now in pairwise([False, *learned]))
    if stretches < 2:
        return f"learned of a conversation: the last answer{each}; the template shows earlier answers in another form"
    return f"learned of a conversation: the answers{each}"


def _render_text(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    add_generation_prompt: bool,
    told: Mapping[str, bool] | None = None,
    *,
    marks: tuple[str, str] = ("", ""),
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    if tokenizer.chat_template is None:
        raise BadInput(
            "this tokenizer has no chat template", fix="use the model for completion, or tune it on conversations"
        )
    variables = {
        "messages": messages,
        "add_generation_prompt": add_generation_prompt,
        "tools": list(tools) or None,
        "documents": None,
        **tokenizer.special_tokens,
        **(tokenizer.chat_switches if told is None else told),
    }
    try:
        return sandbox.render(tokenizer.chat_template, variables, marks=marks)
    except sandbox.FAILURES as error:
        raise BadInput(
            f"the chat template refuses the messages: {error or type(error).__name__}",
            fix="give messages as a list of {role, content} with text as content, user and assistant in turn",
        ) from error


def _marked_spans(tokenizer: Tokenizer, marked: str, begin: str, end: str) -> list[Span]:
    """The spans between the marks, in the text without marks; a token right behind that ends the turn belongs to it."""
    spans: list[Span] = []
    at = start = 0
    inside = False
    for part in re.split(f"([{begin}{end}])", marked):
        if part == begin:
            start, inside = at, True
        elif part == end:
            spans.append((start, at))
            inside = False
        else:
            if spans and not inside:
                more = max((len(special) for special in _ends(tokenizer) if part.startswith(special)), default=0)
                spans[-1] = (spans[-1][0], spans[-1][1] + more)
            at += len(part)
    return spans


def _added_spans(
    tokenizer: Tokenizer, messages: Sequence[Message], whole: str, tools: Sequence[Mapping[str, Any]]
) -> list[Span]:
    """Where in the rendered text each answer's words begin, and where the token that ends its turn stops.

    An answer that the template shows differently once others follow (without its thoughts, say) is not learned: the
    model is never asked for that form.
    """
    spans: list[Span] = []
    for index, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        before = _render_text(tokenizer, messages[:index], True, tools=tools)
        through = _render_text(tokenizer, messages[: index + 1], False, tools=tools)
        stops = [at + len(end) for end in _ends(tokenizer) if (at := through.find(end, len(before))) >= 0]
        turn = through[: min(stops, default=len(through))]
        if turn.startswith(before) and whole.startswith(turn):
            spans.append((len(before), len(turn)))
    return spans


def _ends(tokenizer: Tokenizer) -> list[str]:
    return [special for special, token in tokenizer.special_ids.items() if token in tokenizer.end_ids]


def _unused_characters(messages: Sequence[Message], count: int) -> list[str]:
    """Spare characters that no message contains."""
    said = "".join(str(value) for message in messages for value in message.values())
    unused = [chr(code) for code in _SPARE if chr(code) not in said]
    if len(unused) < count:
        raise BadInput("the messages hold every private-use character", fix="remove what is not text from the messages")
    return unused[:count]


def _guard(value: Any, specials: Mapping[str, int], escape: str) -> Any:
    """`value` as plain data, with every special token that its texts spell out broken up."""
    if isinstance(value, str):
        for special in specials:
            value = value.replace(special, special[0] + escape + special[1:])
        return value
    if isinstance(value, Mapping):
        return {key: _guard(item, specials, escape) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_guard(item, specials, escape) for item in value]
    return value


def _cut(tokenizer: Tokenizer, text: str, escape: str, *, learn: bool) -> Iterator[Piece]:
    """`text` cut into special tokens and the text between them."""
    for part in tokenizer.special_pattern.split(text):
        if part in tokenizer.special_ids:
            yield Piece(part, tokenizer.special_ids[part], learn)
        elif part:
            yield Piece(part.replace(escape, ""), None, learn)


def _swallowed(tokenizer: Tokenizer, found: Sequence[Piece]) -> list[Piece]:
    """The pieces without the white space that special tokens beside it take in."""
    kept: list[Piece] = []
    for index, piece in enumerate(found):
        text = piece.text
        if piece.token is None:
            if index > 0 and found[index - 1].token is not None and tokenizer.swallows(found[index - 1].text)[1]:
                text = text.lstrip()
            if index + 1 < len(found) and found[index + 1].token is not None:
                text = text.rstrip() if tokenizer.swallows(found[index + 1].text)[0] else text
        if text:
            kept.append(piece._replace(text=text))
    return kept


def _going_on(tokenizer: Tokenizer, found: Sequence[Piece]) -> Iterator[Piece]:
    """The pieces; where a vocabulary opens texts with a space, those that go on from others are encoded already.

    Some SentencePiece vocabularies open each text so, some only the very first. A cut is no opening.
    """
    for index, piece in enumerate(found):
        after_text = index > 0 and found[index - 1].token is None
        after_special = index > 0 and not after_text and tokenizer.opens == "first"
        if piece.token is None and tokenizer.opens != "never" and (after_text or after_special):
            yield from (Piece("", id_, piece.learn) for id_ in tokenizer.encode(piece.text, opening=False))
        else:
            yield piece


def special_pattern(specials: Mapping[str, int]) -> re.Pattern[str]:
    """Splits a text at special tokens and keeps them. Longest first: one may begin with another."""
    anyone = "|".join(re.escape(special) for special in sorted(specials, key=len, reverse=True))
    return re.compile(f"({anyone})" if anyone else r"(?!)")
