from __future__ import annotations

import json
from typing import Any

import pytest
from seqeval.scheme import IOB2, Entities

from wyrmling.config import Source
from wyrmling.core.errors import BadInput
from wyrmling.data.rows import Message, Row
from wyrmling.data.shapes import Misfit, Shape, fill, find_shape, join_turns, to_bio


def source(**columns: str) -> Source:
    return Source(path="x.csv", **columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("columns", "shape"),
    [
        (["Text", "category", "id"], Shape("labelled", text="Text", label="category")),
        (["anything"], Shape("document", text="anything")),
        (["text", "url"], Shape("document", text="text")),
        (["question", "answer"], Shape("conversation", prompt="question", response="answer")),
        (
            ["instruction", "input", "output"],
            Shape("conversation", prompt="instruction", context="input", response="output"),
        ),
        (
            ["instruction", "context", "response", "category"],
            Shape("conversation", None, None, "instruction", "context", "response"),
        ),
        (["messages", "tools"], Shape("conversation", messages="messages", tools="tools")),
        (["tokens", "ner_tags", "id"], Shape("tagged", words="tokens", tags="ner_tags")),
    ],
)
def test_unambiguous_columns_need_no_setting(columns: list[str], shape: Shape) -> None:
    assert find_shape("s", source(), columns, "x.csv") == shape


@pytest.mark.parametrize(
    "columns", [["a", "b"], ["text", "content"], ["text", "label", "question", "answer"], ["messages", "label"]]
)
def test_unclear_columns_are_asked_for_by_the_name_of_the_setting(columns: list[str]) -> None:
    with pytest.raises(
        BadInput, match=f"(?s)x.csv.*data.sources.s.*text.*prompt.*messages.*{columns[0]}, {columns[1]}"
    ):
        find_shape("s", source(), columns, "x.csv")


def test_a_missing_column_names_file_column_choices_and_the_nearest() -> None:
    with pytest.raises(BadInput) as error:
        find_shape("s", source(text="mesage"), ["Message", "team"], "data/x.csv")
    assert "'mesage'" in error.value.what
    assert "data/x.csv" in str(error.value.where)
    assert 'did you mean text = "Message"?' in str(error.value.fix)
    assert "Message, team" in str(error.value.fix)


def test_a_named_label_takes_the_only_other_column_as_text() -> None:
    assert find_shape("s", source(label="team"), ["note", "team"], "x") == Shape("labelled", text="note", label="team")
    with pytest.raises(BadInput, match="do not say"):
        find_shape("s", source(label="team"), ["note", "more", "team"], "x")


def filled(shape: Shape, cells: dict[str, Any]) -> Row:
    return fill(Row("s", "x:1", "csv", "document"), shape, cells)


def test_cells_of_other_types_become_text_and_gaps_become_none() -> None:
    shape = Shape("labelled", text="t", label="l")
    assert [filled(shape, {"t": "x", "l": label}).label for label in (3, 3.0, True, " a ", None, float("nan"), "")] == [
        "3",
        "3",
        "true",
        "a",
        None,
        None,
        None,
    ]
    with pytest.raises(Misfit, match="'t' holds a list"):
        filled(shape, {"t": ["x"], "l": "a"})
    with pytest.raises(Misfit, match="no value for the column 'l'"):
        filled(shape, {"t": "x"})


def test_instructions_get_their_input_and_conversations_their_roles() -> None:
    shape = Shape("conversation", prompt="instruction", context="input", response="output")
    row = filled(shape, {"instruction": "Add", "input": "1 2", "output": 3})
    assert row.messages == [Message("user", "Add\n\n1 2"), Message("assistant", "3")]
    talk = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}, {"role": "tool", "content": None}]
    row = filled(Shape("conversation", messages="m"), {"m": talk})
    assert row.messages == [Message("user", "hi"), Message("assistant", "hello"), Message("tool", "")]
    with pytest.raises(Misfit, match="message 1 has the role 'judge'"):
        filled(Shape("conversation", messages="m"), {"m": [{"role": "judge", "content": "x"}]})


def test_neighbouring_turns_of_one_role_become_one_and_empty_ones_go() -> None:
    turns = [Message("user", "a"), Message("user", "b"), Message("assistant", " "), Message("assistant", "c")]
    assert join_turns(turns) == [Message("user", "a\n\nb"), Message("assistant", "c")]


def test_words_and_tags_must_be_as_many() -> None:
    shape = Shape("tagged", words="w", tags="t")
    assert filled(shape, {"w": '["a", "b c"]', "t": "O B-x"}).words == ["a", "b c"]
    with pytest.raises(Misfit, match="2 words but 1 tags"):
        filled(shape, {"w": ["a", "b"], "t": ["O"]})


@pytest.mark.parametrize(
    ("tags", "bio"),
    [
        (["I-a", "I-a", "B-a", "O", "I-b"], ["B-a", "I-a", "B-a", "O", "B-b"]),
        (["B-a", "I-b"], ["B-a", "B-b"]),
        (["S-a", "B-b", "I-b", "E-b", "S-b"], ["B-a", "B-b", "I-b", "I-b", "B-b"]),
        (["U-a", "B-b", "L-b", "I-b"], ["B-a", "B-b", "I-b", "B-b"]),
        (["NOUN", "O"], ["NOUN", "O"]),
    ],
)
def test_other_schemes_become_bio(tags: list[str], bio: list[str]) -> None:
    assert to_bio(tags) == bio
    assert to_bio(bio) == bio


def test_converted_iobes_has_the_entities_that_seqeval_sees() -> None:
    tags = ["S-a", "O", "B-b", "I-b", "E-b", "S-b", "B-a", "E-a"]
    from seqeval.scheme import IOBES

    spans = [(e.start, e.end, e.tag) for e in Entities([tags], IOBES).entities[0]]
    assert [(e.start, e.end, e.tag) for e in Entities([to_bio(tags)], IOB2).entities[0]] == spans


def conversation(columns: dict[str, Any]) -> list[Message]:
    row = Row("s", "o", "jsonl", "document")
    return fill(row, find_shape("s", source(), list(columns), "x.jsonl"), columns).messages


CALL = '<tool_call>\n{"name": "find", "arguments": {"q": "é"}}\n</tool_call>'


def test_function_calls_of_openai_and_sharegpt_become_the_same_text() -> None:
    function = {"name": "find", "arguments": '{"q": "é"}'}
    asked = {"role": "user", "content": "Find é"}
    openai = [asked, {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": function}]}]
    older = [asked, {"role": "assistant", "content": None, "function_call": function}]
    sharegpt = [{"from": "human", "value": "Find é"}, {"from": "function_call", "value": json.dumps(function)}]
    for messages in (openai, older):
        assert conversation({"messages": messages}) == [Message("user", "Find é"), Message("assistant", CALL)]
    assert conversation({"conversations": sharegpt}) == [Message("user", "Find é"), Message("assistant", CALL)]
    said = [asked, {"role": "assistant", "content": "A moment.", "tool_calls": [{"function": function}] * 2}]
    assert conversation({"messages": said})[1].content == f"A moment.\n{CALL}\n{CALL}"


def test_tools_and_system_prompt_beside_a_conversation_come_first() -> None:
    messages = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    tools = [{"name": "find", "parameters": {}}]
    for value in (tools, json.dumps(tools)):
        first, *rest = conversation({"conversations": messages, "tools": value, "system": "Be kind."})
        assert first.role == "system" and first.content.startswith("Be kind.\n\n")
        assert json.dumps(tools[0]) in first.content
        assert rest == [Message("user", "Hi"), Message("assistant", "Hello")]
    assert conversation({"conversations": messages, "tools": "[]", "system": ""})[0].role == "user"


def test_alpaca_with_history_gives_all_turns() -> None:
    row = {"instruction": "And now?", "input": "", "output": "Now.", "history": [["Before?", "Yes."]], "system": "S"}
    assert [tuple(message) for message in conversation(row)] == [
        ("system", "S"),
        ("user", "Before?"),
        ("assistant", "Yes."),
        ("user", "And now?"),
        ("assistant", "Now."),
    ]


def test_the_better_answers_alone_are_read_when_the_settings_say_so() -> None:
    shape = find_shape("s", source(messages="chosen"), ["chosen", "rejected"], "x.json")
    assert (shape.kind, shape.messages) == ("conversation", "chosen")


def test_what_the_names_of_columns_were_taken_for_is_said_and_named_columns_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    find_shape("a", Source(path="a.csv"), ["Text", "category", "id"], "a.csv")
    said = 'a.csv: by the names of the columns, text = "Text", label = "category"; not used: "id"\n'
    assert capsys.readouterr().err == said
    find_shape("a", Source(path="a.csv", keep=("team",)), ["text", "team", *"abcdefg"], "a.csv")
    assert capsys.readouterr().err.endswith('text = "text"; not used: "a", "b", "c", "d", "e" and 2 more\n')
    find_shape("a", Source(path="a.csv"), ["question", "answer", "system"], "a.csv")
    assert 'prompt = "question", response = "answer", system = "system"' in capsys.readouterr().err
    find_shape("a", Source(path="a.csv", text="Text"), ["Text", "category"], "a.csv")
    assert capsys.readouterr().err == ""


ASKED = {"role": "user", "content": "Is 7 prime?"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Is 7 prime?", "chosen": "Yes.", "rejected": "No."},
        {"instruction": "Is 7 prime?", "input": "", "output": "Sure.", "chosen": "Yes.", "rejected": "No."},
        {
            "prompt": [ASKED],
            "chosen": [{"role": "assistant", "content": "Yes."}],
            "rejected": {"from": "gpt", "value": "No."},
        },
        {
            "chosen": [ASKED, {"role": "assistant", "content": "Yes."}],
            "rejected": [ASKED, {"from": "gpt", "value": "No."}],
        },
        {"chosen": "\n\nHuman: Is 7 prime?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Is 7 prime?\n\nAssistant: No."},
    ],
)
def test_preference_pairs_in_all_their_forms_are_the_same_pair(row: dict[str, object]) -> None:
    shape = find_shape("s", source(), list(row), "x.json")
    filled = fill(Row("s", "x:1", "json", "document"), shape, row)
    assert filled.kind == "pair"
    assert [tuple(message) for message in filled.messages] == [
        ("user", "Is 7 prime?"),
        ("assistant", "Yes."),
        ("assistant", "No."),
    ]


def test_pairs_that_part_before_their_answers_or_have_no_question_are_misfits() -> None:
    for row, reason in (
        ({"chosen": "Yes.", "rejected": "No."}, "without the question"),
        (
            {"chosen": "\n\nHuman: A\n\nAssistant: Yes.", "rejected": "\n\nHuman: B\n\nAssistant: No."},
            "differ before their last answer",
        ),
    ):
        with pytest.raises(Misfit, match=reason):
            fill(Row("s", "x:1", "json", "document"), find_shape("s", source(), list(row), "x.json"), row)


@pytest.mark.parametrize(("cell", "label"), [(True, "good"), ("0", "bad"), (-1, "bad"), ("Up", "good"), ("👎", "bad")])
def test_a_rated_answer_is_good_or_bad(cell: object, label: str) -> None:
    row = {"question": "Is 7 prime?", "answer": "Yes.", "thumb": cell}
    named = source(prompt="question", response="answer", rating="thumb")
    filled = fill(Row("s", "x:1", "json", "document"), find_shape("s", named, list(row), "x.json"), row)
    assert (filled.kind, filled.label, len(filled.messages)) == ("rating", label, 2)


def test_rated_answers_in_the_form_they_are_exchanged_in_are_ratings() -> None:
    row = {"prompt": [ASKED], "completion": [{"role": "assistant", "content": "Yes."}], "label": False}
    filled = fill(Row("s", "x:1", "json", "document"), find_shape("s", source(), list(row), "x.json"), row)
    assert (filled.kind, filled.label) == ("rating", "bad")
    assert [tuple(message) for message in filled.messages] == [("user", "Is 7 prime?"), ("assistant", "Yes.")]


def test_a_rating_that_is_no_yes_or_no_is_a_misfit() -> None:
    row = {"messages": [ASKED], "stars": 4}
    shape = find_shape("s", source(messages="messages", rating="stars"), list(row), "x.json")
    with pytest.raises(Misfit, match="true or false, 1 or 0"):
        fill(Row("s", "x:1", "json", "document"), shape, row)
