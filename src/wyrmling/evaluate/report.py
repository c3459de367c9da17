"""The evaluation as one HTML file that needs no network and works without its script, which only adds filters.

Rows are untrusted: every text is escaped, the script never writes markup, and the page's policy allows nothing but its
own style sheet and script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from wyrmling.evaluate import accept, charts, metrics, picture, report_rows
from wyrmling.evaluate.html import Score, document, figure, interval, more, notes, own, p_value, section, small, table
from wyrmling.evaluate.measure import Evaluation
from wyrmling.evaluate.summary import FIRST

# Up to this many labels a confusion matrix can be read with names and counts.
NAMED_LABELS = 16
# Compared with the baselines in the open; the others behind a fold.
BESIDE = ("accuracy", "macro_entity_f1", "token_accuracy", "exact_match")
SLICES = 30

# The curves of the loss: key, name, in the first colour.
LOSSES = (("train", "training rows", False), ("val", "validation rows", True))

Found = Mapping[str, Any]


def page(evaluation: Evaluation) -> str:
    """The report as one HTML file."""
    found = evaluation.document
    sections = [
        _heading(found),
        _verdict(found),
        _systems(found),
        _metrics(found),
        _slices(found),
        _overlap(found),
        _confusion(found),
        _per_class(found),
        _calibration(found),
        report_rows.spread(evaluation),
        report_rows.flips(evaluation),
        report_rows.errors(evaluation),
        report_rows.explorer(evaluation),
        _learning(found),
        _cost(found),
    ]
    return document(f"Evaluation: {found['goal'] or found['task']}", sections, script=own("report.js"))


def _heading(found: Found) -> str:
    main, score = found["main"], found["metrics"][found["main"]]
    title = escape(found["goal"] or f"Evaluation of a model for the task {found['task']}")
    ends = f", 95 % interval {interval(score)}" if score["low"] is not None else ", no interval"
    groups = "" if found["clusters"] is None else f" in {found['clusters']:,} clusters of near-duplicates"
    return (
        f'<header><h1>{title}</h1><p class="soft">task {found["task"]}, {found["rows"]:,} test rows{groups}, '
        f'{found["train_rows"]:,} training rows</p></header>\n<section><div class="big">{figure(score)}</div>'
        f"<p>{main}{ends}</p>{notes([*found['notes'], score.get('note')])}</section>"
    )


def _verdict(found: Found) -> str:
    verdict = found["verdict"]
    if not verdict["lines"]:
        return section("Verdict", '<p class="soft">objective.accept names no condition.</p>')
    lines = "".join(
        f"<li>{_status(line['status'])} <code>{escape(line['criterion'])}</code>"
        f'<span class="soft">{escape(line["reason"])}</span></li>'
        for line in verdict["lines"]
    )
    return section(f"Verdict {_status(verdict['status'])}", f'<ul class="conditions">{lines}</ul>')


def _status(status: str) -> str:
    return f'<span class="verdict {status}">{status}</span>'


def _systems(found: Found) -> str:
    others = found["baselines"] | found["opponents"]
    if not others:
        return ""
    main = found["main"]
    bars = [_bar("this model", found["metrics"][main], True)]
    bars += [_bar(name, other["metrics"][main], False) for name, other in others.items() if main in other["metrics"]]
    drawn = [bar for bar in bars if bar is not None]
    plot = charts.intervals(drawn, f"{main} of the model and others") if drawn else ""
    compared = list(dict.fromkeys(metric for other in others.values() for metric in other["difference"]))
    shown = [main] + [metric for metric in compared if metric in BESIDE and metric != main]
    rest = [metric for metric in compared if metric in FIRST and metric not in shown]
    folded = more(f"{len(rest)} more metrics", _differences(others, rest)) if rest else ""
    direction = "Lower is better." if main in metrics.LOWER_IS_BETTER else "Higher is better."
    said = notes(note for other in others.values() for note in other["notes"])
    body = f'<p class="soft">{main}. {direction}</p><figure>{plot}</figure>{_differences(others, shown)}{folded}{said}'
    return section("Beside the cheap baselines" + (" and other models" if found["opponents"] else ""), body)


def _differences(others: Mapping[str, Any], shown: Sequence[str]) -> str:
    lines = []
    for metric in shown:
        for name, other in others.items():
            if (change := other["difference"].get(metric)) is None:
                continue
            score = other["metrics"][metric]
            line = [metric, escape(name), figure(score), interval(score), f"{change['value']:+.4f}", interval(change)]
            lines.append([*line, p_value(change["p"]), small(change["test"])])
    heads = ["metric", "system", "value", "95 % interval", "model minus it", "95 % interval", "p", "paired test"]
    return table(heads, lines, numbers=(2, 3, 4, 5, 6))


def _bar(name: str, score: Score, ours: bool) -> charts.Bar | None:
    if score["value"] is None:
        return None
    return charts.Bar(name, score["value"], score["low"], score["high"], ours)


def _metrics(found: Found) -> str:
    def lines(names: Iterable[str]) -> str:
        rows = [_metric(name, score) for name, score in found["metrics"].items() if name in names]
        return table(["metric", "value", "95 % interval", "n", "signature", ""], rows, numbers=(1, 2, 3))

    rest = [name for name in found["metrics"] if name not in FIRST and name not in accept.COST]
    return section("Metrics", lines(FIRST) + (more(f"{len(rest)} more averages", lines(rest)) if rest else ""))


def _metric(name: str, score: Score) -> list[str]:
    notice = small(score.get("note") or "")
    return [name, figure(score), interval(score), f"{score['n']:,}", small(score["signature"]), notice]


def _slices(found: Found) -> str:
    parts = found["slices"]
    if not parts:
        return ""
    lines = [
        [
            escape(part["column"]),
            escape(part["value"]),
            f"{part['n']:,}",
            figure(part["score"]),
            interval(part["score"]),
            f"{part['difference']['value']:+.4f}",
            p_value(part["p"]),
        ]
        for part in parts
    ]
    heads = ["column", "value", "rows", found["slice_metric"], "95 % interval", "minus the rest", "p (Holm)"]
    first = table(heads, lines[:SLICES], numbers=(2, 3, 4, 5, 6))
    rest = lines[SLICES:]
    folded = more(f"{len(rest)} more parts", table(heads, rest, numbers=(2, 3, 4, 5, 6))) if rest else ""
    about = f"{found['slice_metric']} of parts of the test rows against all other rows, the most clearly worse first; "
    about += "p is corrected for looking at all of them."
    return section("Parts of the test", f'<p class="soft">{about}</p>{first}{folded}')


def _overlap(found: Found) -> str:
    overlap = found["overlap"]
    if not overlap["same"] and not overlap["near"]:
        return ""
    text = (
        f"{overlap['same']:,} test rows are training rows too, and {overlap['near']:,} nearly are (four fifths of the "
        "words). A model may know them by heart; the scores of the other rows:"
    )
    lines = [
        [name, figure(found["metrics"][name]), figure(score), interval(score), f"{score['n']:,}"]
        for name, score in overlap["without"].items()
        if name in found["metrics"]
    ]
    heads = ["metric", "all rows", "without them", "95 % interval", "n"]
    return section("Rows that stand in training too", f"<p>{text}</p>{table(heads, lines, numbers=(1, 2, 3, 4))}")


def _confusion(found: Found) -> str:
    confusion = found["confusion"]
    if confusion is None:
        return ""
    labels, cells = confusion["labels"], [tuple(cell) for cell in confusion["cells"]]
    plot = charts.heatmap(labels, cells, "Confusion matrix", named=len(labels) <= NAMED_LABELS)
    caption = "Gold labels down, predicted labels across; errors in the second colour."
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
    pairs = table(["gold", "predicted", "rows", "of the gold rows"], lines, numbers=(2, 3)) if lines else ""
    body = f'<figure>{plot}</figure><p class="soft">{caption}</p>{pairs or "<p>No errors.</p>"}'
    return section("Confusions", body)


def _per_class(found: Found) -> str:
    if not found["per_class"]:
        return ""
    what = "entity type" if found["task"] == "tag" else "label"
    ordered = sorted(found["per_class"].items(), key=lambda item: (item[1]["f1"]["value"], item[0]))
    lines = [
        [
            escape(label),
            charts.meter(f1["value"], f1["low"], f1["high"]),
            figure(f1),
            interval(f1),
            figure(scores["precision"]),
            figure(scores["recall"]),
            f"{scores['recall']['n']:,}",
        ]
        for label, scores in ordered
        if (f1 := scores["f1"])
    ]
    heads = [what, "", "F1", "95 % interval", "precision", "recall", "gold"]
    return section(f"Per {what}, worst first", table(heads, lines, numbers=(2, 3, 4, 5, 6)))


def _calibration(found: Found) -> str:
    bins = found["reliability"]
    if bins is None:
        return ""
    plot = charts.reliability(bins["confidence"], bins["right"], bins["rows"], "Reliability of the probabilities")
    ece = found["metrics"]["ece"]
    text = (
        f"Share right against confidence in {len(bins['rows'])} bins of equal size; on the dashed line a probability "
        f"means what it says. ECE {figure(ece)}: {ece.get('note') or ''}."
    )
    return section("Calibration", f'<figure>{plot}</figure><p class="soft">{escape(text)}</p>{_temperature(found)}')


def _temperature(found: Found) -> str:
    fitted = found["temperature"]
    if fitted is None:
        return notes(["There are no validation rows to fit a temperature on."])
    text = (
        f"A temperature of {fitted['value']:.3f}, fitted on {fitted['rows']:,} validation rows, changes the scores of "
        "the test rows to:"
    )
    lines = [[name, figure(found["metrics"][name]), figure(score)] for name, score in fitted["metrics"].items()]
    return f'<p class="soft">{text}</p>' + table(["metric", "as it is", "at this temperature"], lines, numbers=(1, 2))


def _learning(found: Found) -> str:
    curve = found["training_curve"]
    if curve is None:
        return ""
    lines = [charts.Curve(name, curve[part], ours) for part, name, ours in LOSSES if curve[part]]
    plot = charts.curves(lines, "Loss while training", "optimizer step", "nats per target")
    about = "Loss of the last train step: on the rows it learned from (grey, averaged), and on the validation rows."
    return section("How it learned", f'<figure>{plot}</figure><p class="soft">{about}</p>')


def loss_picture(curve: Mapping[str, Any]) -> bytes:
    """The same curves as a PNG file, to send or to print."""
    lines = [picture.Line(name, curve[part], ours, not ours) for part, name, ours in LOSSES if curve[part]]
    return picture.png(picture.pdf(lines, "optimizer step", "loss, nats per target"))


def _cost(found: Found) -> str:
    heads = ["", "seconds", "Wh", "USD", "peak memory"]
    lines = []
    if found["training_cost"] is not None:
        lines.append(_cost_line("training the last step", found["training_cost"]))
    lines.append(_cost_line(f"answering {found['rows']:,} test rows", found["cost"]))
    others = found["baselines"] | found["opponents"]
    lines += [_cost_line(f"{name}: fitting and answering", other["cost"]) for name, other in others.items()]
    speed = [
        [name, figure(score), interval(score), small(score["signature"])]
        for name, score in found["metrics"].items()
        if name in accept.COST
    ]
    meter = f'<p class="soft">Energy: {escape(found["cost"]["meter"])}</p>'
    each = table(["one answer", "value", "95 % interval", "signature"], speed, numbers=(1, 2))
    return section("Cost", table(heads, lines, numbers=(1, 2, 3, 4)) + meter + each)


def _cost_line(name: str, cost: Found) -> list[str]:
    figures = (f"{cost['seconds']:.1f}", f"{cost['wh']:.3f}", f"{cost['usd']:.5f}", f"{cost['peak_memory_gb']:.2f} GB")
    return [escape(name), *figures]
