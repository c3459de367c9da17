from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.data import run
from wyrmling.data.boilerplate import find_boilerplate, find_pages, shared_lines
from wyrmling.data.rows import Row


def remove(rows: Sequence[Row]) -> None:
    shared = shared_lines(rows)
    for row in rows:
        shared.remove(row)


def pages(texts: list[str], family: str = "html") -> list[Row]:
    return [Row("s", f"{n}.html", family, "document", text=text) for n, text in enumerate(texts)]


def texts_without_shared_lines(texts: list[str]) -> list[str]:
    rows = pages(texts)
    remove(rows)
    return [row.text for row in rows]


LINES = ["Home | Products | Contact us", "All rights reserved by us", "Please read this with care"]
BODY = "The body of page {} tells about something else,\nand its second line about {} too."


def test_lines_that_many_pages_share_go_and_the_body_stays() -> None:
    bodies = [BODY.format(word, word) for word in ("cards", "fees", "loans", "rates", "homes", "cars")]
    shared = [
        f"Home | Products | Contact us\n\n{body}\n\nCopyright 20{n}, all rights reserved"
        for n, body in enumerate(bodies)
    ]
    assert texts_without_shared_lines(shared) == bodies
    rows = pages(shared)
    remove(rows)
    assert all(row.rules == ["boilerplate"] for row in rows)


def test_headings_marks_and_single_words_stay() -> None:
    bodies = [
        f"## See also\n{BODY.format(n, n)}\n---\n```\nOverview\n<div class='x y z'>"
        for n in ("ab", "cd", "ef", "gh", "ij")
    ]
    assert texts_without_shared_lines(bodies) == bodies


def test_a_few_pages_or_a_few_of_many_share_nothing() -> None:
    line = "Home | Products | Contact us"
    few = [f"{line}\n{BODY.format(n, n)}" for n in ("ab", "cd", "ef", "gh")]
    assert texts_without_shared_lines(few) == few
    many = few[:3] + [BODY.format(*[f"x{chr(97 + n)}"] * 2) for n in range(9)]
    assert texts_without_shared_lines(many) == many


def test_versions_of_one_text_are_no_boilerplate() -> None:
    text = "\n".join(f"Article {word} of the constitution says {word}" for word in ("ab", "cd", "ef", "gh"))
    versions = [f"{text}\nChanged in version {n}" for n in range(4)]
    others = [BODY.format(*[f"x{chr(97 + n)}"] * 2) for n in range(5)]
    assert texts_without_shared_lines(versions + others) == versions + others


def test_shared_lines_are_removed_by_source_and_only_when_asked(
    make_project: Callable[..., Project], examples: Callable[[Artifact], list[dict[str, Any]]]
) -> None:
    files = {
        f"{n}.md": f"Read this with care please\n\n{BODY.format(n, n)}" for n in ("ab", "cd", "ef", "gh", "ij", "kl")
    }
    project = make_project(files, '[data.sources.a]\npath = "*.md"\n')
    assert not any("with care" in row["text"] for row in examples(run.run(project)))
    kept = run.run(config.load(project.root, ["data.clean.boilerplate=false"]))
    assert all("with care" in row["text"] for row in examples(kept))


def test_pages_in_parts_share_the_lines_that_they_share_together() -> None:
    rows = pages([f"{LINES[n % 3]}\n{BODY.format(*[f'x{chr(65 + n)}'] * 2)}" for n in range(30)])
    parts = [find_pages(part)["s"] for part in (rows[:2], rows[2:17], rows[17:])]
    assert find_boilerplate({"s": [partial(type(part), *part) for part in parts]}) == shared_lines(rows)
    assert len(shared_lines(rows).lines["s"][0]) == 3
