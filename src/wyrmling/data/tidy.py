"""What happens to each row alone: made whole, cleaned, judged, masked, measured."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from wyrmling.config import Clean
from wyrmling.core.errors import BadSetting
from wyrmling.data import names
from wyrmling.data.boilerplate import Boilerplate, shared_lines
from wyrmling.data.clean import clean_row, drop_running_heads, repair_surrogates
from wyrmling.data.dedup import digest
from wyrmling.data.filters import RESTORABLE, broken_rules
from wyrmling.data.language import UNKNOWN, language_of
from wyrmling.data.language import check as check_languages
from wyrmling.data.pii import mask_row
from wyrmling.data.rows import TALKS, Message, Row
from wyrmling.data.shapes import join_turns


def check(clean: Clean, root: Path) -> None:
    """Raises BadSetting for rules, languages, regions and functions that do not exist.

    root   the project folder, where functions in files of the project are found
    """
    for rule in clean.restore:
        if rule not in RESTORABLE:
            near = difflib.get_close_matches(rule, RESTORABLE, n=1)
            raise BadSetting(
                f"data.clean.restore names {rule!r}, which is no rule that can be restored",
                where="data.clean.restore",
                fix=(f"did you mean {near[0]!r}? " if near else "") + f"These can: {', '.join(RESTORABLE)}",
            )
    check_languages(clean.languages)
    if clean.pii == "mask":
        _check_region(clean.region)
        names.reach(root)
        names.finder(clean.names)


def _check_region(region: str) -> None:
    import phonenumbers

    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise BadSetting(
            f"data.clean.region = {region!r} is no country",
            fix="give its ISO 3166 code in capitals, such as US, GB or DE",
        )


def tidy(rows: Sequence[Row], clean: Clean, root: Path) -> None:
    """All of it for rows that are in memory, in place; the stage does the same shard by shard."""
    check(clean, root)
    make_whole(rows, clean)
    finish(rows, clean, shared_lines(rows) if removes_boilerplate(clean) else Boilerplate())


def removes_boilerplate(clean: Clean) -> bool:
    return clean.boilerplate and clean.profile != "code"


def make_whole(rows: Sequence[Row], clean: Clean) -> None:
    """Text that every later file and library can hold, conversations in turns, PDF pages without running heads."""
    pages: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not row.alive:
            continue
        row.rewrite("surrogates", repair_surrogates)
        if row.label is not None:
            row.label = repair_surrogates(row.label)
        row.tags = [repair_surrogates(tag) for tag in row.tags]
        row.kept = {name: repair_surrogates(value) for name, value in row.kept.items()}
        if row.kind in TALKS and (turns := _whole_turns(row)) != row.messages:
            row.messages = turns
            row.change("turns")
        if row.family == "pdf" and clean.unicode:
            clean_row(row)
            pages.setdefault((row.source, row.origin.rpartition(" page ")[0]), []).append(row)
    for of_file in pages.values():
        drop_running_heads(of_file)


def finish(rows: Sequence[Row], clean: Clean, shared: Boilerplate) -> None:
    """Clean, judge, mask and measure rows that were made whole."""
    spared = frozenset(clean.restore)
    for row in rows:
        row.spared = spared
        if row.alive:
            shared.remove(row)
            _finish(row, clean)
        measure(row)


def measure(row: Row) -> None:
    """What later decisions need to know of the text: its length, the key of its matching form, who speaks."""
    body = row.body
    row.size, row.key = len(body), digest(body) if row.alive else b""
    row.roles = ",".join(message.role for message in row.messages)


def _finish(row: Row, clean: Clean) -> None:
    if clean.unicode:
        clean_row(row, code=clean.profile == "code" and row.kind == "document")
    if (reason := _hollow(row)) is not None:
        row.drop(reason)
        return
    if clean.language or clean.languages:
        row.language = language_of(row.body)
    fit = row.held_out or not _is_unfit(row, clean)
    if fit and clean.pii == "mask":
        mask_row(row, clean.region, names.finder(clean.names))


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
    if row.kind in TALKS:
        roles = [message.role for message in row.messages]
        answers = [message.content.strip() for message in row.messages[-2:]]
        if "assistant" not in roles or (row.kind == "pair" and not all(answers)):
            return "no_answer"
        if "user" not in roles:
            return "no_prompt"
        if row.kind == "rating" and roles[-1] != "assistant":
            return "no_answer"
        if row.kind == "pair" and answers[0] == answers[1]:
            return "no_difference"
    return None


def _whole_turns(row: Row) -> list[Message]:
    """The messages with neighbouring turns of one role joined; the two answers of a pair stay apart."""
    if row.kind != "pair":
        return join_turns(row.messages)
    return [*join_turns(row.messages[:-2]), *row.messages[-2:]]
