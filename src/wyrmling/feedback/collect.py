"""The accepted feedback of a project as files to learn from: an artifact with lines that lead back to the answers.

`examples.jsonl` (and for text `pairs.jsonl`, `rated.jsonl`) are learned from. A fixed share, chosen by the hash of what
was asked, goes to `regression.jsonl` instead: it is never learned from, and every later model is tested on it.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wyrmling.config import Feedback as Settings
from wyrmling.config import Project, Task
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key, write_durably
from wyrmling.core.reviews import Said
from wyrmling.feedback.examples import Example, Form, Nothing, examples

VERSION = 1
STAGE = "feedback"
EXAMPLES, PAIRS, RATED, REGRESSION = "examples.jsonl", "pairs.jsonl", "rated.jsonl", "regression.jsonl"
# What these files are called as sources of a project, in the same order.
SOURCES = ("accepted_feedback", "accepted_pairs", "accepted_ratings")


@dataclass(frozen=True)
class Collected:
    """What accepted feedback gives.

    learned   examples to learn from
    frozen    examples to test on, never to learn from
    left_out  why feedback gives nothing -> how often
    """

    learned: list[Example] = field(default_factory=list)
    frozen: list[Example] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def collect(accepted: Sequence[Said], settings: Settings, task: Task) -> Collected:
    """The examples of accepted feedback, oldest first as given.

    Of several about the same text the newest counts. One user, or one key where no user is named, gives at most
    `settings.max_per_user` of them: whoever sends more can't steer the model alone.
    """
    found, left_out = Collected(), Counter[str]()
    newest: dict[tuple[Form, str], Example] = {}
    for said in accepted:
        try:
            made = examples(said, task)
        except Nothing as reason:
            left_out[str(reason)] += 1
            continue
        for example in made:
            place = example.form, matching(example.asked)
            left_out["repeated"] += place in newest
            # Put back at the end: the order is that of the newest feedback.
            newest.pop(place, None)
            newest[place] = example
    given: Counter[tuple[Form, str]] = Counter()
    for (form, asked), example in newest.items():
        if form == "examples" and is_frozen(asked, settings.regression_share):
            found.frozen.append(example)
            continue
        if is_frozen(asked, settings.regression_share):
            left_out["frozen_text"] += 1
            continue
        who = example.said.feedback.user or example.said.feedback.key_id
        if who is not None and given[form, who] >= settings.max_per_user:
            left_out["over_the_cap"] += 1
            continue
        given[form, who or ""] += 1
        found.learned.append(example)
    found.left_out.update(+left_out)
    return found


def matching(text: str) -> str:
    """The text without what does not make it another: case, marks and spaces."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\W_]+", " ", plain).strip() or text


def is_frozen(asked: str, share: float) -> bool:
    """Whether a text, in matching form, belongs to the frozen share. A text never changes sides."""
    digest = hashlib.sha256(f"wyrmling regression\0{asked}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def run(project: Project, accepted: Sequence[Said]) -> Artifact:
    """The artifact of accepted feedback: found when nothing was accepted since, else written."""
    settings = project.settings.feedback
    found = collect(accepted, settings, project.settings.objective.task)
    files: dict[str, list[Example]] = {}
    for example in found.learned:
        files.setdefault(f"{example.form}.jsonl", []).append(example)
    if found.frozen:
        files[REGRESSION] = found.frozen
    texts = {name: _lines(rows) for name, rows in files.items()}
    shaping: dict[str, Any] = settings.model_dump(mode="json", include={"max_per_user", "regression_share"})
    shaping["task"] = project.settings.objective.task
    inputs = {name: artifact.digest(text) for name, text in texts.items()}
    key = Key(STAGE, project.settings.name, inputs, shaping, VERSION)
    if (done := artifact.find(project.runs, key)) is not None:
        return done
    with artifact.create(project.runs, key, project.meter()) as draft:
        for name, text in texts.items():
            write_durably(draft.path / name, text.encode("utf-8", "surrogatepass"))
        draft.figures = {
            "accepted": len(accepted),
            **{form: len(files.get(f"{form}.jsonl", ())) for form in ("examples", "pairs", "rated")},
            "regression": len(found.frozen),
            "left_out": dict(found.left_out),
            "users": len({one.feedback.user or one.feedback.key_id for one in accepted}),
        }
    return draft.done


def _lines(rows: Iterable[Example]) -> str:
    return "".join(json.dumps(row.line(), ensure_ascii=False) + "\n" for row in rows)


def artifacts_with(project: Project, feedback_ids: Iterable[str]) -> list[Path]:
    """The feedback artifacts that hold a line of some feedback: what an erasure has to reach."""
    wanted, found = set(feedback_ids), []
    for folder in sorted((project.runs / STAGE).glob(f"{project.settings.name}-*")):
        lines = (line for file in folder.glob("*.jsonl") for line in file.read_text(encoding="utf-8").splitlines())
        if any(json.loads(line)["feedback_id"] in wanted for line in lines):
            found.append(folder)
    return found
