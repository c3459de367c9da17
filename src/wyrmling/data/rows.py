"""A row on its way through the data stage: what was read, and what was decided about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from wyrmling.core.records import SEVERAL, Kind, SplitName, Verdict, labels_of

# Kinds whose text is in messages.
TALKS: tuple[Kind, ...] = ("conversation", "pair", "rating")


class Message(NamedTuple):
    role: str
    content: str


@dataclass(slots=True)
class Row:
    """One record of a source. Which of text, words and messages is filled depends on `kind`.

    The messages of a pair end with its two answers, the chosen one first; the label of a rating is "good" or "bad".

    family    the format it came from: csv, pdf, sql ... (cleaning depends on it)
    identity  16 bytes, equal for rows of one source with the same content as read; see `identify`
    span      the bytes of its file that hold the lines of the row, None when it is no stretch of lines
    size      characters of `body`, kept when the texts are put away; see `set_aside`
    group     value of the column `data.split.group`, None without one
    fixed     the split that the source names, None when the split is derived
    date      value of the column `data.split.date`, None without one
    kept      values of the columns that the source keeps, by name
    spared    rules that must not drop the row, see `drop`
    reviewed  True when a person has decided about the label
    rules     what touched the row, in order; the last one decided when the verdict is dropped or error
    """

    source: str
    origin: str
    family: str
    kind: Kind
    text: str = ""
    label: str | None = None
    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    span: tuple[int, int] | None = None
    group: str | None = None
    fixed: SplitName | None = None
    date: str | None = None
    kept: dict[str, str] = field(default_factory=dict)
    spared: frozenset[str] = frozenset()
    reviewed: bool = False
    row_id: str = ""
    repeat: int = 0  # how often the same content came before in its source
    key: bytes = b""  # equal for rows of the same matching form, once they are cleaned
    verdict: Verdict = "kept"
    rules: list[str] = field(default_factory=list)
    identity: bytes = b""
    size: int = 0
    roles: str = ""  # of the messages, joined by commas
    value: str | None = None
    threshold: str | None = None
    kept_id: str | None = None
    cluster: str | None = None
    redactions: dict[str, int] = field(default_factory=dict)
    split: SplitName | None = None
    language: str | None = None

    @property
    def names(self) -> list[str]:
        """The labels of the row: mostly one."""
        return labels_of(self.label)

    @property
    def labels(self) -> list[str] | None:
        """The labels of a row that may have several; None for all others."""
        return self.names if self.label is not None and self.label.startswith(SEVERAL) else None

    @property
    def alive(self) -> bool:
        """True while the row is kept, changed or not."""
        return self.verdict in ("kept", "changed")

    @property
    def held_out(self) -> bool:
        """True for a row of an official validation or test source: it is never dropped for being a duplicate."""
        return self.fixed in ("val", "test")

    @property
    def body(self) -> str:
        """All text of the row, for finding duplicates."""
        if self.kind == "tagged":
            return " ".join(self.words)
        if self.kind in TALKS:
            return "\n".join(message.content for message in self.messages)
        return self.text

    def pieces(self) -> list[str]:
        """The texts that cleaning and masking rewrite one by one."""
        if self.kind == "tagged":
            return self.words
        if self.kind in TALKS:
            return [message.content for message in self.messages]
        return [self.text]

    def set_pieces(self, pieces: list[str]) -> None:
        """Put rewritten texts back, in the order of `pieces()`."""
        if self.kind == "tagged":
            self.words = pieces
        elif self.kind in TALKS:
            roles = [message.role for message in self.messages]
            self.messages = [Message(role, piece) for role, piece in zip(roles, pieces, strict=True)]
        else:
            (self.text,) = pieces

    def rewrite(self, rule: str, change: Callable[[str], str]) -> None:
        """Apply `change` to each text; name `rule` in the ledger when something changed."""
        before = self.pieces()
        after = [change(piece) for piece in before]
        if after != before:
            self.set_pieces(after)
            self.change(rule)

    def change(self, rule: str) -> None:
        self.verdict = "changed"
        if rule not in self.rules:
            self.rules = [*self.rules, rule]

    def drop(self, rule: str, *, value: object = None, threshold: object = None, kept_id: str | None = None) -> bool:
        """Drop the row by `rule`; False when the rule is spared, which the ledger names as "restored_<rule>"."""
        if rule in self.spared:
            self.change(f"restored_{rule}")
            return False
        self.verdict = "dropped"
        self.rules = [*self.rules, rule]
        self.value = None if value is None else str(value)
        self.threshold = None if threshold is None else str(threshold)
        self.kept_id = kept_id
        return True


def failed(source: str, origin: str, family: str, message: str) -> Row:
    """The ledger's row for a record that could not be read."""
    return Row(source, origin, family, "document", verdict="error", rules=["unreadable"], value=message)


def content_hash(row: Row) -> bytes:
    """16 bytes of blake2b over the row's source and content as read."""
    content = [row.source, row.kind, row.text, row.label, row.words, row.tags, row.messages]
    if row.verdict == "error":
        content = [row.source, "error", row.origin, row.value]
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def identify(rows: Sequence[Row]) -> None:
    """Give each row its id: 16 hexadecimal digits of blake2b over source, content and how often that came before.

    The id does not depend on other rows or on the place in the file, so ids stay when rows are added or shuffled.
    """
    for row in rows:
        row.identity = row.identity or content_hash(row)
    for _, same in equal_runs([row.identity for row in rows]):
        for repeat, number in enumerate(same):
            row = rows[number]
            row.repeat = repeat
            key = row.identity + repeat.to_bytes(8, "little")
            row.row_id = hashlib.blake2b(key, digest_size=8).hexdigest()


def equal_runs(keys: Sequence[bytes]) -> Iterator[tuple[bytes, list[int]]]:
    """Each 16-byte key once, and the places where it stands, ascending. Sorted, as a dictionary of lists is large."""
    import numpy as np

    if not keys:
        return
    halves = np.frombuffer(b"".join(keys), ">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    changes = np.flatnonzero((halves[order[1:]] != halves[order[:-1]]).any(1)) + 1
    for start, end in pairwise([0, *changes.tolist(), len(order)]):
        yield keys[order[start]], order[start:end].tolist()
