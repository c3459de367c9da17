from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from wyrmling import config
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadSetting
from wyrmling.data import run
from wyrmling.data.language import language_of

MakeProject = Callable[..., Project]
Rows = Callable[[Artifact], list[dict[str, Any]]]

TEXTS = {
    "en": "The card was declined at the shop, although there is enough money in my account.",
    "de": "Die Karte wurde im Laden abgelehnt, obwohl genug Geld auf meinem Konto ist.",
    "fr": "La carte a été refusée au magasin, bien qu'il y ait assez d'argent sur mon compte.",
    "es": "La tarjeta fue rechazada en la tienda, aunque hay suficiente dinero en mi cuenta.",
    "ja": "口座に十分なお金があるのに、お店でカードが使えませんでした。どうすればよいですか。",
}
SOURCE = '[data.sources.a]\npath = "a.jsonl"\n[data.sources.official]\npath = "test.jsonl"\nsplit = "test"\n'


def jsonl(texts: list[str]) -> str:
    import json

    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told(code: str) -> None:
    assert language_of(TEXTS[code]) == code


@pytest.mark.parametrize("text", ["", "OK", "12345 67890 12345 67890 12345", "Ja, gern!"])
def test_what_is_too_short_to_tell_is_undetermined(text: str) -> None:
    assert language_of(text) == "und"


def test_the_ledger_and_the_card_name_languages_only_when_asked(make_project: MakeProject, ledger: Rows) -> None:
    project = make_project({"a.jsonl": jsonl([*TEXTS.values(), "OK"]), "test.jsonl": jsonl(["x y z"])}, SOURCE)
    assert {row["language"] for row in ledger(run.run(project))} == {None}
    done = run.run(config.load(project.root, ["data.clean.language=true"]))
    assert [row["language"] for row in ledger(done)] == [*TEXTS, "und", "und"]
    assert done.figures["kept"] == 7
    assert done.figures["languages"]["und"] == 2
    assert "| ja | 1 |" in (done.path / "card.md").read_text(encoding="utf-8")


def test_only_wanted_languages_stay_and_official_rows_and_short_ones_too(
    make_project: MakeProject, ledger: Rows
) -> None:
    files = {"a.jsonl": jsonl([*TEXTS.values(), "OK"]), "test.jsonl": jsonl([TEXTS["fr"] + " Merci beaucoup."])}
    project = make_project(files, SOURCE, extra="")
    done = run.run(config.load(project.root, ['data.clean.languages=["en", "de"]']))
    rows = {row["language"]: row for row in ledger(done) if row["source"] == "a"}
    assert {code for code, row in rows.items() if row["verdict"] == "dropped"} == {"fr", "es", "ja"}
    assert rows["fr"]["rule"] == "language"
    assert (rows["fr"]["value"], rows["fr"]["threshold"]) == ("fr", "en, de")
    assert [row["verdict"] for row in ledger(done) if row["source"] == "official"] == ["kept"]


def test_a_language_that_can_never_be_found_is_refused(make_project: MakeProject) -> None:
    project = make_project({"a.jsonl": jsonl(list(TEXTS.values())), "test.jsonl": jsonl(["x y"])}, SOURCE)
    with pytest.raises(BadSetting, match="english"):
        run.run(config.load(project.root, ['data.clean.languages=["english"]']))


def test_without_the_extra_the_message_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['py3langid'] = None\n"
        "from wyrmling.data.language import language_of\n"
        "print(language_of('short'))\n"
        "language_of('long enough to be looked at by the model')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "und\n"
    assert "wyrmling[language]" in done.stderr
