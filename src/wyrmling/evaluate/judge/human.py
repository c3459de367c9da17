"""Answers that people judged: read from a file, to see whether the judge says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wyrmling.core.errors import BadInput
from wyrmling.evaluate.judge.wording import FIRST, SCORES, SECOND, Item, Word

# Below either, a judge is not known to see what people see. Landis and Koch 1977 call less than 0.4 fair at best.
LEAST_ROWS, LEAST_KAPPA = 50, 0.4


def columns(item: Item) -> dict[str, Any]:
    """An item as a row of such a file, for a person to fill in `human`."""
    answers = (
        {"answer": item.answers[0]} if len(item.answers) == 1 else dict(zip((FIRST, SECOND), item.answers, strict=True))
    )
    return {"question": item.question, "expected": item.expected, **answers, "human": None}


def read(path: Path, *, two: bool) -> list[tuple[Item, Word]]:
    """The rows that a person judged; those whose `human` is null or missing are not judged yet.

    two      rows of two answers, whose `human` is "first", "second" or "tie"; else of one, whose is 1 to 5
    Raises   BadInput naming the first line that is not such a row, or the file when it has none
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} can't be read: {error}", where="evaluate.judge.human", fix="name a file") from error
    found = [row for n, line in enumerate(lines, 1) if line.strip() and (row := _row(line, f"{path}:{n}", two=two))]
    if not found:
        raise BadInput(f"{path} holds no row that a person judged", where=path, fix='fill in "human"')
    return found


def _row(line: str, where: str, *, two: bool) -> tuple[Item, Word] | None:
    names = ("question", FIRST, SECOND) if two else ("question", "answer")
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
        fix = "give rows of one answer for one model, and rows of two, first and second, with --against"
        raise BadInput(f"not a JSON object with the texts {', '.join(names)}", where=where, fix=fix)
    expected, word = row.get("expected"), row.get("human")
    item = Item(row["question"], expected if isinstance(expected, str) else None, tuple(row[n] for n in names[1:]))
    if word is None:
        return None
    if type(word) not in (int, str) or word not in item.words:
        allowed = "first, second or tie" if two else f"a whole number from {SCORES[0]} to {SCORES[-1]}"
        raise BadInput(f'"human" is {word!r}', where=where, fix=f"write {allowed}, or null for not judged yet")
    return item, word
