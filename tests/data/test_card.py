"""What the data card says, as Markdown and as a page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser

from wyrmling import config
from wyrmling.config import Project
from wyrmling.data import page, run

MakeProject = Callable[..., Project]

FILES = {
    "a.csv": "text,label\n" + "".join(f"message {n} <b> & more,{'ab'[n % 2]}\n" for n in range(40)) + "x,a\n" * 30,
    "guide.txt": "How to use it.",
}
SOURCES = '[data.sources.a]\npath = "a.csv"\n[data.sources."b|c"]\npath = "guide.txt"\n'


class Cells(HTMLParser):
    """The text of every table cell and heading, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = ""
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        if tag in ("td", "th", "h1", "h2"):
            self.found.append((tag, ""))

    def handle_data(self, data: str) -> None:
        if self.inside in ("td", "th", "h1", "h2", "code", "strong") and self.found:
            tag, text = self.found[-1]
            self.found[-1] = (tag, text + data.strip("\n"))


def test_the_page_shows_what_the_markdown_says_and_what_it_took(make_project: MakeProject) -> None:
    done = run.run(make_project(FILES, SOURCES, task="classify"))
    text = (done.path / "card.md").read_text(encoding="utf-8")
    html = (done.path / "card.html").read_text(encoding="utf-8")
    cells = Cells()
    cells.feed(html)
    headings = [content for tag, content in cells.found if tag == "h2"]
    assert headings == re.findall(r"^## (.+)$", text, re.MULTILINE)
    rows = [line for line in text.split("\n") if line.startswith("| ") and not line.startswith("| ---")]
    assert sum(tag in ("td", "th") for tag, _ in cells.found) == sum(line.count(" |") for line in rows)
    assert ("td", "b|c") in cells.found
    assert f"{done.cost['wh']:.3f} Wh" in html
    assert "http" not in html


def test_a_missing_page_is_made_again_and_is_no_part_of_the_checked_files(make_project: MakeProject) -> None:
    project = make_project(FILES, SOURCES, task="classify")
    done = run.run(project)
    assert "card.html" not in done.manifest["files"]
    first = (done.path / "card.html").read_bytes()
    (done.path / "card.html").unlink()
    assert run.run(project).reused
    assert (done.path / "card.html").read_bytes() == first


def test_text_in_names_is_escaped() -> None:
    html = page.render("# Card <script>\n\n| a | b |\n| --- | --- |\n| <i> | 1.5% |\n", "now & here")
    assert "<script>" not in html
    assert "<i>" not in html
    assert "now &amp; here" in html
    assert '<td class="number">1.5%</td>' in html


def test_much_dropped_and_restored_rules_are_worth_knowing(make_project: MakeProject) -> None:
    project = make_project(FILES, SOURCES, task="classify")
    card = (run.run(project).path / "card.md").read_text()
    assert "data.sources.a: 29 of 70 rows were dropped by the rule exact_duplicate" in card
    shutil.rmtree(project.runs)
    done = run.run(config.load(project.root, ['data.clean.restore=["exact_duplicate"]']))
    card = (done.path / "card.md").read_text()
    assert "29 of 70" not in card
    assert "the rule exact_duplicate is restored: 29 kept rows break it" in card


def test_labels_and_clusters_are_counted(make_project: MakeProject) -> None:
    card = (run.run(make_project(FILES, SOURCES, task="classify")).path / "card.md").read_text()
    assert "The largest label has 21 rows, the smallest 20." in card
    assert re.search(r"\| `[0-9a-f]{16}` \| 30 \| 1 \|  \| a 30 \| a.csv:\d+ \|", card)
