"""Questions to the data stage: what it would drop, why a row is gone, what differs between two runs; undoing a rule."""

from __future__ import annotations

import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wyrmling import config
from wyrmling.config import PROJECT_FILE, Project
from wyrmling.core import artifact
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadSetting, UsageError, WyrmlingError
from wyrmling.flow import facts, stages
from wyrmling.flow.stages import Said

if TYPE_CHECKING:
    from wyrmling.data.rows import Row
    from wyrmling.data.stored import Stored

EXAMPLES, SNIPPET_CHARS = 3, 100
SHOWN_ROWS = 20


def preview(project: Project) -> Said:
    """What each rule would drop, with examples; nothing is written. The problem that would stop the stage is said."""
    from wyrmling.data import guards, ledger, run

    with run.look(project) as (stored, findings):
        rows = stored.rows
        figures = ledger.figures(rows, findings)
        try:
            guards.check(rows, project.settings)
            problem = None
        except WyrmlingError as error:
            problem = str(error)
        examples = _examples(stored, project.settings.data.clean.region)
    document = {name: figures[name] for name in ("read", "kept", "dropped", "errors", "by_rule", "changes", "splits")}
    document |= {"examples": examples, "warnings": guards.losses(rows), "problem": problem, "artifact": None}
    lines = [
        f"dry run, nothing is written: would read {figures['read']:,}  keep {figures['kept']:,}  "
        f"drop {figures['dropped']:,}  errors {figures['errors']:,}"
    ]
    for rule, count in figures["by_rule"].items():
        lines.append(f"  {rule:<24} {count:>8,}  {count / figures['read']:.1%}")
        lines += [_example_line(example) for example in examples[rule]]
    return document, "\n".join(lines + ([f"the stage would stop: {problem}"] if problem else []))


def _examples(stored: Stored, region: str) -> dict[str, list[dict[str, Any]]]:
    """The first rows that each rule drops, with private data masked."""
    from wyrmling.data.pii import mask

    first: dict[str, list[Row]] = defaultdict(list)
    for row in stored.rows:
        if not row.alive and len(of_rule := first[row.rules[-1]]) < EXAMPLES:
            of_rule.append(row)
    bodies = stored.bodies([row for of_rule in first.values() for row in of_rule])
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for rule, of_rule in first.items():
        for row in of_rule:
            (text,), _ = mask([" ".join(bodies[row.row_id][: 4 * SNIPPET_CHARS].split())], region)
            found[rule].append(
                {
                    "row_id": row.row_id,
                    "origin": row.origin,
                    "value": row.value,
                    "threshold": row.threshold,
                    "kept_id": row.kept_id,
                    "text": text[:SNIPPET_CHARS],
                }
            )
    return dict(found)


def _example_line(example: Mapping[str, Any]) -> str:
    asked = f"; asks for {example['threshold']}" if example["threshold"] else ""
    measured = f"  [{example['value']}{asked}]" if example["value"] else ""
    return f"      {example['origin']}{measured}  {example['text']}"


def why(project: Project, name: str) -> Said:
    """What became of a row, named by its id or the start of it, by its origin, or by the file it came from.

    Raises   UsageError when no data artifact or no such row is there
    """
    from wyrmling.data import ledger

    made = facts.newest(project, "data")
    if made is None:
        raise UsageError("there is no data artifact yet", fix="make one with: wyrmling data")
    table = _table(made)
    found = _find(table, name.removeprefix("row-"))
    if not found:
        raise UsageError(
            f"{made.path.name} has no row {name!r}",
            fix="give a row id or an origin of ledger.parquet, such as data/tickets.csv:12 or guide.pdf page 3",
        )
    origins = _origins(table, {row["kept_id"] for row in found if row["kept_id"]})
    answers = [{**row, "why": ledger.explain(row), "kept_origin": origins.get(row["kept_id"] or "")} for row in found]
    by_rule = Counter(row["rule"] or "unchanged" for row in found)
    lines = [
        f"{row['origin']}  ({row['row_id']}, source {row['source']})\n  {row['why']}"
        + (f"\n  the other row: {row['kept_origin']}  ({row['kept_id']})" if row["kept_origin"] else "")
        for row in answers[:SHOWN_ROWS]
    ]
    if len(found) > SHOWN_ROWS:
        lines.append(f"{len(found)} rows in all: " + ", ".join(f"{rule} {n}" for rule, n in by_rule.most_common()))
    return {"artifact": str(made.path), "rows": answers, "by_rule": dict(by_rule)}, "\n".join(lines)


def _table(data: Artifact) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(data.path / "ledger.parquet")


def _find(table: Any, name: str) -> list[dict[str, Any]]:
    """Rows whose id or origin is `name`; else those whose id starts with it, or whose file or folder it names."""
    import pyarrow.compute as pc

    row_id, origin = table["row_id"], table["origin"]
    wanted = pc.or_(pc.equal(row_id, name), pc.equal(origin, name))
    if not pc.any(wanted).as_py():
        for mark in (":", " ", "/", "!"):
            wanted = pc.or_(wanted, pc.starts_with(origin, name + mark))
            wanted = pc.or_(wanted, pc.match_substring(origin, f"/{name}{mark}"))
        wanted = pc.or_(wanted, pc.ends_with(origin, f"/{name}"))
        if len(name) >= 4:
            wanted = pc.or_(wanted, pc.starts_with(row_id, name))
    found: list[dict[str, Any]] = table.filter(wanted).to_pylist()
    return found


def _origins(table: Any, ids: set[str]) -> dict[str, str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = table.filter(pc.is_in(table["row_id"], pa.array(sorted(ids), pa.string())))
    return dict(zip(rows["row_id"].to_pylist(), rows["origin"].to_pylist(), strict=True))


def diff(project: Project, one: str, other: str) -> Said:
    """How two data artifacts differ: settings, inputs, rows that came and went, rows that were decided otherwise."""
    before, after = _open(project, one), _open(project, other)
    old, new = _outcomes(before), _outcomes(after)
    moved = {row_id: f"{was} -> {new[row_id]}" for row_id, was in old.items() if new.get(row_id, was) != was}
    shown = list(moved)[:SHOWN_ROWS]
    origins = _origins(_table(after), set(shown))
    document = {
        "before": _counts(before),
        "after": _counts(after),
        "settings": _changes(before.manifest["settings"], after.manifest["settings"]),
        "inputs": _changes(before.manifest["inputs"], after.manifest["inputs"]),
        "rows_added": len(new.keys() - old.keys()),
        "rows_removed": len(old.keys() - new.keys()),
        "changed": dict(Counter(moved.values()).most_common()),
        "examples": [
            {"row_id": row_id, "origin": origins[row_id], "before": old[row_id], "after": new[row_id]}
            for row_id in shown
        ],
    }
    return document, "\n".join(_diff_lines(document))


def _outcomes(data: Artifact) -> dict[str, str]:
    """Row id -> its split, or the rule that dropped it."""
    table = _table(data)
    rows = zip(*(table[name].to_pylist() for name in ("row_id", "verdict", "split", "rule")), strict=True)
    return {row_id: str(split if verdict in ("kept", "changed") else rule) for row_id, verdict, split, rule in rows}


def _counts(data: Artifact) -> dict[str, Any]:
    names = ("read", "kept", "dropped", "errors", "by_rule", "splits")
    return {"artifact": str(data.path), **{name: data.figures[name] for name in names}}


def _changes(before: Any, after: Any, name: str = "") -> dict[str, list[Any]]:
    """Dotted name -> [before, after] of every value that differs."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return {} if before == after else {name: [before, after]}
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys([*before, *after]):
        found |= _changes(before.get(key), after.get(key), f"{name}.{key}" if name else key)
    return found


def _diff_lines(document: Mapping[str, Any]) -> Iterable[str]:
    for side in ("before", "after"):
        counts = document[side]
        yield (
            f"{side:<7} read {counts['read']:,}  kept {counts['kept']:,}  dropped {counts['dropped']:,}  "
            f"errors {counts['errors']:,}  {Path(counts['artifact']).name}"
        )
    for kind in ("settings", "inputs"):
        yield from (f"  {kind}: {name}: {old!r} -> {new!r}" for name, (old, new) in document[kind].items())
    yield f"  rows added {document['rows_added']:,}, removed {document['rows_removed']:,}"
    yield from (f"  {change:<40} {count:>8,}" for change, count in document["changed"].items())


def _open(project: Project, name: str) -> Artifact:
    """A data artifact by its folder, its folder's name, or its id or the start of it."""
    folder = project.runs / "data"
    exact = [path for path in (Path(name), folder / name) if (path / artifact.MANIFEST).is_file()]
    found = exact or [path.parent for path in folder.glob(f"*-{name}*/{artifact.MANIFEST}")]
    if len(found) != 1 and not exact:
        here = ", ".join(sorted(path.parent.name for path in folder.glob(f"*/{artifact.MANIFEST}"))) or "none"
        said = "more than one data artifact fits" if found else "there is no data artifact"
        raise UsageError(f"{said} {name!r}", fix=f"those of this project are: {here}")
    return artifact.open_artifact(found[0])


def restore(project: Project, rule: str) -> Said:
    """Write the rule into data.clean.restore of the project file, run the stage again, and say what came back.

    Raises   BadSetting for a rule that can't be restored, or a project file that has to be edited by hand
    """
    from wyrmling.data.filters import RESTORABLE

    if rule not in RESTORABLE:
        raise BadSetting(f"{rule!r} is no rule that can be restored", fix=f"these can: {', '.join(RESTORABLE)}")
    before = stages.data(project)
    if rule in project.settings.data.clean.restore:
        document, text = stages.data_answer(before)
        return {**document, "restored": 0}, f"{rule} was restored before\n{text}"
    _add_to_file(project.root / PROJECT_FILE, rule)
    wanted = [*project.settings.data.clean.restore, rule]
    clean = project.settings.data.clean.model_copy(update={"restore": tuple(wanted)})
    settings = project.settings.model_copy(update={"data": project.settings.data.model_copy(update={"clean": clean})})
    after = stages.data(Project(project.root, settings))
    document, text = stages.data_answer(after)
    came_back = after.figures["changes"].get(f"restored_{rule}", 0)
    said = f"{PROJECT_FILE}: data.clean.restore has {rule!r} now; {came_back} rows are no longer dropped by it"
    return {**document, "restored": came_back}, f"{said}\n{text}"


RESTORE_LINE = re.compile(r"^restore[ \t]*=.*$", re.MULTILINE)
HEADER = re.compile(r"^[ \t]*\[data\.clean\][ \t]*(?:#.*)?\r?$", re.MULTILINE)
NEXT_HEADER = re.compile(r"^[ \t]*\[", re.MULTILINE)


def _add_to_file(path: Path, rule: str) -> None:
    """Put the rule into the list of the project file, and leave every other character as it is."""
    text = path.read_bytes().decode("utf-8")  # as it is: \r\n stays \r\n
    old = tomllib.loads(text)
    rules = [*old["data"].get("clean", {}).get("restore", ()), rule]
    line = f"restore = [{', '.join(repr(name).replace(chr(39), chr(34)) for name in rules)}]"
    changed = _with_line(text, line)
    expected = {**old, "data": {**old["data"], "clean": {**old["data"].get("clean", {}), "restore": rules}}}
    try:
        same = tomllib.loads(changed) == expected
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise BadSetting(
            f"data.clean is written in a way that can't be edited by program, so {rule!r} was not added",
            where=path,
            fix=f"write under [data.clean]: {line}",
        )
    config.parse(expected, where=PROJECT_FILE)
    artifact.write_durably(path, changed.encode())


def _with_line(text: str, line: str) -> str:
    header = HEADER.search(text)
    if header is None:
        return f"{text.rstrip()}\n\n[data.clean]\n{line}\n"
    start = header.end()
    following = NEXT_HEADER.search(text, start)
    end = following.start() if following else len(text)
    section = text[start:end]
    if RESTORE_LINE.search(section):
        section = RESTORE_LINE.sub(lambda _: line, section, count=1)
    else:
        section = f"\n{line}{section}"
    return text[:start] + section + text[end:]
