"""`wyrmling tokenizer --show`: the first training rows as the model reads them, what it learns to say marked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from wyrmling.core.artifact import Artifact
from wyrmling.tokenizer import chat
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore

BEGIN, END = "⟦", "⟧"
# Bold green, and back.
COLOUR, PLAIN = "\x1b[1;32m", "\x1b[0m"
MAX_TOKENS = 400


@dataclass(frozen=True)
class Shown:
    """A row of the store: its stretches of text, special tokens by name, each learned or not. cut: more follows."""

    row_id: str
    kind: str
    stretches: tuple[tuple[str, bool], ...]
    cut: bool

    def document(self) -> dict[str, Any]:
        parts = [{"text": text, "learned": learned} for text, learned in self.stretches]
        return {"row_id": self.row_id, "kind": self.kind, "stretches": parts, "cut": self.cut}

    def text(self, *, colour: bool) -> str:
        """One paragraph; learned text stands between ⟦ and ⟧, in colour for a terminal."""
        before, after = (COLOUR + BEGIN, END + PLAIN) if colour else (BEGIN, END)
        body = "".join(before + text + after if learned else text for text, learned in self.stretches)
        return f"{self.row_id} ({self.kind})\n{body}{' …' if self.cut else ''}"


def first_rows(made: Artifact, count: int) -> list[Shown]:
    """The first training rows of each kind in a tokenizer artifact, `count` of each."""
    tokenizer, store = Tokenizer.load(made.path), TokenStore.open(made.path, "train")
    return [_shown(tokenizer, store, row) for row in _rows(store, count)]


def answer(made: Artifact, count: int, *, colour: bool) -> tuple[dict[str, Any], str]:
    """What `--show` prints: a document, and the rows as text under one sentence on how conversations are learned."""
    rows = first_rows(made, count)
    lines = [row.text(colour=colour) for row in rows]
    rule = None
    if any(row.kind == "conversation" for row in rows):
        rule = chat.learned_rule(Tokenizer.load(made.path))
        lines.insert(0, rule)
    return {"rows": [row.document() for row in rows], "rule": rule}, "\n\n".join(lines)


def _rows(store: TokenStore, count: int) -> Iterator[int]:
    seen: dict[str, int] = {}
    for row, kind in enumerate(store.rows["kind"].tolist()):
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= count:
            yield row


def _shown(tokenizer: Tokenizer, store: TokenStore, row: int) -> Shown:
    ids = store.tokens(row)[:MAX_TOKENS].tolist()
    learn = store.learn(row)[:MAX_TOKENS].tolist()
    names = {id_: special.encode() for special, id_ in tokenizer.special_ids.items()}
    spelled = [(names.get(id_) or tokenizer.token_bytes(id_), learned) for id_, learned in zip(ids, learn, strict=True)]
    stretches = tuple(
        (b"".join(part for part, _ in group).decode("utf-8", "replace"), learned)
        for learned, group in groupby(spelled, key=lambda item: item[1])
    )
    columns = store.rows
    cut = int(columns["length"][row]) > MAX_TOKENS
    return Shown(str(columns["row_id"][row]), str(columns["kind"][row]), stretches, cut)
