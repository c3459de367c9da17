"""Standard suites: which there are, and how a model does on one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wyrmling.core.artifact import write_durably
from wyrmling.core.errors import UsageError
from wyrmling.evaluate.suites import definition

SHOWN_PARTS = 12


def listing() -> tuple[dict[str, Any], str]:
    """The shipped suites."""
    known = definition.shipped()
    document = {name: {"about": suite.about, "kind": suite.kind, "files": suite.files} for name, suite in known.items()}
    return {"suites": document}, "\n".join(f"{name:12} {suite.about}" for name, suite in known.items())


def run(
    reference: str,
    model: Path,
    data: Path | None,
    *,
    limit: int | None,
    shots: int | None,
    run_code: bool,
    out: Path | None,
) -> tuple[dict[str, Any], str]:
    """A model on a suite: the document without the single answers, which go to `out`, and its text.

    Raises   UsageError for an unknown suite or one without its data
    """
    suite = definition.find(reference)
    if data is None:
        raise UsageError(
            f"the data of the suite {suite.name} is not part of the package",
            fix=f"name the folder that holds {suite.files}: --data DIR",
        )
    from wyrmling.evaluate.suites import run as asking

    document = asking.run(suite, model, data, limit=limit, shots=shots, run_code=run_code)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_durably(out, json.dumps(document, ensure_ascii=False, indent=1).encode())
    document.pop("answers")
    return document, _text(document)


def _text(document: dict[str, Any]) -> str:
    lines = [f"{document['suite']}: {document['items']:,} items"]
    lines += [f"  {name:14} {_score(found)}" for name, found in document["metrics"].items()]
    for title in ("families", "groups"):
        parts = list(document[title].items())
        if parts:
            lines += ["", f"{title}, the worst first"]
            lines += [f"  {_score(found)}  {name}" for name, found in parts[:SHOWN_PARTS]]
        if len(parts) > SHOWN_PARTS:
            lines.append(f"  and {len(parts) - SHOWN_PARTS} more; all with --json")
    return "\n".join(lines)


def _score(found: dict[str, Any]) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
