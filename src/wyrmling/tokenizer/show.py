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
    """A row of the store: its stretches of text, special tokens by name, each learned or not.

    cut     more follows
    label   of a labelled row: what `classify` learns instead of the text
    """

    row_id: str
    kind: str
    stretches: tuple[tuple[str, bool], ...]
    cut: bool
    label: str | None = None

    def document(self) -> dict[str, Any]:
        parts = [{"text": text, "learned": learned} for text, learned in self.stretches]
        return {"row_id": self.row_id, "kind": self.kind, "stretches": parts, "cut": self.cut, "label": self.label}

    def text(self, *, colour: bool) -> str:
        """One paragraph; learned text stands between ⟦ and ⟧, in colour for a terminal."""
        before, after = (COLOUR + BEGIN, END + PLAIN) if colour else (BEGIN, END)
        body = "".join(before + text + after if learned else text for text, learned in self.stretches)
        label = "" if self.label is None else f" → {before}{self.label}{after}"
        return f"{self.row_id} ({self.kind})\n{body}{' …' if self.cut else ''}{label}"


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
    stretches = tuple(
        (text_of(tokenizer, [id_ for id_, _ in group]), learned)
        for learned, group in groupby(zip(ids, learn, strict=True), key=lambda item: item[1])
    )
    columns = store.rows
    cut = int(columns["length"][row]) > MAX_TOKENS
    number = int(columns["label"][row])
    label = store.labels[number] if number >= 0 else None
    return Shown(str(columns["row_id"][row]), str(columns["kind"][row]), stretches, cut, label)


def text_of(tokenizer: Tokenizer, ids: list[int], before: int = -1) -> str:
    """The text of ids, special tokens by name.

    before   the token that they follow, which some tokenizers tell a blank from; -1: none
    """
    names = {id_: special for special, id_ in tokenizer.special_ids.items()}
    runs = groupby(ids, key=lambda id_: id_ in names)
    alone = "".join("".join(names[id_] for id_ in run) if named else tokenizer.decode(run) for named, run in runs)
    if before < 0 or not ids or before in names or ids[0] in names:
        return alone
    first, both = tokenizer.decode([before]), text_of(tokenizer, [before, *ids])
    # Half a character reads otherwise once the other half is there.
    return both.removeprefix(first) if both.startswith(first) else alone
