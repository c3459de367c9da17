"""The ladder as text for a terminal, as Markdown, and as one HTML file that works offline."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from wyrmling.evaluate import charts, html, metrics
from wyrmling.evaluate.ladder import Ladder, Line

HEADS = (
    "rung", "value", "95 % interval", "to the best cheap", "95 % interval", "p (Holm)", "p50 ms", "p95 ms", "memory MB",
    "minutes", "USD", "Wh", "verdict",
)  # fmt: skip
NUMBERS = tuple(range(1, 12))


def text(ladder: Ladder) -> str:
    """The table, what was left out and the recommendation, for a terminal."""
    rows = [_cells(ladder, line) for line in ladder.lines]
    widths = [max(len(row[i]) for row in [list(HEADS), *rows]) for i in range(len(HEADS))]
    table = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [HEADS, *rows]]
    left = [f"left out: {one.name}: {one.reason}" for one in ladder.left_out]
    return "\n".join([_about(ladder), *table, *left, f"use {ladder.recommended}: {ladder.why}"])


def markdown(ladder: Ladder) -> str:
    """The same as a Markdown table."""
    rule = ["---"] + ["---:"] * len(NUMBERS) + ["---"]
    rows = [list(HEADS), rule, *(_cells(ladder, line) for line in ladder.lines)]
    table = ["| " + " | ".join(row) + " |" for row in rows]
    left = [f"- left out: {one.name}: {one.reason}" for one in ladder.left_out]
    parts = [_about(ladder), "", *table, "", *left, "", f"**Use {ladder.recommended}**: {ladder.why}.", ""]
    return "\n".join(parts)


def page_of(ladder: Ladder, *, goal: str | None, notes: list[str]) -> str:
    """One HTML file. Nothing in it comes from rows."""
    title = escape(goal or f"Ladder for the task {ladder.task}")
    bars = [
        charts.Bar(line.rung.name, q.value, q.low, q.high, line.rung.name == ladder.recommended)
        for line in ladder.lines
        if (q := line.quality).value is not None
    ]
    plot = charts.intervals(bars, f"{ladder.metric} of each rung") if bars else ""
    rows = [[escape(cell) for cell in _cells(ladder, line)] for line in ladder.lines]
    direction = "Lower is better." if ladder.metric in metrics.LOWER_IS_BETTER else "Higher is better."
    what = [[escape(line.rung.name), escape(line.rung.what), html.small(line.rung.artifact)] for line in ladder.lines]
    left = [[escape(one.name), escape(one.reason)] for one in ladder.left_out]
    sections = [
        f"<header><h1>{title}</h1><p class=\"soft\">{escape(_about(ladder))}</p></header>",
        f'<section><div class="big">Use {escape(ladder.recommended)}</div><p>{escape(ladder.why)}.</p></section>',
        html.section("Rungs", f'<p class="soft">{ladder.metric}. {direction}</p><figure>{plot}</figure>'
                     + html.table(HEADS, rows, numbers=NUMBERS)),
        html.section("Left out", html.table(["rung", "why"], left)) if left else "",
        html.section("What they are", html.table(["rung", "what it is", "artifact"], what) + html.notes(notes)),
    ]  # fmt: skip
    return html.document(f"Ladder: {goal or ladder.task}", sections)


def _about(ladder: Ladder) -> str:
    return (
        f"{ladder.task}: {ladder.metric} on the same {ladder.rows:,} test rows; minutes, USD and Wh are what it "
        "takes to get a rung ready, p50, p95 and memory what it takes to answer"
    )


def _cells(ladder: Ladder, line: Line) -> list[str]:
    rung, difference = line.rung, line.difference
    change = ["best cheap", "", ""] if rung.name == ladder.reference else ["", "", ""]
    if difference is not None:
        change = [
            f"{difference.value:+.4f}",
            html.interval(difference._asdict()),
            html.p_value(difference.p),
        ]
    quality = line.quality.as_dict()
    return [
        rung.name,
        html.figure(quality),
        html.interval(quality),
        *change,
        _measured(line, "latency_p50_ms", "{:.1f}".format),
        _measured(line, "latency_p95_ms", "{:.1f}".format),
        _measured(line, "memory_mb", "{:,.0f}".format),
        f"{rung.making['seconds'] / 60:.2f}",
        f"{rung.making['usd']:.4f}",
        f"{rung.making['wh']:.3f}",
        "" if rung.verdict is None else rung.verdict.status,
    ]


def _measured(line: Line, name: str, shown: Callable[[float], str]) -> str:
    score = line.rung.measured.get(name)
    return "" if score is None or score.value is None else shown(score.value)
