"""Which columns hold what: from a table row to a document, a labelled text, tagged words or a conversation."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from wyrmling.config import Source
from wyrmling.core import functions
from wyrmling.core.errors import BadInput
from wyrmling.core.functions import loaded
from wyrmling.core.log import say
from wyrmling.core.records import SEVERAL, Kind
from wyrmling.data import preferences
from wyrmling.data.rows import TALKS, Message, Row

# Column names that leave no doubt, in lower case.
TEXT = ("text", "message", "content", "body", "sentence", "utterance", "document", "review", "comment")
LABEL = ("label", "category", "class", "intent", "target", "sentiment")
MESSAGES = ("messages", "conversations", "conversation")
# Columns beside a conversation: what the assistant may call, and what it is told first.
TOOLS = ("tools", "functions")
SYSTEM = ("system", "system_prompt")
WORDS = ("words", "tokens")
TAGS = ("tags", "ner_tags", "labels")
PAIRS = (
    ("prompt", "response"),
    ("question", "answer"),
    ("prompt", "completion"),
    ("query", "response"),
    ("input", "output"),
)

# Columns before two answers.
PROMPT = ("prompt", "question", "instruction", "query")

AMBIGUOUS = "more than one reading of the columns is possible"

ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
}


class Shape(NamedTuple):
    """What a row of a file becomes, and from which columns."""

    kind: Kind
    text: str | None = None
    label: str | None = None
    prompt: str | None = None
    context: str | None = None
    response: str | None = None
    messages: str | None = None
    words: str | None = None
    tags: str | None = None
    tools: str | None = None
    system: str | None = None
    history: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    rating: str | None = None
    separator: str | None = None


class Misfit(Exception):
    """A row whose cells are not what its shape needs."""


def find_shape(name: str, source: Source, columns: Sequence[str], where: str) -> Shape:
    """The shape of rows with these columns: as the source names them, else by unambiguous names.

    name   the source's name, for messages
    where  the file or database that has the columns
    What the names of columns were taken to mean is said, in the words of the settings that would say otherwise.
    Raises BadInput when a named column is missing, or when the names leave more than one choice or none.
    """
    shape = _find(name, source, columns, where)
    if shape.label is not None:
        shape = shape._replace(separator=source.label_separator)
    lower = {column.strip().lower(): column for column in columns}
    used = [column for column in shape[1:] if column is not None]
    # The second column of a name is "name (3)", after its place.
    twice = [column for column in used if any(re.fullmatch(re.escape(column) + r" \(\d+\)", c) for c in columns)]
    if twice:
        raise BadInput(f"several columns are named {twice[0]!r}", where=where, fix="rename them, so that it is clear")
    if shape.kind not in TALKS:
        return _told(shape, source, columns, where)
    beside = {"tools": TOOLS if shape.messages else (), "system": SYSTEM, "history": ("history",)}
    found = {key: next((lower[n] for n in names if n in lower), None) for key, names in beside.items()}
    tools, system, history = (found[key] if found[key] not in used else None for key in ("tools", "system", "history"))
    return _told(shape._replace(tools=tools, system=system, history=history), source, columns, where)


def _told(shape: Shape, source: Source, columns: Sequence[str], where: str) -> Shape:
    if len(columns) > 1 and not any(named(source) for named in _SETTINGS.values()):
        meant = ", ".join(f'{key} = "{column}"' for key, column in shape._asdict().items() if column and key != "kind")
        taken = {*shape[1:], *source.keep}
        unused = [f'"{column}"' for column in columns if column not in taken]
        more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
        left = f"; not used: {', '.join(unused[:5])}{more}" if unused else ""
        say(f"{where}: by the names of the columns, {meant}{left}")
    return shape


def _find(name: str, source: Source, columns: Sequence[str], where: str) -> Shape:
    named = {key: column for key in _SETTINGS if (column := _SETTINGS[key](source)) is not None}
    for key, column in (*named.items(), *(("keep", column) for column in source.keep)):
        if column not in columns:
            raise _missing(name, key, column, columns, where)
    if source.chosen is not None:
        return Shape("pair", prompt=source.prompt, chosen=source.chosen, rejected=source.rejected)
    talk: Kind = "conversation" if source.rating is None else "rating"
    if source.messages is not None:
        return Shape(talk, messages=source.messages, rating=source.rating)
    if source.prompt is not None:
        return Shape(talk, prompt=source.prompt, response=source.response, rating=source.rating)
    if source.words is not None:
        return Shape("tagged", words=source.words, tags=source.tags)
    if source.text is not None:
        return Shape("labelled" if source.label else "document", text=source.text, label=source.label)
    return _detect(name, source, columns, where)


_SETTINGS: dict[str, Callable[[Source], str | None]] = {
    "text": lambda source: source.text,
    "label": lambda source: source.label,
    "prompt": lambda source: source.prompt,
    "response": lambda source: source.response,
    "messages": lambda source: source.messages,
    "chosen": lambda source: source.chosen,
    "rejected": lambda source: source.rejected,
    "rating": lambda source: source.rating,
    "words": lambda source: source.words,
    "tags": lambda source: source.tags,
}


def _missing(name: str, key: str, column: str, columns: Sequence[str], where: str) -> BadInput:
    near = difflib.get_close_matches(column.lower(), [c.lower() for c in columns], n=1)
    meant = next((c for c in columns if near and c.lower() == near[0]), None)
    hint = f"did you mean {key} = {json.dumps(meant, ensure_ascii=False)}? " if meant else ""
    numbers = (
        ' (columns named "1", "2" ... are counted, for a file without a header line)' if where.endswith("sv") else ""
    )
    return BadInput(
        f"there is no column {column!r}",
        where=f"{where}, data.sources.{name}.{key}",
        fix=f"{hint}The columns are: {_list(columns)}{numbers}",
    )


def _list(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:30])
    return shown + (f" and {len(columns) - 30} more" if len(columns) > 30 else "")


def _detect(name: str, source: Source, columns: Sequence[str], where: str) -> Shape:
    lower = {column.strip().lower(): column for column in columns}
    have = [lower[key] for key in TEXT if key in lower]
    labels = [lower[key] for key in LABEL if key in lower]
    shapes: list[Shape] = []
    if source.label is not None:
        rest = [column for column in columns if column != source.label]
        texts = [column for column in have if column != source.label] or (rest if len(rest) == 1 else [])
        shapes = [Shape("labelled", text=column, label=source.label) for column in texts]
    elif {"chosen", "rejected"} <= lower.keys():
        prompt = next((lower[name] for name in PROMPT if name in lower), None)
        context = lower.get("input") if prompt == lower.get("instruction") else None
        shapes = [Shape("pair", prompt=prompt, context=context, chosen=lower["chosen"], rejected=lower["rejected"])]
    elif {"prompt", "completion", "label"} <= lower.keys():
        # The columns by which rated answers are exchanged.
        rated = lower["label"]
        shapes = [Shape("rating", prompt=lower["prompt"], response=lower["completion"], rating=rated)]
    elif "instruction" in lower and "output" in lower:
        context = lower.get("input") or lower.get("context")
        shapes = [Shape("conversation", prompt=lower["instruction"], context=context, response=lower["output"])]
    elif "instruction" in lower and "response" in lower:
        shapes = [
            Shape("conversation", prompt=lower["instruction"], context=lower.get("context"), response=lower["response"])
        ]
    else:
        chats = [Shape("conversation", messages=lower[key]) for key in MESSAGES if key in lower]
        # A label beside messages rates the answer (KTO), or is the class of the conversation: not for us to guess.
        shapes += [
            *chats,
            *(Shape("labelled", text=chat.messages, label=lower["label"]) for chat in chats if "label" in lower),
        ]
        shapes += [
            Shape("conversation", prompt=lower[p], response=lower[r]) for p, r in PAIRS if {p, r} <= lower.keys()
        ]
        tags = [lower[key] for key in TAGS if key in lower]
        shapes += [Shape("tagged", words=lower[w], tags=t) for w in WORDS if w in lower for t in tags]
        if labels:
            shapes += [Shape("labelled", text=text, label=label) for text in have for label in labels]
        else:
            shapes += [Shape("document", text=text) for text in have]
        if not shapes and len(columns) == 1:
            shapes = [Shape("document", text=columns[0])]
    if len(shapes) == 1:
        return shapes[0]
    said = AMBIGUOUS if shapes else "the columns do not say what to learn from"
    raise BadInput(
        said,
        where=where,
        fix=f"name them in data.sources.{name}: text (and label), or prompt and response, or messages (and rating), "
        f"or chosen and rejected, or words and tags. The columns are: {_list(columns)}",
    )


def fill(row: Row, shape: Shape, cells: dict[str, Any]) -> Row:
    """`row` with the content of one table row. Raises Misfit naming the column that does not fit."""
    row.kind = shape.kind
    if shape.words is not None and shape.tags is not None:
        row.words = _strings(cells, shape.words)
        row.tags = _strings(cells, shape.tags)
        if len(row.words) != len(row.tags):
            raise Misfit(f"{len(row.words)} words but {len(row.tags)} tags")
    elif shape.chosen is not None and shape.rejected is not None:
        row.messages = _pair(cells, shape, shape.chosen, shape.rejected)
    elif shape.messages is not None:
        row.messages = [*_before(cells, shape), *_messages(cells.get(shape.messages), shape.messages)]
    elif shape.prompt is not None and shape.response is not None:
        row.messages = [*_before(cells, shape), *_prompt(cells, shape), *_response(cells, shape.response)]
    elif shape.text is not None:
        row.text = cell(cells, shape.text) or ""
        if shape.label is not None:
            row.label = _label(cells, shape.label, shape.separator)
    if shape.rating is not None:
        row.label = "good" if _clear(preferences.good, cell(cells, shape.rating), shape.rating) else "bad"
    return row


def _label(cells: dict[str, Any], column: str, separator: str | None) -> str | None:
    """The label of a row; several of them, in the alphabet's order, with a sign before each."""
    value = cells.get(column)
    if separator is None and not isinstance(value, (list, tuple)):
        return (cell(cells, column) or "").strip() or None
    names = value if isinstance(value, (list, tuple)) else (cell(cells, column) or "").split(separator)
    found = sorted({str(name).strip() for name in names} - {""})
    return SEVERAL + SEVERAL.join(found)


def _prompt(cells: dict[str, Any], shape: Shape) -> list[Message]:
    """The question of a row, with its context; a list of messages is more than one turn."""
    if shape.prompt is None or shape.prompt not in cells:
        return []
    if isinstance(cells[shape.prompt], list):
        return _messages(cells[shape.prompt], shape.prompt)
    context = cell(cells, shape.context) if shape.context and shape.context in cells else None
    parts = (cell(cells, shape.prompt), context)
    return [Message("user", "\n\n".join(part for part in parts if part and part.strip()))]


def _response(cells: dict[str, Any], column: str) -> list[Message]:
    """The answer of a row: text, or a list of messages."""
    if isinstance(cells.get(column), list):
        return _messages(cells[column], column)
    return [Message("assistant", cell(cells, column) or "")]


def _pair(cells: dict[str, Any], shape: Shape, chosen: str, rejected: str) -> list[Message]:
    """The turns before two answers, and the answers."""
    asked = [*_before(cells, shape), *_prompt(cells, shape)]
    turns: list[Message] = _clear(
        preferences.pair, asked, cells.get(chosen), cells.get(rejected), lambda cell: _messages(cell, chosen)
    )
    return turns


def _clear(read: Callable[..., Any], *cells: Any) -> Any:
    """What `read` makes of some cells. Raises Misfit when they are unclear."""
    try:
        return read(*cells)
    except preferences.Unclear as error:
        raise Misfit(str(error)) from error


def cell(cells: dict[str, Any], column: str) -> str | None:
    """A cell as text; None when it is empty, null or NaN. Raises Misfit for a list, an object or bytes."""
    if column not in cells:
        raise Misfit(f"no value for the column {column!r}")
    value = cells[column]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    # pandas turns an integer column with a gap into floats.
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, (list, dict, bytes, bytearray, memoryview)):
        raise Misfit(f"the column {column!r} holds a {type(value).__name__}, where text is expected")
    return str(value)


def _strings(cells: dict[str, Any], column: str) -> list[str]:
    """A list cell, or a text cell that holds a JSON list or words between spaces."""
    value = cells.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split()
        except ValueError as error:
            raise Misfit(f"the column {column!r} is not a list: {error}") from error
    if not isinstance(value, (list, tuple)):
        raise Misfit(f"the column {column!r} holds no list of words or tags")
    return [str(item) for item in value]


def _messages(value: Any, column: str) -> list[Message]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise Misfit(f"the column {column!r} is not a list of messages: {error}") from error
    if not isinstance(value, list):
        raise Misfit(f"the column {column!r} holds no list of messages")
    messages: list[Message] = []
    for number, item in enumerate(value, 1):
        if not isinstance(item, dict):
            raise Misfit(f"message {number} is not an object with role and content")
        role = ROLES.get(str(item.get("role", item.get("from"))).strip().lower())
        if role is None:
            raise Misfit(
                f"message {number} has the role {item.get('role', item.get('from'))!r}; known are {sorted(ROLES)}"
            )
        content = _content(item.get("content", item.get("value")), number)
        if str(item.get("from", item.get("role"))).lower() in ("function_call", "tool_call"):
            content = _tool_call(loaded(content))
        messages.append(Message(role, "\n".join(part for part in (content, *_tool_calls(item)) if part)))
    return messages


def _before(cells: dict[str, Any], shape: Shape) -> list[Message]:
    """What comes before the conversation: one system message with the tools, and earlier turns."""
    system = cell(cells, shape.system) if shape.system and shape.system in cells else None
    tools = loaded(cells.get(shape.tools)) if shape.tools else None
    parts = [system or ""]
    if isinstance(tools, list) and tools:
        parts.append(functions.offered(tools))
    text = "\n\n".join(part for part in parts if part.strip())
    messages = [Message("system", text)] if text else []
    history = loaded(cells.get(shape.history)) if shape.history else None
    for turn in history if isinstance(history, list) else ():
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise Misfit(f"the column {shape.history!r} does not hold pairs of a question and an answer")
        messages += [Message("user", str(turn[0])), Message("assistant", str(turn[1]))]
    return messages


def _tool_calls(message: dict[str, Any]) -> list[str]:
    """The calls of an assistant, as texts."""
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
    if not isinstance(calls, list):
        raise Misfit(f"tool_calls holds a {type(calls).__name__}, where a list is expected")
    return [_tool_call(call.get("function", call) if isinstance(call, dict) else call) for call in calls]


def _tool_call(call: Any) -> str:
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise Misfit("a function call without the name of the function")
    return functions.call(call["name"], call.get("arguments") or {})


def _content(value: Any, number: int) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        return "\n".join(part["text"] for part in value)
    raise Misfit(f"the content of message {number} is a {type(value).__name__}, where text is expected")


def join_turns(messages: list[Message]) -> list[Message]:
    """The conversation without empty turns, and with neighbouring turns of one role joined by an empty line."""
    joined: list[Message] = []
    for message in messages:
        if not message.content.strip():
            continue
        if joined and joined[-1].role == message.role:
            joined[-1] = Message(message.role, f"{joined[-1].content}\n\n{message.content}")
        else:
            joined.append(message)
    return joined


SCHEME = re.compile(r"(?:O|([BIESLU])-(.+))")


def to_bio(tags: list[str]) -> list[str]:
    """Tags in the BIO scheme: from IOB1 (an entity may start with I-) and from BIOES or BILOU.

    Tags of another kind, such as parts of speech, are left alone.
    """
    parts = [SCHEME.fullmatch(tag) for tag in tags]
    if not all(parts):
        return tags
    bio: list[str] = []
    inside: str | None = None
    for part in parts:
        letter, entity = part.groups() if part else (None, None)
        if letter is None:
            bio.append("O")
        elif letter in "BSU" or entity != inside:
            bio.append(f"B-{entity}")
        else:
            bio.append(f"I-{entity}")
        inside = None if letter in ("S", "U", "E", "L", None) else entity
    return bio
