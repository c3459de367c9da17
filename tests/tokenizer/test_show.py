"""What `--show` prints is what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenizer.samples import data_artifact, example
from wyrmling.tokenizer import run, show
from wyrmling.tokenizer.tokenizer import Tokenizer


def test_the_first_rows_of_each_kind_are_shown_with_what_is_learned(project: Any) -> None:
    messages = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "In Köln 🙂"}]
    rows = [example(f"d{i}", "document", text=f"My card number {i} is lost.") for i in range(30)]
    rows += [example(f"c{i}", "conversation", messages=messages) for i in range(3)]
    rows += [example("long", "document", text="card " * 2000, split="train")]
    made_project = project("chat")
    made = run.run(made_project, data_artifact(made_project, rows))
    document, text = show.answer(made, 2, colour=False)
    assert [(row["row_id"], row["kind"]) for row in document["rows"]] == [
        ("d0", "document"), ("d1", "document"), ("c0", "conversation"), ("c1", "conversation"),
    ]  # fmt: skip
    talk = document["rows"][2]["stretches"]
    assert [part["text"] for part in talk if part["learned"]] == ["In Köln 🙂<|im_end|>"]
    assert "".join(part["text"] for part in talk) == (
        "<|endoftext|><|im_start|>user\nWhere is it?<|im_end|>\n<|im_start|>assistant\nIn Köln 🙂<|im_end|>\n"
    )
    assert text.startswith("learned of a conversation: the answers, each with its <|im_end|>")
    assert "<|endoftext|>⟦My card number 0 is lost.<|endoftext|>⟧" in text
    assert show.COLOUR not in text
    assert f"{show.COLOUR}⟦In Köln 🙂<|im_end|>⟧{show.PLAIN}" in show.answer(made, 1, colour=True)[1]
    whole = show.first_rows(made, 99)
    assert next(row for row in whole if row.row_id == "long").cut


def test_a_labelled_row_shows_its_label_and_words_stay_apart(project: Any, wordpiece: Path) -> None:
    rows = [example(f"l{i}", "labelled", text="my card is lost", label=f"team{i % 2}") for i in range(4)]
    made_project = project("classify", "project", f"model.base={wordpiece}")
    made = run.run(made_project, data_artifact(made_project, rows))
    assert show.first_rows(made, 1)[0].text(colour=False) == "l0 (labelled)\n[CLS]⟦my card is lost[SEP]⟧ → ⟦team0⟧"


@pytest.mark.parametrize("name", ["scratch", "wordpiece"])
def test_tokens_shown_one_by_one_read_like_the_whole(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = Tokenizer.load(request.getfixturevalue(name))
    ids = tokenizer.encode("the cards of these customers, and theirs")
    whole = tokenizer.decode(ids)
    singles = [show.text_of(tokenizer, [token], before) for before, token in zip([-1, *ids], ids, strict=False)]
    assert "".join(singles) == show.text_of(tokenizer, ids) == whole and " " in whole
