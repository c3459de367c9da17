"""The data card: what went in, what came out and why, for a person to read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from wyrmling.config import Settings
from wyrmling.data.guards import losses
from wyrmling.data.labels import REVIEW_FILE
from wyrmling.data.language import UNKNOWN
from wyrmling.data.rows import Row

BLOCKS = "▁▂▃▄▅▆▇█"
SHOWN_LABELS = 100
FEW_ROWS = 20
SHOWN_CLUSTERS = 15


def write_card(settings: Settings, rows: Sequence[Row], figures: dict[str, Any], inputs: dict[str, str]) -> str:
    """The card in Markdown. It holds counts and names, no text of any row."""
    alive = [row for row in rows if row.alive]
    parts = [
        f"# Data card: {settings.name}\n",
        f"Task: {settings.objective.task}. Seed: {settings.seed}. {settings.objective.goal or ''}".rstrip() + "\n",
        _warnings(settings, rows, figures),
        _funnel(settings, figures),
        _rules(figures),
        _splits(alive, figures),
        _lengths(alive),
        _languages(alive, figures),
        _labels(alive, figures, settings),
        _tags(alive),
        _duplicates(rows),
        _private(settings, figures),
        _inputs(inputs),
    ]
    return "\n".join(part for part in parts if part)


def _table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in cells) + "\n"


def _warnings(settings: Settings, rows: Sequence[Row], figures: dict[str, Any]) -> str:
    lines = losses(rows)
    lines += [
        f"the rule {rule} is restored: {figures['changes'].get(f'restored_{rule}', 0)} kept rows break it"
        for rule in settings.data.clean.restore
    ]
    sizes = {name: counts["kept"] for name, counts in figures["sources"].items()}
    for name, size in sizes.items():
        if len(sizes) > 1 and size > 0.5 * figures["kept"]:
            lines.append(f"data.sources.{name} has {size / figures['kept']:.0%} of the kept rows")
    return "## Worth knowing\n\n" + "\n".join(f"- {line}" for line in lines) + "\n" if lines else ""


def _funnel(settings: Settings, figures: dict[str, Any]) -> str:
    lines: list[list[object]] = []
    for name, counts in figures["sources"].items():
        source = settings.data.sources[name]
        lines.append([name, *counts.values(), source.split or "", source.licence or "not given"])
    lines.append(["**all**", figures["read"], figures["kept"], figures["dropped"], figures["errors"], "", ""])
    table = _table(["source", "read", "kept", "dropped", "errors", "official split", "licence"], lines)
    return f"## Rows\n\n{table}\nread = kept + dropped + errors; the reason for each row is in `ledger.parquet`.\n"


def _rules(figures: dict[str, Any]) -> str:
    lines = [[rule, count, f"{count / figures['read']:.1%}"] for rule, count in figures["by_rule"].items()]
    text = "## What was dropped\n\n" + (_table(["rule", "rows", "share"], lines) if lines else "Nothing.\n")
    changes = [[rule, count, f"{count / figures['read']:.1%}"] for rule, count in figures["changes"].items()]
    return text + ("\n## What was changed\n\n" + _table(["rule", "rows", "share"], changes) if changes else "")


def _splits(alive: list[Row], figures: dict[str, Any]) -> str:
    counts = Counter((row.source, row.kind, row.split) for row in alive)
    names = sorted({(source, kind) for source, kind, _ in counts})
    lines = [[s, k, *(counts[s, k, split] for split in ("train", "val", "test"))] for s, k in names]
    tests = {row.cluster for row in alive if row.split == "test" and row.cluster}
    shared = sum(row.split != "test" and row.cluster in tests for row in alive)
    note = f"\nRows outside the test split that are nearly the same as a test row: {shared}.\n"
    given = {rule: figures["by_rule"].get(rule, 0) for rule in ("in_test", "in_val", "overlaps_test", "overlaps_val")}
    if any(given.values()):
        found = ", ".join(f"{rule} {count}" for rule, count in given.items() if count)
        note += f"\nRows to learn from that were dropped because they give a held-out row away: {found}.\n"
    return "## Splits\n\n" + _table(["source", "kind", "train", "val", "test"], lines) + note


def _lengths(alive: list[Row]) -> str:
    lines = []
    for name in sorted({row.source for row in alive}):
        sizes = sorted(row.size for row in alive if row.source == name)
        quantiles = [sizes[min(len(sizes) - 1, int(share * len(sizes)))] for share in (0, 0.5, 0.9, 0.99)]
        lines.append([name, *quantiles, sizes[-1], sum(sizes), histogram(sizes)])
    header = ["source", "shortest", "median", "90 %", "99 %", "longest", "all", "by doubling length"]
    return "## Lengths in characters\n\n" + _table(header, lines)


def histogram(sizes: Sequence[int]) -> str:
    """Eight bars of how many sizes are in each doubling, up to the longest."""
    top = max(sizes).bit_length()
    counts = Counter(max(0, size.bit_length() - top + 7) for size in sizes)
    highest = max(counts.values())
    return "".join(BLOCKS[counts[k] * 7 // highest] if counts[k] else " " for k in range(8))


def _languages(alive: list[Row], figures: dict[str, Any]) -> str:
    if not figures["languages"]:
        return ""
    counts = Counter((row.source, row.language) for row in alive)
    sources = sorted({source for source, _ in counts})
    lines = [
        [code, count, f"{count / len(alive):.1%}", *(counts[source, code] for source in sources)]
        for code, count in figures["languages"].items()
    ]
    note = "\n`und`: too short or too mixed to tell.\n" if UNKNOWN in figures["languages"] else ""
    return "## Languages\n\n" + _table(["language", "rows", "share", *sources], lines) + note


def _labels(alive: list[Row], figures: dict[str, Any], settings: Settings) -> str:
    counts = Counter((name, row.split) for row in alive for name in row.names)
    totals: Counter[str] = Counter()
    for (label, _), count in counts.items():
        totals[str(label)] += count
    if not totals:
        return ""
    order = sorted(totals, key=lambda label: (-totals[label], label))
    lines = [[label, *(counts[label, split] for split in ("train", "val", "test"))] for label in order[:SHOWN_LABELS]]
    rest = f"\n{len(order) - SHOWN_LABELS} more labels are in `labels.json`.\n" if len(order) > SHOWN_LABELS else ""
    few = [label for label in order if counts[label, "train"] < FEW_ROWS]
    note = f"\n{len(few)} of {len(order)} labels have fewer than {FEW_ROWS} train rows.\n" if few else ""
    balance = f"\nThe largest label has {totals[order[0]]} rows, the smallest {totals[order[-1]]}.\n"
    return (
        "## Labels\n\n"
        + _table(["label", "train", "val", "test"], lines)
        + rest
        + balance
        + note
        + _review(figures, settings)
    )


REVIEWED = {
    "conflict": "equal texts with different labels",
    "near_conflict": "nearly equal texts with different labels",
    "likely_wrong": "a classifier that did not see the row is sure of another label",
}


def _review(figures: dict[str, Any], settings: Settings) -> str:
    lines = [[name, REVIEWED[name], count] for name, count in figures["labels_to_review"].items()]
    text = "\n" + _table(["to review", "because", "rows"], lines) if lines else ""
    text += f"\nThey are in `{REVIEW_FILE}`, the least believable first.\n" if lines else ""
    if settings.data.labels.check is False:
        text += "\nLikely wrong labels were not looked for: `data.labels.check = false`.\n"
    relabelled, dropped = figures["changes"].get("relabelled", 0), figures["by_rule"].get("review", 0)
    if settings.data.labels.review is not None:
        text += (
            f"\nBy `{settings.data.labels.review}` {relabelled} rows got another label and {dropped} were dropped.\n"
        )
    return text


def _tags(alive: list[Row]) -> str:
    counts = Counter((tag[2:], row.split) for row in alive for tag in row.tags if tag.startswith("B-"))
    types = sorted({kind for kind, _ in counts})
    lines = [[kind, *(counts[kind, split] for split in ("train", "val", "test"))] for kind in types]
    return "## Entities\n\n" + _table(["type", "train", "val", "test"], lines) if lines else ""


def _duplicates(rows: Sequence[Row]) -> str:
    clusters: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.cluster is not None:
            clusters[row.cluster].append(row)
    if not clusters:
        return ""
    largest = sorted(clusters.items(), key=lambda item: (-len(item[1]), item[0]))[:SHOWN_CLUSTERS]
    lines = []
    for name, group in largest:
        sources = Counter(row.source for row in group)
        first = next((row for row in group if row.alive), group[0])
        least = min((row.value for row in group if row.rules[-1:] == ["near_duplicate"] and row.value), default="")
        where = ", ".join(f"{source} {count}" for source, count in sorted(sources.items()))
        lines.append([f"`{name}`", len(group), sum(row.alive for row in group), least, where, first.origin])
    header = ["cluster", "rows", "kept", "least similarity", "sources", "kept row"]
    more = f"\n{len(clusters)} clusters in all.\n" if len(clusters) > len(largest) else ""
    return "## Clusters of equal and nearly equal texts\n\n" + _table(header, lines) + more


def _private(settings: Settings, figures: dict[str, Any]) -> str:
    if settings.data.clean.pii == "keep":
        return '## Private data\n\nNot looked for: `data.clean.pii = "keep"`.\n'
    lines = [[kind, count] for kind, count in figures["redactions"].items()]
    found = _table(["type", "masked"], lines) if lines else "None found by pattern.\n"
    names = settings.data.clean.names
    left = f"Names are those that `{names}` finds; postal" if names else "Names of people and postal"
    return f"## Private data\n\n{found}\n{left} addresses are not looked for.\n"


def _inputs(inputs: dict[str, str]) -> str:
    lines = [[name, f"`{digest}`"] for name, digest in sorted(inputs.items())]
    return "## Inputs\n\n" + _table(["input", "sha256"], lines)
