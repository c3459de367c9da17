"""The rows in the report: errors with their nearest training rows, changed answers, and all rows behind filters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from wyrmling.evaluate import charts, metrics
from wyrmling.evaluate.entities import Entity, entities
from wyrmling.evaluate.html import more, place, section, shown, small, table, text
from wyrmling.evaluate.label_set_outcome import LabelSetOutcome
from wyrmling.evaluate.measure import Evaluation
from wyrmling.evaluate.tasks import text_of

WORST = 50
# Changed answers shown of each kind.
CHANGED = 15
# A page over this gets slow: then errors, and of the right rows as many as fit.
MOST_BYTES = 5_000_000
FLIPS = {(False, True): "fixed", (True, False): "broken", (True, True): "both right", (False, False): "both wrong"}


def spread(found: Evaluation) -> str:
    """How hard the texts are."""
    columns = found.model.columns
    if "text_nats" not in columns:
        return ""
    values = [_bits(columns, i) for i in range(len(columns["bytes"]))]
    plot = charts.histogram(values, "Texts by bits per byte", "bits per byte")
    return section("Bits per byte of each text", f"<figure>{plot}</figure>")


def _bits(columns: Mapping[str, Sequence[Any]], i: int) -> float:
    return metrics.bits_per_byte(columns["text_nats"][i], columns["bytes"][i])


def errors(found: Evaluation) -> str:
    """The 50 worst rows, each with the training rows nearest to it."""
    task = found.document["task"]
    if task == "classify" and found.document["confusion"] is None:
        return _label_set_errors(found)
    if "gold" in found.model.columns and "predicted" not in found.model.columns:
        return _other_words(found, "answer")
    if task == "classify" and "score" not in found.model.columns:
        return _other_words(found, "predicted")
    if task == "classify":
        return _class_errors(found)
    return _tag_errors(found) if task == "tag" else _hard_texts(found)


def _class_errors(found: Evaluation) -> str:
    columns, labels = found.model.columns, found.document["confusion"]["labels"]
    wrong = [i for i in range(len(found.rows.test)) if columns["predicted"][i] != columns["gold"][i]]
    worst = sorted(wrong, key=lambda i: -columns["score"][i])[:WORST]
    index = {label: i for i, label in enumerate(labels)}
    lines = [
        [
            text(found.rows.test[i]) + _nearest(found, i),
            escape(columns["gold"][i]),
            escape(columns["predicted"][i]),
            f"{columns['score'][i]:.3f}",
            f"{columns['probabilities'][i][index[columns['gold'][i]]]:.3f}",
            place(found.rows.test[i]),
        ]
        for i in worst
    ]
    title = f"The {len(worst)} most confident errors of {len(wrong):,}"
    heads = ["text", "gold", "predicted", "p predicted", "p gold", "where"]
    return section(title, table(heads, lines, numbers=(3, 4), running=0) if lines else "<p>No errors.</p>")


def _other_words(found: Evaluation, column: str) -> str:
    """Rows of a model that is only known by its words, where these are not the expected ones."""
    columns, rows = found.model.columns, found.rows.test
    wrong = [i for i in range(len(rows)) if columns[column][i] != columns["gold"][i]]
    lines = [
        [
            text(rows[i]) + _nearest(found, i),
            escape(columns["gold"][i]),
            escape(columns[column][i] or "no usable answer"),
            place(rows[i]),
        ]
        for i in wrong[:WORST]
    ]
    heads = ["text", "gold", "answer", "where"]
    title = f"{len(lines)} of {len(wrong):,} other answers than expected"
    return section(title, table(heads, lines, running=0) if lines else "<p>No errors.</p>")


def _label_set_errors(found: Evaluation) -> str:
    """The rows with most labels too many or too few."""
    outcome, columns = found.model.outcome, found.model.columns
    assert isinstance(outcome, LabelSetOutcome)
    apart = (outcome.gold_NC ^ outcome.predicted_NC).sum(1).tolist()
    wrong = sorted((i for i, count in enumerate(apart) if count), key=lambda i: -apart[i])
    lines = [
        [
            text(found.rows.test[i]) + _nearest(found, i),
            escape(_said(found, columns["gold"][i])),
            escape(_said(found, columns["predicted"][i])),
            place(found.rows.test[i]),
        ]
        for i in wrong[:WORST]
    ]
    title = f"The {len(lines)} rows with most wrong labels of {len(wrong):,}"
    heads = ["text", "gold", "predicted", "where"]
    return section(title, table(heads, lines, running=0) if lines else "<p>No errors.</p>")


def _tag_errors(found: Evaluation) -> str:
    columns = found.model.columns
    lines = []
    for i, (gold, predicted) in enumerate(zip(columns["gold"], columns["predicted"], strict=True)):
        true, said, row = set(entities(gold)), set(entities(predicted)), found.rows.test[i]
        if true != said:
            cells = [_marked(row["words"], true, said) + _nearest(found, i), _marked(row["words"], said, true)]
            lines.append((len(true ^ said), [*cells, place(row)]))
    lines.sort(key=lambda line: -line[0])
    worst = [cells for _, cells in lines[:WORST]]
    body = table(["gold", "predicted", "where"], worst, running=0) if worst else "<p>No errors.</p>"
    return section(f"The {len(worst)} sentences with most errors of {len(lines):,}", body)


def _hard_texts(found: Evaluation) -> str:
    columns, rows = found.model.columns, found.rows.test
    answers = columns.get("answer", [None] * len(rows))
    worst = sorted(range(len(rows)), key=lambda i: -_bits(columns, i))[:WORST]
    lines = []
    for i in worst:
        said = "" if answers[i] is None else f'<p class="soft">the model: {escape(answers[i])}</p>'
        body = text(rows[i]) + said + _nearest(found, i)
        lines.append([f"{_bits(columns, i):.3f}", str(columns["bytes"][i]), body, place(rows[i])])
    return section(
        "Hardest texts", table(["bits per byte", "bytes", "text", "where"], lines, numbers=(0, 1), running=2)
    )


def _nearest(found: Evaluation, i: int) -> str:
    """The training rows nearest to a test row, behind a fold."""
    near = found.near.nearest[i]
    if not near:
        return ""
    lines = []
    for one in near:
        row = found.rows.train[one.row]
        label = f"<b>{escape(row['label'])}</b> " if row["label"] else ""
        where = f"similarity {one.similarity:.2f}, {row['origin']}"
        lines.append(f"<li>{label}{text(row)} {small(where)}</li>")
    return more("nearest training rows", f"<ul>{''.join(lines)}</ul>")


def _marked(words: Sequence[str], ours: set[Entity], others: set[Entity]) -> str:
    """The sentence with its entities marked; those the other side does not have are outlined."""
    starts = {entity.start: entity for entity in ours}
    parts, i = [], 0
    while i < len(words):
        entity = starts.get(i)
        if entity is None:
            parts.append(escape(words[i]))
            i += 1
            continue
        kind = "" if entity in others else ' class="wrong"'
        inside = escape(" ".join(words[entity.start : entity.end + 1]))
        parts.append(f"<mark{kind}>{inside} <small>{escape(entity.type)}</small></mark>")
        i = entity.end + 1
    return " ".join(parts)


def _changes(found: Evaluation, name: str) -> list[str] | None:
    """Each row's fate between another system and the model; None where rows are not right or wrong."""
    new, old = found.model.outcome.right(), found.beside[name].outcome.right()
    if new is None or old is None:
        return None
    return [FLIPS[bool(before), bool(after)] for before, after in zip(old, new, strict=True)]


def flips(found: Evaluation) -> str:
    """What changed from another model to this one, with rows of each kind."""
    parts = []
    for name in found.document["opponents"]:
        changes = _changes(found, name)
        if changes is None:
            continue
        counts = ", ".join(f"{changes.count(kind):,} {kind}" for kind in FLIPS.values())
        parts.append(f"<p><b>{escape(name)}</b> → this model: {counts}.</p>")
        for kind in ("broken", "fixed"):
            rows = [i for i, change in enumerate(changes) if change == kind][:CHANGED]
            if rows:
                lines = [_change(found, name, i) for i in rows]
                heads = ["text", "gold", f"{escape(name)} said", "this model says"]
                parts.append(more(f"{kind}: {len(rows)} of {changes.count(kind):,}", table(heads, lines, running=0)))
    return section("Changed answers", "".join(parts)) if parts else ""


def _change(found: Evaluation, name: str, i: int) -> list[str]:
    sides = (found.model.columns["gold"], found.beside[name].columns["predicted"], found.model.columns["predicted"])
    return [text(found.rows.test[i]), *(escape(_said(found, side[i])) for side in sides)]


def _said(found: Evaluation, answer: str | Sequence[str]) -> str:
    """A label, several of them, or the entities of a sentence's tags."""
    if isinstance(answer, str):
        return answer
    if isinstance(found.model.outcome, LabelSetOutcome):
        return ", ".join(answer) or "none"
    return " ".join(f"{entity.type} {entity.start}-{entity.end}" for entity in entities(answer)) or "none"


# ---- all rows, for the script ----


def explorer(found: Evaluation) -> str:
    """Every row as data, and the place where the script shows those that pass its filters."""
    changes = {f"{name} → model": kinds for name in found.beside if (kinds := _changes(found, name)) is not None}
    columns = {name: values for name, values in found.columns.items() if name != "label"} | changes
    right = found.model.outcome.right()
    records = [
        _record(found, i, None if right is None else bool(right[i]), columns) for i in range(len(found.rows.test))
    ]
    kept = _within(records)
    left = f"; of {len(records):,} rows the errors and a sample of the others" if len(kept) < len(records) else ""
    data = json.dumps(kept, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return section(
        "All rows",
        f'<p class="soft">{len(kept):,} rows{left}. The filters need the page\'s script.</p>'
        '<div id="filters" class="filters"></div><div id="rows" class="wide"></div>'
        f'<script type="application/json" id="data">{data}</script>',
    )


def _record(found: Evaluation, i: int, right: bool | None, filters: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row for the script: what is shown of it, and under `filter` what it can be found by."""
    row, columns = found.rows.test[i], found.model.columns
    record: dict[str, Any] = {"row_id": row["row_id"], "text": shown(row), "where": row["origin"]}
    chosen: dict[str, str] = {}
    if right is None and "text_nats" not in columns:
        record["gold"], record["said"] = columns["gold"][i], columns["answer"][i]
    elif right is None:
        record["said"] = f"{_bits(columns, i):.3f} bits per byte"
    else:
        chosen["outcome"] = "right" if right else "wrong"
        record["gold"], record["said"] = (_said(found, columns[name][i]) for name in ("gold", "predicted"))
    if "score" in columns:
        record["confidence"] = round(float(columns["score"][i]), 4)
        chosen |= {"gold": record["gold"], "predicted": record["said"]}
    record["filter"] = chosen | {name: values[i] for name, values in filters.items()}
    record["nearest"] = [text_of(found.rows.train[one.row])[:200] for one in found.near.nearest[i][:1]]
    return record


def _within(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records that fit the page: wrong rows first, then the others in their order."""
    order = sorted(range(len(records)), key=lambda i: records[i]["filter"].get("outcome") == "right")
    sizes = np.cumsum([len(json.dumps(records[i], ensure_ascii=False).encode()) for i in order])
    chosen = sorted(order[: max(1, int((sizes <= MOST_BYTES).sum()))])
    return [records[i] for i in chosen]
