"""A small project with rows of all four kinds, taken through the real data and tokenizer stages once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore

PROJECT = """
name = "small"
objective = { task = "classify" }

[data.sources.tickets]
path = "tickets.csv"
text = "text"
label = "team"

[data.sources.stories]
path = "stories.jsonl"
text = "text"

[data.sources.names]
path = "names.jsonl"
words = "words"
tags = "tags"

[data.sources.chats]
path = "chats.jsonl"
prompt = "question"
response = "answer"

[data.clean]
pii = "keep"

[data.dedup]
near = false

[tokenizer]
vocab_size = 400

[model]
layers = 2
width = 32
context = 64

[machine]
threads = 1
dtype = "float32"
"""

PEOPLE = ["Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Frances", "John", "Kathleen", "Niklaus"]
CITIES = ["London", "Boston", "Vienna", "Zurich", "Austin", "Turin", "Oslo", "Lisbon"]
THINGS = ["card", "parcel", "refund", "password"]
TEAMS = {"card": "payments", "parcel": "delivery", "refund": "money", "password": "access"}


class Small(NamedTuple):
    """The project's folder and its two finished stages."""

    project: Project
    data: Artifact
    tokens: Artifact

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.tokens.path)

    def store(self, split: str = "train") -> TokenStore:
        return TokenStore.open(self.tokens.path, split)

    def with_settings(self, *overrides: str, root: Path | None = None) -> Project:
        """The project with `section.key=value` overrides; `root` moves its results elsewhere."""
        project = config.load(self.project.root, overrides)
        return project if root is None else Project(root=root, settings=project.settings)


def write_rows(root: Path) -> None:
    """Ten people times four things: forty labelled rows, stories, tagged sentences and conversations."""
    rows = [(person, thing) for person in PEOPLE for thing in THINGS]
    with (root / "tickets.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["text", "team"])
        table.writerows([f"{person} asks where the {thing} of last week is", TEAMS[thing]] for person, thing in rows)
    city = {person: CITIES[i % len(CITIES)] for i, person in enumerate(PEOPLE)}
    _write_lines(
        root / "stories.jsonl",
        [{"text": f"{p} went to {city[p]} with a {t}. The {t} was lost, and {p} came home."} for p, t in rows],
    )
    _write_lines(
        root / "names.jsonl",
        [
            {"words": [p, "lost", "a", t, "in", city[p], "."], "tags": ["B-PER", "O", "O", "O", "O", "B-LOC", "O"]}
            for p, t in rows
        ],
    )
    _write_lines(
        root / "chats.jsonl",
        [{"question": f"Where is the {t} of {p}?", "answer": f"The {t} of {p} is in {city[p]}."} for p, t in rows],
    )


def _write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
