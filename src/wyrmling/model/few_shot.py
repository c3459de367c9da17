"""What a few-shot model is beside its base: rows to show, how they are chosen, and how a prompt is written.

`few_shot.json` lies in the model folder beside the base model's own files, whose weights it leaves as they are; for an
encoder the vectors of the rows lie in `few_shot.safetensors`. The networks that use it are in model/shown.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from wyrmling.core.errors import CorruptArtifact
from wyrmling.model import retrieval
from wyrmling.model.json_files import read_json, write_json

FEW_SHOT, VECTORS = "few_shot.json", "few_shot.safetensors"
FORMAT = 1

Kind = Literal["prompt", "vectors", "turns"]
Select = Literal["nearest", "bm25", "balanced", "random"]


@dataclass(frozen=True)
class Row:
    """A row that may be shown: a text with its ids and label, or a question with its answer."""

    row_id: str
    text: str
    ids: list[int] = field(default_factory=list)
    label: int = -1
    answer: str = ""


@dataclass(frozen=True)
class FewShot:
    """few_shot.json.

    kind         prompt: a decoder reads examples and label names. vectors: an encoder compares text vectors. turns: a
                 decoder reads questions with their answers before the one that it is to answer
    examples     rows in a prompt at most; for vectors the nearest rows of each label that are looked at
    rows         those to choose from; with select balanced and random all of them are shown, in this order
    labels       names of the labels; names: the ids of each as it is written after a text
    begin, ask, end   ids before the first row, between a text and its label, and after a label
    around       ids that open and end a document, which a prompt leaves out
    context      tokens of the longest text that leaves room for a prompt
    calibration  what is taken off each label's logit; temperature: what the logits are divided by then
    rows_sha256, vectors_sha256   digests of the rows' ids in the data and of their vectors
    """

    kind: Kind
    examples: int
    select: Select
    nearest_last: bool
    rows: list[Row]
    context: int
    labels: list[str] = field(default_factory=list)
    names: list[list[int]] = field(default_factory=list)
    begin: list[int] = field(default_factory=list)
    ask: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    around: list[int] = field(default_factory=list)
    calibration: list[float] | None = None
    temperature: float = 1.0
    template: str = ""
    rows_sha256: str = ""
    vectors_sha256: str | None = None

    def write(self, folder: Path) -> None:
        """Keep it in a model folder."""
        write_json(folder / FEW_SHOT, {"format": FORMAT, **asdict(self)})


def is_few_shot(folder: Path) -> bool:
    """Whether the folder holds a few-shot model."""
    return (folder / FEW_SHOT).is_file()


def read(folder: Path) -> FewShot | None:
    """What few_shot.json of a model folder says; None for any other model.

    Raises   CorruptArtifact when the file can't be read
    """
    if not is_few_shot(folder):
        return None
    raw = read_json(folder / FEW_SHOT)
    try:
        if raw.pop("format") != FORMAT:
            raise ValueError("it is of another format")
        return FewShot(**raw | {"rows": [Row(**row) for row in raw["rows"]]})
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifact(
            f"{FEW_SHOT} can't be read: {error}", where=folder / FEW_SHOT, fix="make the few-shot model again"
        ) from error


Message = Mapping[str, Any]
_WORD = re.compile(r"\w+")


class Turns:
    """The questions with their answers that a few-shot model of the kind turns reads before a conversation."""

    def __init__(self, about: FewShot) -> None:
        self.about = about
        self._bm25 = retrieval.Bm25([_words(row.text) for row in about.rows])

    def shown(
        self, messages: Sequence[Message], length: Callable[[Sequence[Message]], int], room: int
    ) -> tuple[list[Message], list[Message]]:
        """What stands before the conversation, a system message first, and the conversation without it.

        length   tokens of a conversation
        room     tokens that all of it may take: the turns least alike are left out
        """
        first = 1 if messages and messages[0]["role"] == "system" else 0
        system, own = list(messages[:first]), list(messages[first:])
        kept: list[Row] = []
        for row in self._chosen(own):
            if length([*system, *_turns([*kept, row]), *own]) > room:
                break
            kept.append(row)
        return [*system, *_turns(kept[::-1] if self.about.nearest_last else kept)], own

    def _chosen(self, messages: Sequence[Message]) -> list[Row]:
        """The rows to show, the most like the last question first."""
        asked = [message["content"] for message in messages if message["role"] == "user"]
        if self.about.select == "random" or not asked:
            return self.about.rows[: self.about.examples]
        best = retrieval.best(self._bm25.scores(_words(asked[-1])), self.about.examples)
        return [self.about.rows[i] for i in best.tolist()]


def turns_of(folder: Path) -> Turns | None:
    """The turns that the model of a folder is shown; None when it is shown none."""
    about = read(folder)
    return Turns(about) if about is not None and about.kind == "turns" else None


def _turns(rows: Sequence[Row]) -> list[Message]:
    said = [(("user", row.text), ("assistant", row.answer)) for row in rows]
    return [{"role": role, "content": content} for pair in said for role, content in pair]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
