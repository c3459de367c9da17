"""The evaluation for people: lines for the terminal, and one HTML file that needs no network and no script.

Rows are untrusted: every text is escaped, and the page's policy forbids anything but its own style sheet.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from wyrmling.core.artifact import Artifact
from wyrmling.evaluate import charts, metrics
from wyrmling.evaluate.tasks import Example

WORST = 50
# Up to this many labels a confusion matrix can be read with names and counts.
NAMED_LABELS = 16
SHOWN_CHARACTERS = 600
# What a reader looks at first; the rest of the metrics is behind a fold.
FIRST = (
    "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "mcc", "log_loss", "brier", "ece", "entity_f1",
    "entity_precision", "entity_recall", "macro_entity_f1", "token_accuracy", "bpb", "loss", "perplexity",
)  # fmt: skip
# Compared with the baselines in the open; the others behind a fold.
BESIDE = ("accuracy", "macro_entity_f1", "token_accuracy")
COSTS = ("latency_p50_ms", "latency_p95_ms", "model_mb", "wh_per_1k", "usd_per_1k")

Row = Mapping[str, Any]
Score = Mapping[str, Any]


# ---- for the terminal ----


def summary(evaluation: Artifact) -> str:
    """Metrics with intervals, the baselines beside the main one, the verdict, and where the report is."""
    figures = evaluation.figures
    lines = [f"{figures['task']}: {figures['rows']:,} test rows"]
    for name, score in figures["metrics"].items():
        if name in FIRST or name in COSTS:
            lines.append(f"  {name:<18} {_value(score):>9}  {_range(score):<20} n {score['n']:,}")
            if name == figures["main"]:
                lines += [_beside(beside, name, baseline) for beside, baseline in figures["baselines"].items()]
    verdict = figures["verdict"]
    if verdict["lines"]:
        lines.append(f"  {verdict['status']}")
        lines += [f"    {line['text']}" for line in verdict["lines"]]
    lines += [f"  note: {note}" for note in figures["notes"]]
    lines.append(f"  {evaluation.path / figures['report']}")
    return "\n".join(lines)


def _beside(name: str, metric: str, baseline: Mapping[str, Any]) -> str:
    score, difference = baseline["metrics"][metric], baseline["difference"][metric]
    change = f"model {difference['value']:+.4f} ({_range(difference) or 'no interval'}), p {_p(difference['p'])}"
    return f"    {name:<16} {_value(score):>9}  {_range(score):<20} {change}"


def document(evaluation: Artifact) -> dict[str, Any]:
    """What `wyrmling evaluate --json` prints."""
    return {
        **evaluation.figures,
        "report": str(evaluation.path / evaluation.figures["report"]),
        "reused": evaluation.reused,
    }


# ---- the page ----


def page(found: Mapping[str, Any], rows: Sequence[Example], columns: Mapping[str, Sequence[Any]]) -> str:
    """The report as one HTML file.

    found     the document of metrics.json
    rows      the test rows; columns: the model's answers to them, as in predictions.parquet
    """
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    sections = [_heading(found), _verdict(found), _systems(found), _metrics(found)]
    sections += [
        _confusion(found),
        _per_class(found),
        _calibration(found),
        _spread(columns),
        _errors(found, rows, columns),
    ]
    sections += [_cost(found)]
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{allowed}'\">\n"
        f"<title>Evaluation: {escape(str(found['goal'] or found['task']))}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _heading(found: Mapping[str, Any]) -> str:
    main, score = found["main"], found["metrics"][found["main"]]
    title = escape(found["goal"] or f"Evaluation of a model for the task {found['task']}")
    interval = f", 95 % interval {_range(score)}" if score["low"] is not None else ", no interval"
    return (
        f'<header><h1>{title}</h1><p class="soft">task {found["task"]}, {found["rows"]:,} test rows, '
        f'{found["train_rows"]:,} training rows</p></header>\n<section><div class="big">{_value(score)}</div>'
        f"<p>{main}{interval}</p>{_notes([*found['notes'], score.get('note')])}</section>"
    )


def _notes(notes: Iterable[str | None]) -> str:
    return "".join(f'<p class="soft">{escape(note)}</p>' for note in notes if note)


def _verdict(found: Mapping[str, Any]) -> str:
    verdict = found["verdict"]
    if not verdict["lines"]:
        return _section("Verdict", '<p class="soft">objective.accept names no condition.</p>')
    lines = "".join(
        f"<li>{_status(line['status'])} <code>{escape(line['criterion'])}</code>"
        f'<span class="soft">{escape(line["reason"])}</span></li>'
        for line in verdict["lines"]
    )
    return _section(f"Verdict {_status(verdict['status'])}", f'<ul class="conditions">{lines}</ul>')


def _status(status: str) -> str:
    return f'<span class="verdict {status}">{status}</span>'


def _systems(found: Mapping[str, Any]) -> str:
    if not found["baselines"]:
        return ""
    main = found["main"]
    bars = [_bar("this model", found["metrics"][main], True)]
    bars += [_bar(name, baseline["metrics"][main], False) for name, baseline in found["baselines"].items()]
    drawn = [bar for bar in bars if bar is not None]
    plot = charts.intervals(drawn, f"{main} of the model and the baselines") if drawn else ""
    compared = list(next(iter(found["baselines"].values()))["difference"])
    shown = [main] + [metric for metric in compared if metric in BESIDE and metric != main]
    rest = [metric for metric in compared if metric in FIRST and metric not in shown]
    more = f"<details><summary>{len(rest)} more metrics</summary>{_differences(found, rest)}</details>" if rest else ""
    direction = "Lower is better." if main in metrics.LOWER_IS_BETTER else "Higher is better."
    notes = _notes(note for baseline in found["baselines"].values() for note in baseline["notes"])
    body = f'<p class="soft">{main}. {direction}</p><figure>{plot}</figure>{_differences(found, shown)}{more}{notes}'
    return _section("Beside the cheap baselines", body)


def _differences(found: Mapping[str, Any], shown: Sequence[str]) -> str:
    lines = []
    for metric in shown:
        for name, baseline in found["baselines"].items():
            score, difference = baseline["metrics"][metric], baseline["difference"][metric]
            line = [
                metric,
                escape(name),
                _value(score),
                _range(score),
                f"{difference['value']:+.4f}",
                _range(difference),
            ]
            lines.append([*line, _p(difference["p"]), _small(difference["test"])])
    heads = [
        "metric",
        "baseline",
        "value",
        "95 % interval",
        "model minus baseline",
        "95 % interval",
        "p",
        "paired test",
    ]
    return _table(heads, lines, numbers=(2, 3, 4, 5, 6))


def _bar(name: str, score: Score, ours: bool) -> charts.Bar | None:
    if score["value"] is None:
        return None
    return charts.Bar(name, score["value"], score["low"], score["high"], ours)


def _metrics(found: Mapping[str, Any]) -> str:
    def lines(names: Iterable[str]) -> str:
        rows = [
            [
                name,
                _value(score),
                _range(score),
                f"{score['n']:,}",
                _small(score["signature"]),
                _small(score.get("note") or ""),
            ]
            for name, score in found["metrics"].items()
            if name in names
        ]
        return _table(["metric", "value", "95 % interval", "n", "signature", ""], rows, numbers=(1, 2, 3))

    rest = [name for name in found["metrics"] if name not in FIRST and name not in COSTS]
    more = f"<details><summary>{len(rest)} more averages</summary>{lines(rest)}</details>" if rest else ""
    return _section("Metrics", lines(FIRST) + more)


def _confusion(found: Mapping[str, Any]) -> str:
    confusion = found["confusion"]
    if confusion is None:
        return ""
    labels, cells = confusion["labels"], [tuple(cell) for cell in confusion["cells"]]
    named = len(labels) <= NAMED_LABELS
    plot = charts.heatmap(labels, cells, "Confusion matrix", named=named)
    caption = "Gold labels down, predicted labels across; errors in the second colour."
    figure = f'<figure>{plot}</figure><p class="soft">{caption}</p>'
    totals: dict[int, int] = {}
    for gold, _, rows in cells:
        totals[gold] = totals.get(gold, 0) + rows
    wrong = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: (-cell[2], cell))
    lines = [
        [
            escape(labels[gold]),
            escape(labels[predicted]) if predicted >= 0 else "<em>no prediction</em>",
            str(rows),
            f"{rows / totals[gold]:.0%}",
        ]
        for gold, predicted, rows in wrong[:20]
    ]
    table = (
        _table(["gold", "predicted", "rows", "of the gold rows"], lines, numbers=(2, 3))
        if lines
        else "<p>No errors.</p>"
    )
    return _section("Confusions", figure + table)


def _per_class(found: Mapping[str, Any]) -> str:
    if not found["per_class"]:
        return ""
    what = "entity type" if found["task"] == "tag" else "label"
    ordered = sorted(found["per_class"].items(), key=lambda item: (item[1]["f1"]["value"], item[0]))
    lines = [
        [
            escape(label),
            charts.meter(f1["value"], f1["low"], f1["high"]),
            _value(f1),
            _range(f1),
            _value(scores["precision"]),
            _value(scores["recall"]),
            f"{scores['recall']['n']:,}",
        ]
        for label, scores in ordered
        if (f1 := scores["f1"])
    ]
    heads = [what, "", "F1", "95 % interval", "precision", "recall", "gold"]
    return _section(f"Per {what}, worst first", _table(heads, lines, numbers=(2, 3, 4, 5, 6)))


def _calibration(found: Mapping[str, Any]) -> str:
    bins = found["reliability"]
    if bins is None:
        return ""
    plot = charts.reliability(bins["confidence"], bins["right"], bins["rows"], "Reliability of the probabilities")
    ece = found["metrics"]["ece"]
    text = (
        f"Share right against confidence in {len(bins['rows'])} bins of equal size; on the dashed line a probability "
        f"means what it says. ECE {_value(ece)}: {ece.get('note') or ''}."
    )
    return _section("Calibration", f'<figure>{plot}</figure><p class="soft">{escape(text)}</p>')


def _spread(columns: Mapping[str, Sequence[Any]]) -> str:
    if "text_nats" not in columns:
        return ""
    values = [_bits(columns, i) for i in range(len(columns["bytes"]))]
    plot = charts.histogram(values, "Texts by bits per byte", "bits per byte")
    return _section("Bits per byte of each text", f"<figure>{plot}</figure>")


def _bits(columns: Mapping[str, Sequence[Any]], i: int) -> float:
    return metrics.bits_per_byte(columns["text_nats"][i], columns["bytes"][i])


def _errors(found: Mapping[str, Any], rows: Sequence[Example], columns: Mapping[str, Sequence[Any]]) -> str:
    if found["task"] == "classify":
        return _class_errors(rows, columns, found["confusion"]["labels"])
    if found["task"] == "tag":
        return _tag_errors(rows, columns)
    worst = sorted(range(len(rows)), key=lambda i: -_bits(columns, i))[:WORST]
    lines = [[f"{_bits(columns, i):.3f}", str(columns["bytes"][i]), _text(rows[i]), _place(rows[i])] for i in worst]
    return _section("Hardest texts", _table(["bits per byte", "bytes", "text", "where"], lines, numbers=(0, 1), text=2))


def _class_errors(rows: Sequence[Example], columns: Mapping[str, Sequence[Any]], labels: Sequence[str]) -> str:
    wrong = [i for i in range(len(rows)) if columns["predicted"][i] != columns["gold"][i]]
    worst = sorted(wrong, key=lambda i: -columns["score"][i])[:WORST]
    index = {label: i for i, label in enumerate(labels)}
    lines = [
        [
            _text(rows[i]),
            escape(columns["gold"][i]),
            escape(columns["predicted"][i]),
            f"{columns['score'][i]:.3f}",
            f"{columns['probabilities'][i][index[columns['gold'][i]]]:.3f}",
            _place(rows[i]),
        ]
        for i in worst
    ]
    title = f"The {len(worst)} most confident errors of {len(wrong):,}"
    heads = ["text", "gold", "predicted", "p predicted", "p gold", "where"]
    return _section(title, _table(heads, lines, numbers=(3, 4), text=0) if lines else "<p>No errors.</p>")


def _tag_errors(rows: Sequence[Example], columns: Mapping[str, Sequence[Any]]) -> str:
    lines = []
    for row, gold, predicted in zip(rows, columns["gold"], columns["predicted"], strict=True):
        true, said = set(metrics.entities(gold)), set(metrics.entities(predicted))
        if true != said:
            lines.append(
                (len(true ^ said), [_marked(row["words"], true, said), _marked(row["words"], said, true), _place(row)])
            )
    lines.sort(key=lambda line: -line[0])
    shown = [cells for _, cells in lines[:WORST]]
    table = _table(["gold", "predicted", "where"], shown, text=0) if shown else "<p>No errors.</p>"
    return _section(f"The {len(shown)} sentences with most errors of {len(lines):,}", table)


def _marked(words: Sequence[str], entities: set[metrics.Entity], others: set[metrics.Entity]) -> str:
    """The sentence with its entities marked; those the other side does not have are outlined."""
    starts = {entity.start: entity for entity in entities}
    parts, i = [], 0
    while i < len(words):
        entity = starts.get(i)
        if entity is None:
            parts.append(escape(words[i]))
            i += 1
            continue
        kind = "" if entity in others else ' class="wrong"'
        inside = escape(" ".join(words[entity.start : entity.end + 1]))
        parts.append(f"<mark{kind}>{inside} <small>{escape(entity.type)}</small></mark>")
        i = entity.end + 1
    return " ".join(parts)


def _cost(found: Mapping[str, Any]) -> str:
    heads = ["", "seconds", "Wh", "USD", "peak memory"]
    lines = []
    if found["training_cost"] is not None:
        lines.append(_cost_line("training the last step", found["training_cost"]))
    lines.append(_cost_line(f"answering {found['rows']:,} test rows", found["cost"]))
    lines += [_cost_line(f"{name}: fitting and answering", b["cost"]) for name, b in found["baselines"].items()]
    speed = [
        [name, _value(score), _range(score), _small(score["signature"])]
        for name, score in found["metrics"].items()
        if name in COSTS
    ]
    meter = f'<p class="soft">Energy: {escape(found["cost"]["meter"])}</p>'
    return _section(
        "Cost",
        _table(heads, lines, numbers=(1, 2, 3, 4))
        + meter
        + _table(["one answer", "value", "95 % interval", "signature"], speed, numbers=(1, 2)),
    )


def _cost_line(name: str, cost: Mapping[str, Any]) -> list[str]:
    figures = (f"{cost['seconds']:.1f}", f"{cost['wh']:.3f}", f"{cost['usd']:.5f}", f"{cost['peak_memory_gb']:.2f} GB")
    return [escape(name), *figures]


# ---- parts ----


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = (), text: int | None = None
) -> str:
    """A table of cells that are escaped already. numbers: columns set right; text: the column of running text."""

    def kind(i: int) -> str:
        return ' class="n"' if i in numbers else ' class="text"' if i == text else ""

    head = "".join(f"<th{kind(i) if i in numbers else ''}>{name}</th>" for i, name in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{kind(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(row: Example) -> str:
    if row["kind"] == "conversation":
        said = "\n".join(f"{message['role']}: {message['content']}" for message in row["messages"])
    else:
        said = row["text"]
    return escape(said if len(said) <= SHOWN_CHARACTERS else said[:SHOWN_CHARACTERS] + " …")


def _place(row: Example) -> str:
    return _small(row["origin"])


def _small(text: str) -> str:
    return f"<small>{escape(text)}</small>"


def _value(score: Score) -> str:
    value = score["value"]
    if value is None:
        return "undefined"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def _range(score: Score) -> str:
    if score["low"] is None and score["high"] is None:
        return ""
    ends = ["…" if x is None else f"{x:.4f}" if abs(x) < 100 else f"{x:,.1f}" for x in (score["low"], score["high"])]
    return f"{ends[0]} to {ends[1]}"


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"
