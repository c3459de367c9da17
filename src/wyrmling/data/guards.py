"""Whether what is left is enough to learn from, and what a person should know before it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from wyrmling.config import Clean, Settings
from wyrmling.core.errors import BadInput, NothingToLearn
from wyrmling.core.log import say, warn
from wyrmling.data.rows import TALKS, Row
from wyrmling.data.split import SCORED

# What a source must give for a task, and the settings that give it.
NEEDED = {
    "labelled": "text and label",
    "tagged": "words and tags",
    "conversation": "prompt and response, or messages, or chosen and rejected",
}
# A rule that drops a larger share of a source is worth a look.
MUCH = 0.2


def check(rows: Sequence[Row], settings: Settings) -> None:
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
    if kind == "conversation" and not fitting:
        # Preferred and rated answers are conversations too; they are what is learned where there is nothing else.
        fitting = [row for row in alive if row.kind in TALKS]
    if kind in NEEDED and not any(row.split == "train" for row in fitting):
        lost = sum(row.kind == kind for row in rows)
        raise BadInput(
            f"the task {task!r} learns from {kind} rows, and no source gives one to learn from"
            + (f"; {lost} were read, the rules that dropped most: {reasons}" if lost else ""),
            where="data.sources",
            fix=f"name the columns of a source: {NEEDED[kind]}",
        )
    if task == "classify" and len(names := {n for row in fitting if row.split == "train" for n in row.names}) < 2:
        raise NothingToLearn(
            f"all {len(fitting)} labelled rows have the same label {', '.join(names)!r}; rules that dropped most: "
            f"{reasons}",
            where="data.sources",
            fix="add rows with another label, or correct the column that `label` names",
        )
    if settings.data.split.test != 0 and not any(row.split == "test" for row in fitting):
        warn(f'no {kind} row is left to test on; add rows, or name a test file as a source with split = "test"')


def announce(rows: Sequence[Row], clean: Clean) -> None:
    """Warn of rules that drop much, and say what was masked and what was not looked for."""
    for line in losses(rows):
        warn(line)
    masked = Counter(kind for row in rows if row.alive for kind in row.redactions)
    found = ", ".join(f"{kind} {count}" for kind, count in sorted(masked.items()))
    if clean.pii == "mask" and clean.names is None:
        found = f"{found or 'none found'}; names of people are not looked for, see data.clean.names"
    if found:
        say(f"private data masked in rows: {found}")


def losses(rows: Sequence[Row]) -> list[str]:
    """One line for each rule that dropped over 20 % of a source."""
    read = Counter(row.source for row in rows)
    dropped = Counter((row.source, row.rules[-1]) for row in rows if row.verdict == "dropped")
    return [
        f"data.sources.{name}: {count} of {read[name]} rows were dropped by the rule {rule}"
        for (name, rule), count in sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
        if count > MUCH * read[name]
    ]
