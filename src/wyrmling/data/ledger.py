"""What a data artifact says about itself: examples, ledger, labels and figures, all from the same rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wyrmling.core.records import EXAMPLE_SCHEMA, LEDGER_SCHEMA
from wyrmling.data.labels import Finding
from wyrmling.data.rows import TALKS, Row
from wyrmling.data.stored import Stored, load_shard


def write(folder: Path, stored: Stored, licences: Mapping[str, str | None]) -> None:
    """Write examples.parquet, ledger.parquet and labels.json; the same rows give the same bytes.

    licences   of the sources, by name

    Shard by shard, each a row group, so that neither file is ever held whole.
    """
    import pyarrow.parquet as pq

    with (
        pq.ParquetWriter(folder / "examples.parquet", EXAMPLE_SCHEMA, compression="zstd") as kept,
        pq.ParquetWriter(folder / "ledger.parquet", LEDGER_SCHEMA, compression="zstd") as all_rows,
    ):
        for path, rows in stored.by_shard():
            pairs = list(zip(rows, load_shard(path), strict=True))
            kept.write_table(
                _table([_example(row, full, licences) for row, full in pairs if row.alive], EXAMPLE_SCHEMA)
            )
            all_rows.write_table(_table([_ledger_row(row, full) for row, full in pairs], LEDGER_SCHEMA))
    text = json.dumps(labels(stored.rows), indent=1, ensure_ascii=False)
    (folder / "labels.json").write_text(text + "\n", encoding="utf-8")


def examples(rows: Sequence[Row]) -> Any:
    """The kept rows as a pyarrow table of EXAMPLE_SCHEMA; they hold their texts."""
    return _table([_example(row, row, {}) for row in rows if row.alive], EXAMPLE_SCHEMA)


def _table(values: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(values, schema=schema)


def _example(row: Row, full: Row, licences: Mapping[str, str | None]) -> dict[str, Any]:
    """What was decided about a row, its texts, and the licence of its source."""
    tagged, talk, pair = row.kind == "tagged", row.kind in TALKS, row.kind == "pair"
    messages = [{"role": m.role, "content": m.content} for m in full.messages]
    return {
        "row_id": row.row_id,
        "source": row.source,
        "origin": row.origin,
        "kind": row.kind,
        "split": row.split,
        "text": None if talk else full.body,
        "label": None if row.kind == "rating" or row.labels is not None else row.label,
        "labels": row.labels,
        "words": full.words if tagged else None,
        "tags": row.tags if tagged else None,
        "messages": (messages[:-2] if pair else messages) if talk else None,
        "chosen": messages[-2]["content"] if pair else None,
        "rejected": messages[-1]["content"] if pair else None,
        "rating": row.label == "good" if row.kind == "rating" else None,
        "cluster": row.cluster,
        "licence": licences.get(row.source),
        "kept": json.dumps(full.kept, ensure_ascii=False) if full.kept else None,
        **_bytes(full),
    }


def _bytes(full: Row) -> dict[str, int | None]:
    start, end = full.span or (None, None)
    return {"byte_start": start, "byte_end": end}


def _ledger_row(row: Row, full: Row) -> dict[str, Any]:
    return {
        "row_id": row.row_id,
        "source": row.source,
        "origin": row.origin,
        "verdict": row.verdict,
        "rule": ",".join(row.rules if row.alive else row.rules[-1:]) or None,
        "value": row.value,
        "threshold": row.threshold,
        "kept_id": row.kept_id,
        "cluster": row.cluster,
        "redactions": json.dumps(row.redactions) if row.redactions else None,
        "split": row.split if row.alive else None,
        "language": row.language,
        **_bytes(full),
    }


def labels(rows: Sequence[Row]) -> dict[str, Any]:
    """The labels of kept rows, sorted, their tags, sorted with "O" first, and whether a row may have several labels."""
    alive = [row for row in rows if row.alive]
    labelled = [row for row in alive if row.kind == "labelled"]
    tags = {tag for row in alive for tag in row.tags}
    return {
        "labels": sorted({name for row in labelled for name in row.names}),
        "several": any(row.labels is not None for row in labelled),
        "tags": sorted(tags, key=lambda tag: (tag != "O", tag)),
    }


def figures(rows: Sequence[Row], findings: Sequence[Finding]) -> dict[str, Any]:
    """Counts for the manifest. `read = kept + dropped + errors` holds for all rows and for each source."""
    alive = [row for row in rows if row.alive]
    redactions: Counter[str] = Counter()
    for row in alive:
        redactions.update(row.redactions)
    splits = Counter(row.split for row in alive)
    sources = list(dict.fromkeys(row.source for row in rows))
    return {
        **_balance(rows),
        "by_rule": _sorted(Counter(row.rules[-1] for row in rows if not row.alive)),
        "changes": _sorted(Counter(rule for row in alive for rule in row.rules)),
        "splits": {name: splits[name] for name in ("train", "val", "test")},
        "kinds": _sorted(Counter(row.kind for row in alive)),
        "characters": sum(row.size for row in alive),
        "redactions": _sorted(redactions),
        "languages": _sorted(Counter(row.language for row in alive if row.language is not None)),
        "clusters": len({row.cluster for row in rows if row.cluster is not None}),
        "labels_to_review": _sorted(Counter(finding.problem for finding in findings)),
        "sources": {name: _balance([row for row in rows if row.source == name]) for name in sources},
    }


def _balance(rows: Sequence[Row]) -> dict[str, int]:
    kept = sum(row.alive for row in rows)
    dropped = sum(row.verdict == "dropped" for row in rows)
    errors = sum(row.verdict == "error" for row in rows)
    if kept + dropped + errors != len(rows):
        raise AssertionError(f"{len(rows)} rows read, but {kept} kept + {dropped} dropped + {errors} errors")
    return {"read": len(rows), "kept": kept, "dropped": dropped, "errors": errors}


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# Why a row is not among the examples, by rule; the quality rules are explained by their value and threshold.
REASONS = {
    "empty": "it has no text",
    "no_label": "it has no label",
    "no_answer": "the conversation has no answer",
    "no_prompt": "the conversation has no question",
    "no_difference": "the chosen and the rejected answer are the same",
    "bad_tags": "it has a tag that is neither O nor B- nor I-",
    "unreadable": "it can't be read",
    "review": "the label review says drop",
    "exact_duplicate": "its text and label are those of a kept row",
    "near_duplicate": "its text is nearly that of a kept row",
    "in_test": "its text stands in an official test source",
    "in_val": "its text stands in an official validation source",
    "overlaps_test": "it gives a test row away",
    "overlaps_val": "it gives a validation row away",
}


def explain(row: Mapping[str, Any]) -> str:
    """One sentence on what became of a row of ledger.parquet, and why."""
    rule = row["rule"] or ""
    measured = f"{row['value']}; the rule {rule} asks for {row['threshold']}" if row["threshold"] else row["value"]
    if row["verdict"] in ("dropped", "error"):
        reason = REASONS.get(rule, rule.replace("_", " "))
        return f"{'not read' if row['verdict'] == 'error' else 'dropped'}: {reason}" + (
            f" ({measured})" if measured else ""
        )
    changed = f", changed by {rule.replace(',', ', ')}" if rule else ", unchanged"
    return f"kept in the {row['split']} split{changed}"
