"""The data stage: read, clean, mask, judge, drop duplicates, split, and account for every row."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wyrmling.config import Clean, Project, Settings, Source, Split
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact, Key
from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.core.progress import bar
from wyrmling.data import card, guards, labels, ledger, page
from wyrmling.data.clean import PAGED, clean_row, drop_boilerplate, drop_running_heads, repair_surrogates
from wyrmling.data.contamination import decontaminate
from wyrmling.data.duplicates import mark_duplicates
from wyrmling.data.filters import RESTORABLE, broken_rules
from wyrmling.data.labels import Finding
from wyrmling.data.language import UNKNOWN, language_of
from wyrmling.data.language import check as check_languages
from wyrmling.data.pii import mask_row
from wyrmling.data.read import Origin, find_origin, read_source
from wyrmling.data.rows import Row
from wyrmling.data.shapes import join_turns
from wyrmling.data.split import SCORED, assign

VERSION = 3


def run(project: Project) -> Artifact:
    """The project's data artifact: examples.parquet, ledger.parquet, labels.json, label_review.csv and the data card.

    Raises   BadInput naming file, row, column or query; NothingToLearn when no row, or only one label, is left
    """
    origins = find_origins(project)
    key = key_of(project, origins)
    if (done := artifact.find(project.runs, key)) is None:
        with artifact.create(project.runs, key, project.meter()) as draft:
            rows, findings = prepare(project, origins)
            guards.announce(rows)
            guards.check(rows, project.settings)
            ledger.write(draft.path, rows)
            draft.figures = ledger.figures(rows, findings)
            if findings or project.settings.data.labels.check:
                labels.write_review(draft.path, findings)
            text = card.write_card(project.settings, rows, draft.figures, dict(key.inputs))
            (draft.path / "card.md").write_text(text, encoding="utf-8", newline="\n")
        done = draft.done
    page.write(done)
    return done


def look(project: Project) -> tuple[list[Row], list[Finding]]:
    """All rows as `run` would decide about them, and the labels to review; nothing is written."""
    rows, findings = prepare(project, find_origins(project))
    guards.announce(rows)
    return rows, findings


def find_origins(project: Project) -> list[Origin]:
    """The files and query rows of every source, hashed. Raises BadInput naming a source that has none."""
    return [find_origin(name, source, project.root) for name, source in project.settings.data.sources.items()]


def key_of(project: Project, origins: Sequence[Origin]) -> Key:
    """What the data artifact depends on: settings, input files and the review file."""
    inputs = {name: digest for origin in origins for name, digest in origin.inputs.items()}
    review = _review_file(project)
    if review is not None and review.is_file():
        inputs["data.labels.review"] = artifact.file_digest(review)
    return Key("data", project.settings.name, inputs=inputs, settings=_shaping(project.settings), version=VERSION)


def _review_file(project: Project) -> Path | None:
    review = project.settings.data.labels.review
    return None if review is None else project.root / review


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


def prepare(project: Project, origins: Sequence[Origin]) -> tuple[list[Row], list[Finding]]:
    """All rows of the sources with their verdicts and splits, in the order of sources and records; labels to review."""
    settings = project.settings
    data = settings.data
    rows = _read(origins, data.split)
    if (review := _review_file(project)) is not None:
        labels.apply_review(rows, review)
    tidy(rows, data.clean)
    labels.settle_tags(rows)
    mark_duplicates(rows, data.dedup, list(data.sources))
    assign(rows, data.split, seed=settings.seed, task=settings.objective.task)
    if data.split.decontaminate:
        decontaminate(rows)
    return rows, labels.find_problems(rows, data.labels)


def _read(origins: Sequence[Origin], split: Split) -> list[Row]:
    rows = [row for origin in origins for row in read_source(origin, split.group)]
    if split.group and not any(row.group for row in rows):
        raise BadInput(
            f"no source has the column {split.group!r}", where="data.split.group", fix="correct it or leave it out"
        )
    if split.date is not None:
        # A reader hands over one column beside the text, so the dates come from a second reading. What is wrong with
        # the files was said at the first.
        with contextlib.redirect_stderr(io.StringIO()):
            again = [row for origin in origins for row in read_source(origin, split.date)]
        for row, dated in zip(rows, again, strict=True):
            row.date = dated.group
        if not any(row.date for row in rows):
            raise BadInput(
                f"no source has the column {split.date!r}", where="data.split.date", fix="correct it or leave it out"
            )
    return rows


def tidy(rows: Sequence[Row], clean: Clean) -> None:
    """Clean, mask and judge rows, in place."""
    spared = _spared(clean)
    check_languages(clean.languages)
    for row in rows:
        row.spared = spared
        if row.alive:
            _make_whole(row)
    if clean.unicode:
        _tidy_pages(rows)
    if clean.boilerplate and clean.profile != "code":
        _drop_shared_lines(rows)
    if clean.pii == "mask":
        _check_region(clean.region)
    with bar("cleaning", len(rows)) as progress:
        for number, row in enumerate(rows):
            if row.alive:
                _tidy_row(row, clean)
            if number % 500 == 0:
                progress.at(number)


def _spared(clean: Clean) -> frozenset[str]:
    for rule in clean.restore:
        if rule not in RESTORABLE:
            near = difflib.get_close_matches(rule, RESTORABLE, n=1)
            raise BadSetting(
                f"data.clean.restore names {rule!r}, which is no rule that can be restored",
                where="data.clean.restore",
                fix=(f"did you mean {near[0]!r}? " if near else "") + f"These can: {', '.join(RESTORABLE)}",
            )
    return frozenset(clean.restore)


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


def _drop_shared_lines(rows: Sequence[Row]) -> None:
    pages: dict[str, list[Row]] = {}
    for row in rows:
        if row.alive and row.kind == "document" and row.family in PAGED:
            pages.setdefault(row.source, []).append(row)
    for of_source in pages.values():
        drop_boilerplate(of_source)


def _tidy_row(row: Row, clean: Clean) -> None:
    if clean.unicode:
        clean_row(row, code=clean.profile == "code" and row.kind == "document")
    if (reason := _hollow(row)) is not None:
        row.drop(reason)
        return
    if clean.language or clean.languages:
        row.language = language_of(row.body)
    fit = row.held_out or not _is_unfit(row, clean)
    if fit and clean.pii == "mask":
        mask_row(row, clean.region)


def _is_unfit(row: Row, clean: Clean) -> bool:
    """Judge a row to learn from; True when a rule dropped it."""
    if len(row.body) < clean.min_chars and row.drop(
        "too_short", value=len(row.body), threshold=f">= {clean.min_chars}"
    ):
        return True
    foreign = bool(clean.languages) and row.language not in (*clean.languages, UNKNOWN)
    if foreign and row.drop("language", value=row.language, threshold=", ".join(clean.languages)):
        return True
    if clean.profile is None or row.kind != "document":
        return False
    broken = broken_rules(row.text, clean.profile)
    return any(row.drop(bad.rule, value=f"{bad.value:.4g}", threshold=bad.threshold) for bad in broken)


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
