"""What the command line does when something is wrong: one message, the right exit code, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shell import EXAMPLES, here, wyrmling

PROJECT = """
name = "desk"
[objective]
task = "{task}"
[data.sources.rows]
path = "{path}"
"""


def project(
    folder: Path, rows: str | bytes = "", *, file: str = "rows.csv", task: str = "classify", more: str = ""
) -> Path:
    (folder / "wyrmling.toml").write_text(PROJECT.format(task=task, path=file) + more, encoding="utf-8")
    if rows:
        (folder / file).write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    return folder


def fails(*arguments: object, code: int = 1) -> str:
    done = here(*arguments, check=False)
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


def test_version_and_help():
    assert wyrmling("--version").stdout.startswith("wyrmling ")
    text = here("--help").stdout
    verbs = "init doctor plan data tokenizer train evaluate run serve chat classify tag export models schema keys"
    assert all(verb in text for verb in verbs.split())


@pytest.mark.parametrize("group", ["", "data", "models", "runs", "objective", "feedback", "keys"])
def test_the_list_of_verbs_says_each_in_one_whole_line(group, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = here(*group.split(), "--help").stdout.partition("Commands:")[2]
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines and not [line for line in lines if line.endswith("...") or line.startswith("    ")]


def test_no_project_here(tmp_path):
    assert "wyrmling init" in fails("plan", "--project", tmp_path, code=2)


def test_an_unknown_setting_names_the_nearest(tmp_path):
    said = fails("data", "--project", project(tmp_path, "text,label\na,b\n", more="[tokenizer]\nvocabsize=500\n"))
    assert "tokenizer.vocab_size" in said


def test_a_project_is_named_by_its_folder(tmp_path):
    said = fails("plan", "--project", project(tmp_path) / "wyrmling.toml", code=2)
    assert "is a file" in said and "folder that holds" in said


def test_what_the_system_refuses_is_said_with_a_remedy(tmp_path):
    (tmp_path / "notes").write_text("not a folder")
    said = fails("init", tmp_path / "notes" / "desk")
    assert f"{tmp_path / 'notes' / 'desk'}: Not a directory" in said and "correct the path" in said
    folder = project(tmp_path, "text,label\na,x\nb,y\n")
    (folder / "runs").write_text("not a folder")
    said = fails("data", "--project", folder)
    assert "runs" in said and "move the file away" in said and "fault" not in said


def test_a_missing_file_is_named(tmp_path):
    assert "rows.csv" in fails("data", "--project", project(tmp_path))


def test_an_empty_file_is_named(tmp_path):
    folder = project(tmp_path, b" \n")
    assert "rows.csv" in fails("data", "--project", folder)


def test_a_missing_column_lists_those_that_are_there(tmp_path):
    folder = project(tmp_path, "text,lable\nhello,a\nbye,b\n", more='text = "text"\nlabel = "label"\n')
    said = fails("data", "--project", folder)
    assert "'label'" in said
    assert "lable" in said


def test_all_labels_equal_is_nothing_to_learn(tmp_path):
    rows = "text,label\n" + "".join(f"message number {i} about something,refund\n" for i in range(40))
    said = fails("run", "--project", project(tmp_path, rows))
    assert "refund" in said or "one class" in said or "one label" in said


def test_an_error_is_json_too(tmp_path):
    done = here("data", "--project", project(tmp_path), "--json", check=False)
    assert done.exit_code == 1
    assert "rows.csv" in json.dumps(json.loads(done.stdout)["error"])


def test_an_unknown_step_lists_the_steps(tmp_path):
    folder = project(tmp_path, "text,label\na b c,x\nd e f,y\n")
    assert "pretrain, tune" in fails("train", "--project", folder, "--step", "tunes", code=2)


def test_an_unknown_model_says_what_there_is(tmp_path):
    folder = project(tmp_path, "text,label\na,x\nb,y\n")
    assert "wyrmling run" in fails("chat", "--project", folder, "--model", "nobody", "--message", "hi", code=2)


@pytest.mark.parametrize("there", ["{}/nowhere", "nowhere"])
def test_a_model_that_is_not_there_is_named_also_without_a_project(tmp_path, there):
    asked = there.format(tmp_path)
    done = here("suite", "blimp", "--model", asked, "--data", tmp_path, cwd=tmp_path, check=False)
    assert done.exit_code == 2 and f"there is no model folder {asked}" in done.stderr


@pytest.mark.parametrize("verb", ["serve", "classify", "export"])
def test_settings_reach_the_verbs_that_also_work_without_a_project(tmp_path, verb):
    folder = project(tmp_path, "text,label\na,x\nb,y\n")
    more = ["--out", tmp_path / "out"] if verb == "export" else []
    said = fails(verb, "--project", folder, "--model", "nobody", *more, "--set", "serve.prt=1", code=2)
    assert "did you mean serve.port" in said


def test_what_can_not_be_asked_or_listened_on_is_named(small_project, tmp_path):
    asked = ("classify", "--project", small_project, "--model", "support-desk")
    assert "No such file" in fails(*asked, "--file", tmp_path / "none.txt", code=2)
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    assert "not UTF-8" in fails(*asked, "--file", tmp_path / "latin.txt", code=2)
    assert "--file FILE" in fails(*asked, code=2)
    assert "65535" in fails("serve", "--model", tmp_path, "--port", "99999", code=2)


def test_chat_needs_one_of_its_two_texts(tmp_path):
    fails("chat", "--model", tmp_path, code=2)


def test_init_copies_an_example_and_never_overwrites(tmp_path):
    folder = tmp_path / "desk"
    here("init", folder, "--example", "support-desk")
    assert (folder / "wyrmling.toml").is_file()
    assert "not empty" in fails("init", folder, "--example", "support-desk", code=2)
    assert "storyteller" in fails("init", tmp_path / "x", "--example", "nope", code=2)


@pytest.mark.parametrize(
    ("name", "content", "task"),
    [
        ("rows.csv", "text,label\nwhere is my card,card\nI lost it,lost\n", "classify"),
        ("notes.md", "# Title\n\nSome text to learn from.\n", "complete"),
        ("qa.jsonl", '{"prompt": "Hi", "response": "Hello"}\n', "chat"),
        ("ner.conll", "Paris\tB-location\nis\tO\nnice\tO\n\nhi\tO\n", "tag"),
    ],
)
def test_init_from_files_proposes_the_task(tmp_path, name, content, task):
    (tmp_path / name).write_text(content, encoding="utf-8")
    folder = tmp_path / "project"
    here("init", folder, "--from", tmp_path / name)
    assert f'task = "{task}"' in (folder / "wyrmling.toml").read_text(encoding="utf-8")


def test_every_shipped_example_loads():
    from wyrmling import config

    names = [folder.parent.name for folder in EXAMPLES.glob("*/wyrmling.toml")]
    assert {"support-desk", "storyteller", "newsdesk"} <= set(names)
    for name in names:
        assert config.load(EXAMPLES / name).settings.objective.goal


def test_the_examples_stay_small():
    assert sum(file.stat().st_size for file in EXAMPLES.rglob("*") if file.is_file()) < 6_000_000


def test_the_schema_is_printed():
    assert json.loads(here("schema").stdout)["additionalProperties"] is False


def test_doctor_says_something_useful(tmp_path):
    document = json.loads(here("doctor", "--json", check=False).stdout)
    assert document
