"""The report is one well-formed file without network or unescaped rows, and shows what was found."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from wyrmling.evaluate import charts, run

# The fixture of conftest.py.
Make = Callable[..., Any]

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Checker(HTMLParser):
    """Collects text and attributes, and fails on tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(make: Make, task: str, accept: tuple[str, ...] = ()) -> str:
    project, data, model = make(task, accept)
    return (run.run(project, data, model).path / run.REPORT).read_text()


@pytest.mark.parametrize("task", ["classify", "tag", "complete", "chat"])
def test_the_page_is_well_formed_and_needs_nothing_from_outside(make: Make, task: str) -> None:
    page = page_of(make, task)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert not checker.tags & {"link", "img", "iframe", "object", "form"}
    assert "http://" not in page and "https://" not in page and "@import" not in page and "url(" not in page
    assert not [name for name, _ in checker.attributes if name in ("src", "href", "style") or name.startswith("on")]


def test_the_policy_allows_exactly_the_style_sheet_and_the_script_of_the_page(make: Make) -> None:
    page = page_of(make, "classify")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert style is not None and script is not None
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(one[1].encode()).digest()).decode() for one in (style, script)
    )
    assert f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'" in page
    assert "innerHTML" not in script[1] and "eval(" not in script[1]
    assert "prefers-color-scheme: dark" in style[1] and "@media print" in style[1]


def test_rows_are_text_never_markup(make: Make) -> None:
    page = page_of(make, "classify")
    assert "<b>help</b>" not in page
    assert "&lt;b&gt;help&lt;/b&gt; &amp; hurry" in page
    assert "Answer &lt;quickly&gt; &amp; well" in page


def test_the_page_shows_verdict_baselines_confusions_classes_errors_and_cost(make: Make) -> None:
    page = page_of(make, "classify", ("macro_f1 >= 0.9", "f1[card] >= 0.01 @point"))
    for part in (
        "Verdict",
        "Beside the cheap baselines",
        "Confusions",
        "Per label",
        "Calibration",
        "most confident errors",
        "Cost",
    ):
        assert part in page
    assert '<span class="verdict FAIL">FAIL</span> <code>macro_f1 &gt;= 0.9</code>' in page
    # The rows of this project are near-duplicates of each other.
    assert "tfidf" in page and "paired by cluster" in page


def test_tags_and_texts_have_their_own_parts(make: Make) -> None:
    tagged, text = page_of(make, "tag"), page_of(make, "complete")
    assert "sentences with most errors" in tagged and "<mark" in tagged
    assert "Hardest texts" in text and "bits per byte" in text


def test_plots_are_well_formed_xml() -> None:
    bars = [charts.Bar("a & b", 0.5, 0.4, 0.6, True), charts.Bar("<c>", 0.5, None, None, False)]
    plots = [
        charts.intervals(bars, "t & <t>"),
        charts.intervals([charts.Bar("same", 0.0, 0.0, 0.0, True)], "t"),
        charts.reliability([0.2, 0.9], [0.1, 1.0], [3, 4], "t"),
        charts.heatmap(["a & b", "<c>"], [(0, 0, 3), (0, -1, 1), (1, 0, 2)], "t", named=True),
        charts.heatmap([str(i) for i in range(200)], [(i, i, 1) for i in range(200)], "t", named=False),
        charts.histogram([1.0, 1.0], "t", "bits & bytes"),
        charts.meter(0.5, None, None),
    ]
    for plot in plots:
        root = ET.fromstring(plot)
        assert root.tag == "svg"
        _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
        for rect in root.iter("rect"):
            assert 0 <= float(rect.attrib["x"]) <= width and 0 <= float(rect.attrib["y"]) <= height
