"""The data stage: read, clean, mask, judge, drop duplicates, split, and account for every row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wyrmling.config import Clean, Project, Settings, Source
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key
from wyrmling.core.errors import BadInput, BadSetting, NothingToLearn
from wyrmling.core.log import say, warn
from wyrmling.core.progress import bar
from wyrmling.data import card, ledger
from wyrmling.data.clean import clean_row, drop_running_heads, repair_surrogates
from wyrmling.data.duplicates import mark_duplicates
from wyrmling.data.filters import judge
from wyrmling.data.pii import mask_row
from wyrmling.data.read import Origin, find_origin, read_source
from wyrmling.data.rows import Row
from wyrmling.data.shapes import join_turns
from wyrmling.data.split import SCORED, assign

VERSION = 1

# What a source must give for a task, and the settings that give it.
NEEDED = {"labelled": "text and label", "tagged": "words and tags", "conversation": "prompt and response, or messages"}


def run(project: Project) -> Artifact:
    """The project's data artifact: examples.parquet, ledger.parquet, labels.json and card.md.

    Raises   BadInput naming file, row, column or query; NothingToLearn when no row, or only one label, is left
    """
    settings = project.settings
    origins = [find_origin(name, source, project.root) for name, source in settings.data.sources.items()]
    inputs = {name: digest for origin in origins for name, digest in origin.inputs.items()}
    key = Key("data", settings.name, inputs=inputs, settings=_shaping(settings), version=VERSION)
    if (done := artifact.find(project.runs, key)) is not None:
        return done
    with artifact.create(project.runs, key, project.meter()) as draft:
        rows = prepare(origins, settings)
        _check(rows, settings)
        ledger.write(draft.path, rows)
        draft.figures = ledger.figures(rows)
        text = card.write_card(settings, rows, draft.figures, inputs)
        (draft.path / "card.md").write_text(text, encoding="utf-8", newline="\n")
    return draft.done


def load(data: Artifact) -> Any:
    """The examples of a data artifact as a pyarrow table of EXAMPLE_SCHEMA."""
    import pyarrow.parquet as pq

    return pq.read_table(data.path / "examples.parquet")


def _shaping(settings: Settings) -> dict[str, Any]:
    data = settings.data.model_dump(mode="json")
    for source in data["sources"].values():
        if source["url"]:
            source["url"] = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", source["url"])
    return {"data": data, "seed": settings.seed, "task": settings.objective.task}


def prepare(origins: Sequence[Origin], settings: Settings) -> list[Row]:
    """All rows of the sources with their verdicts and splits, in the order of sources and records."""
    data = settings.data
    rows: list[Row] = []
    for origin in origins:
        rows += read_source(origin, data.split.group)
    if data.split.group and not any(row.group for row in rows):
        raise BadInput(
            f"no source has the column {data.split.group!r}", where="data.split.group", fix="correct it or leave it out"
        )
    tidy(rows, data.clean)
    mark_duplicates(rows, data.dedup, list(data.sources))
    assign(rows, data.split, seed=settings.seed, task=settings.objective.task)
    return rows


def tidy(rows: Sequence[Row], clean: Clean) -> None:
    """Clean, mask and judge rows, in place."""
    for row in rows:
        if row.verdict != "error":
            _make_whole(row)
    if clean.unicode:
        _tidy_pages(rows)
    if clean.pii == "mask":
        _check_region(clean.region)
    with bar("cleaning", len(rows)) as progress:
        for number, row in enumerate(rows):
            if row.alive:
                _tidy_row(row, clean)
            if number % 500 == 0:
                progress.at(number)


def _make_whole(row: Row) -> None:
    """Text that every later file and library can hold, whatever the settings; conversations in alternating turns."""
    row.rewrite("surrogates", repair_surrogates)
    if row.label is not None:
        row.label = repair_surrogates(row.label)
    row.tags = [repair_surrogates(tag) for tag in row.tags]
    if row.kind == "conversation" and (turns := join_turns(row.messages)) != row.messages:
        row.messages = turns
        row.change("turns")


def _tidy_pages(rows: Sequence[Row]) -> None:
    pages: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.family == "pdf" and row.alive:
            clean_row(row)
            pages.setdefault((row.source, row.origin.rpartition(" page ")[0]), []).append(row)
    for of_file in pages.values():
        drop_running_heads(of_file)


def _tidy_row(row: Row, clean: Clean) -> None:
    if clean.unicode:
        clean_row(row, code=clean.profile == "code" and row.kind == "document")
    if (reason := _hollow(row)) is not None:
        row.drop(reason)
    elif len(row.body) < clean.min_chars and not row.held_out:
        row.drop("too_short", value=len(row.body), threshold=f">= {clean.min_chars}")
    elif clean.profile and row.kind == "document" and not row.held_out and (bad := judge(row.text, clean.profile)):
        row.drop(bad.rule, value=f"{bad.value:.4g}", threshold=bad.threshold)
    elif clean.pii == "mask":
        mask_row(row, clean.region)


def _hollow(row: Row) -> str | None:
    """The rule by which a row holds nothing: no text, no label, no answer. That holds for test rows too."""
    if not row.body.strip():
        return "empty"
    if row.kind == "labelled" and row.label is None:
        return "no_label"
    if row.kind == "conversation":
        roles = [message.role for message in row.messages]
        if "assistant" not in roles:
            return "no_answer"
        if "user" not in roles:
            return "no_prompt"
    return None


def _check_region(region: str) -> None:
    import phonenumbers

    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise BadSetting(
            f"data.clean.region = {region!r} is no country",
            fix="give its ISO 3166 code in capitals, such as US, GB or DE",
        )


def _check(rows: Sequence[Row], settings: Settings) -> None:
    """Refuse data that the task can't learn from. Raises NothingToLearn, or BadInput when a setting is missing."""
    alive = [row for row in rows if row.alive]
    why = Counter(row.rules[-1] for row in rows if not row.alive).most_common(3)
    reasons = ", ".join(f"{rule} ({count})" for rule, count in why) or "none"
    if not any(row.split == "train" for row in alive):
        raise NothingToLearn(
            f"of {len(rows)} rows read none is left to learn from; the rules that dropped most: {reasons}",
            where="data",
            fix="loosen these rules under data.clean and data.dedup, or add rows",
        )
    task = settings.objective.task
    kind = SCORED[task]
    fitting = [row for row in alive if row.kind == kind]
    if kind in NEEDED and not any(row.split == "train" for row in fitting):
        lost = sum(row.kind == kind for row in rows)
        raise BadInput(
            f"the task {task!r} learns from {kind} rows, and no source gives one to learn from"
            + (f"; {lost} were read, the rules that dropped most: {reasons}" if lost else ""),
            where="data.sources",
            fix=f"name the columns of a source: {NEEDED[kind]}",
        )
    if task == "classify" and len(names := {row.label for row in fitting if row.split == "train"}) < 2:
        raise NothingToLearn(
            f"all {len(fitting)} labelled rows have the same label {names.pop()!r}; rules that dropped most: {reasons}",
            where="data.sources",
            fix="add rows with another label, or correct the column that `label` names",
        )
    if settings.data.split.test != 0 and not any(row.split == "test" for row in fitting):
        warn(f'no {kind} row is left to test on; add rows, or name a test file as a source with split = "test"')
    _warn_of_losses(rows)


def _warn_of_losses(rows: Sequence[Row]) -> None:
    for name in dict.fromkeys(row.source for row in rows):
        of_source = [row for row in rows if row.source == name]
        rules = Counter(row.rules[-1] for row in of_source if row.verdict == "dropped")
        for rule, count in rules.most_common(2):
            if count > 0.2 * len(of_source):
                warn(f"data.sources.{name}: {count} of {len(of_source)} rows were dropped by the rule {rule}")
    masked = Counter(kind for row in rows if row.alive for kind in row.redactions)
    if masked:
        say("private data masked in rows: " + ", ".join(f"{kind} {count}" for kind, count in sorted(masked.items())))


def read_examples(project: Project, path: Path) -> Any:
    """The rows of a test file, read and cleaned like the project's own sources, as a table of EXAMPLE_SCHEMA.

    Columns are those of the first source, official test sources first, whose settings fit the file.
    Raises   BadInput when no source's settings fit, or when the file has no row that the task can be tested on
    """
    settings = project.settings
    sources = sorted(settings.data.sources.items(), key=lambda item: item[1].split != "test")
    first: BadInput | None = None
    for name, source in sources:
        try:
            rows = read_source(find_origin(name, _like(source, path), project.root))
        except BadInput as error:
            first = first or error
            continue
        if any(row.kind == SCORED[settings.objective.task] for row in rows):
            tidy(rows, settings.data.clean)
            for row in rows:
                row.split = "test"
            return ledger.examples(rows)
    raise first or BadInput(
        f"{path} has no rows for the task {settings.objective.task!r}", fix="give a file like the sources"
    )


def _like(source: Source, path: Path) -> Source:
    return source.model_copy(
        update={"path": str(path.resolve()), "url": None, "query": None, "format": None, "split": "test"}
    )
