"""Plots as inline SVG. Colours come by class from the page's style sheet, so they follow light and dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

# Where a plot's area begins and ends, in SVG units.
WIDTH = 640


class Bar(NamedTuple):
    """One system's value with its interval; None = no bound."""

    name: str
    value: float
    low: float | None
    high: float | None
    ours: bool


class Curve(NamedTuple):
    """A line through points; `ours` draws it in the first colour."""

    name: str
    points: list[tuple[float, float]]
    ours: bool


class Dot(NamedTuple):
    """A point with a name for its tooltip."""

    x: float
    y: float
    name: str
    ours: bool


def curves(lines: Sequence[Curve], title: str, across: str, up: str, *, log: bool = False) -> str:
    """Lines over one scale; across and up name the axes, log draws the first by its logarithm."""
    points = [point for line in lines for point in line.points]
    area = Area([x for x, _ in points], [y for _, y in points], log=log)
    parts = area.axes(across, up)
    # The lines of the first colour come last, over the others.
    for line in sorted(lines, key=lambda line: line.ours):
        kind, note = "ours" if line.ours else "theirs", f"<title>{escape(line.name)}</title>"
        places = [area.place(x, y) for x, y in line.points]
        if len(places) == 1:
            parts.append(
                f'<circle class="dot {kind}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3">{note}</circle>'
            )
        else:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline class="curve {kind}" points="{path}">{note}</polyline>')
    return _svg(WIDTH, area.height + 52, title, parts)


def dots(points: Sequence[Dot], title: str, across: str, up: str) -> str:
    """Points over one scale; numbers that span a factor of 20 are drawn by their logarithm."""
    xs = [point.x for point in points]
    log = min(xs) > 0 and max(xs) / min(xs) >= 20
    area = Area(xs, [point.y for point in points], log=log)
    parts = area.axes(across, up)
    for point in points:
        x, y = area.place(point.x, point.y)
        kind, note = "ours" if point.ours else "theirs", f"{escape(point.name)}: {point.y:.4g}"
        parts.append(f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{note}</title></circle>')
    return _svg(WIDTH, area.height + 52, title, parts)


class Area:
    """Where a value lies in a plot with two axes."""

    left, right, top, height = 64, WIDTH - 16, 12, 220

    def __init__(self, xs: Sequence[float], ys: Sequence[float], *, log: bool = False) -> None:
        self.log = log
        self.x0, self.x1 = self._span([self._scale(x) for x in xs])
        self.y0, self.y1 = self._span(list(ys))

    def _scale(self, x: float) -> float:
        return math.log10(x) if self.log else x

    @staticmethod
    def _span(values: list[float]) -> tuple[float, float]:
        low, high = min(values), max(values)
        pad = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
        return low - pad, high + pad

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (self._scale(x) - self.x0) / (self.x1 - self.x0)
        up = (y - self.y0) / (self.y1 - self.y0)
        return self.left + across * (self.right - self.left), self.top + (1 - up) * self.height

    def axes(self, across: str, up: str) -> list[str]:
        """Grid lines with their values, and the names of the axes."""
        parts = []
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            y = self.top + (1 - share) * self.height
            parts.append(f'<line class="grid" x1="{self.left}" y1="{y:.1f}" x2="{self.right}" y2="{y:.1f}"/>')
            parts.append(_text("tick", self.left - 6, y + 4, f"{self.y0 + share * (self.y1 - self.y0):.3g}", "end"))
            x, value = self.left + share * (self.right - self.left), self.x0 + share * (self.x1 - self.x0)
            parts.append(
                _text("tick", x, self.top + self.height + 16, f"{10**value if self.log else value:.3g}", "middle")
            )
        parts.append(_text("tick", (self.left + self.right) / 2, self.top + self.height + 34, across, "middle"))
        parts.append(_text("tick", 4, self.top - 2, up))
        return parts


def intervals(bars: Sequence[Bar], title: str) -> str:
    """A dot with a whisker per system on one scale."""
    ends = [x for bar in bars for x in (bar.value, bar.low, bar.high) if x is not None]
    low, high = min(ends), max(ends)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low, high = (max(0.0, low - pad) if low >= 0 else low - pad), high + pad
    left, right, step = 130, WIDTH - 70, 34

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    height = step * len(bars) + 36
    parts = []
    for i, bar in enumerate(bars):
        y, kind = 22 + step * i, "ours" if bar.ours else "theirs"
        parts.append(_text("label", left - 12, y + 4, bar.name, "end"))
        parts.append(f'<line class="grid" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>')
        if bar.low is not None and bar.high is not None:
            a, b = x(bar.low), x(bar.high)
            parts.append(f'<line class="whisker {kind}" x1="{a:.1f}" y1="{y}" x2="{b:.1f}" y2="{y}"/>')
            parts += [f'<line class="cap {kind}" x1="{e:.1f}" y1="{y - 6}" x2="{e:.1f}" y2="{y + 6}"/>' for e in (a, b)]
        parts.append(f'<circle class="dot {kind}" cx="{x(bar.value):.1f}" cy="{y}" r="4"/>')
        parts.append(_text("value", right + 10, y + 4, f"{bar.value:.3f}"))
    base = height - 16
    for value in (low, (low + high) / 2, high):
        parts.append(_text("tick", x(value), base + 8, f"{value:.3g}", "middle"))
    return _svg(WIDTH, height, title, parts)


def reliability(confidence: Sequence[float], right: Sequence[float], rows: Sequence[int], title: str) -> str:
    """Share right against mean confidence per bin; the diagonal is perfect calibration, dot sizes are rows."""
    size, left, top = 300, 44, 12
    most = max(rows)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * size, top + (1 - y) * size

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        (x, _), (_, y) = place(tick, 0), place(0, tick)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + size}" y2="{y:.1f}"/>')
        parts.append(_text("tick", left - 6, y + 4, f"{tick:g}", "end"))
        parts.append(_text("tick", x, top + size + 16, f"{tick:g}", "middle"))
    parts.append(f'<line class="diagonal" x1="{left}" y1="{top + size}" x2="{left + size}" y2="{top}"/>')
    points = [place(c, r) for c, r in zip(confidence, right, strict=True)]
    parts.append(f'<polyline class="curve" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
    for (x, y), c, r, n in zip(points, confidence, right, rows, strict=True):
        note = f"{n} rows: confidence {c:.3f}, right {r:.3f}"
        radius = 3 + 4 * (n / most) ** 0.5
        parts.append(
            f'<circle class="dot ours" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{note}</title></circle>'
        )
    parts.append(_text("tick", left + size / 2, top + size + 34, "confidence", "middle"))
    return _svg(left + size + 12, top + size + 42, title, parts)


def heatmap(labels: Sequence[str], cells: Sequence[tuple[int, int, int]], title: str, *, named: bool) -> str:
    """Confusion matrix, gold down, predicted across; shade is the share of the gold label's rows, errors are red.

    cells   (gold, predicted, rows); predicted -1 is drawn in an extra last column
    named   True writes labels and counts; for many labels only the pattern is drawn
    """
    n = len(labels)
    totals = [0] * n
    for gold, _, rows in cells:
        totals[gold] += rows
    missing = any(predicted < 0 for _, predicted, _ in cells)
    columns = n + missing
    left, top = (150, 110) if named else (8, 8)
    side = min(40.0, (WIDTH - left - 10) / columns)
    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{side * columns:.1f}" height="{side * n:.1f}"/>']
    for gold, predicted, rows in cells:
        column = n if predicted < 0 else predicted
        share = rows / totals[gold]
        kind = "right" if gold == predicted else "wrong"
        # A single error has to stay visible beside hundreds of right answers.
        shade = share if kind == "right" else 0.2 + 0.8 * share
        x, y = left + column * side, top + gold * side
        said = labels[predicted] if predicted >= 0 else "no prediction"
        note = escape(f"{labels[gold]} → {said}: {rows} of {totals[gold]}")
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}" '
            f'fill-opacity="{shade:.2f}"><title>{note}</title></rect>'
        )
        if named:
            parts.append(_text("count", x + side / 2, y + side / 2 + 4, str(rows), "middle"))
    if named:
        for i, label in enumerate(labels):
            short, y, x = _short(label, 20), top + (i + 0.5) * side + 4, left + (i + 0.5) * side
            parts.append(_text("label", left - 6, y, short, "end"))
            parts.append(_text("label", x, top - 6, short, turn=-45))
    # Room on the right for the last slanted label.
    return _svg(left + side * columns + (70 if named else 8), top + side * n + 8, title, parts)


def histogram(values: Sequence[float], title: str, unit: str, bins: int = 24) -> str:
    """How often each value occurs."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / span * bins))] += 1
    left, top, height = 44, 12, 160
    step, most = (WIDTH - left - 20) / bins, max(counts)
    parts = []
    for i, count in enumerate(counts):
        tall = height * count / most
        note = f"{low + span * i / bins:.3g} to {low + span * (i + 1) / bins:.3g} {escape(unit)}: {count}"
        parts.append(
            f'<rect class="column" x="{left + i * step + 1:.1f}" y="{top + height - tall:.1f}" width="{step - 2:.1f}" '
            f'height="{tall:.1f}"><title>{note}</title></rect>'
        )
    for share in (0.0, 0.5, 1.0):
        x = left + share * step * bins
        parts.append(_text("tick", x, top + height + 18, f"{low + span * share:.3g}", "middle"))
    parts.append(_text("tick", left - 6, top + 6, str(most), "end"))
    parts.append(_text("tick", WIDTH / 2, top + height + 36, unit, "middle"))
    return _svg(WIDTH, top + height + 44, title, parts)


def meter(value: float, low: float | None, high: float | None) -> str:
    """A small bar from 0 to 1 with its interval, for a table cell."""
    width, height = 90, 12
    parts = [f'<rect class="track" x="0" y="3" width="{width}" height="6"/>']
    parts.append(f'<rect class="fill" x="0" y="3" width="{value * width:.1f}" height="6"/>')
    if low is not None and high is not None:
        parts.append(f'<line class="whisker ours" x1="{low * width:.1f}" y1="6" x2="{high * width:.1f}" y2="6"/>')
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg class="meter" {size} aria-hidden="true">{"".join(parts)}</svg>'


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start", turn: int = 0) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(text)}</text>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    name = escape(title)
    return (
        f'<svg class="plot" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{name}">'
        f"<title>{name}</title>{''.join(parts)}</svg>"
    )
