"""Standard suites: read in the forms of their releases, asked, compared and counted."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from wyrmling.core.errors import BadInput, BadSetting, UsageError
from wyrmling.evaluate.suites import code, definition, items, outcome, run
from wyrmling.evaluate.suites.definition import find, parse, shipped
from wyrmling.tokenizer.tokenizer import Tokenizer

PAIRS = [
    {
        "sentence_good": "Many dragons come.",
        "sentence_bad": "Many dragons comes.",
        "UID": "agree",
        "linguistics_term": "a",
    },
    {"sentence_good": "She was there.", "sentence_bad": "She were there.", "UID": "agree", "linguistics_term": "a"},
    {"sentence_good": "Who came?", "sentence_bad": "Who come came?", "UID": "ask", "linguistics_term": "b"},
]
PROBLEM = {
    "prompt": 'def twice(x):\n    """Twice x."""\n',
    "test": "def check(candidate):\n    assert candidate(3) == 6",
    "entry_point": "twice",
}


def write(path: Path, rows: list[dict], *, lines: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows), encoding="utf-8")
    return path.parent


@pytest.fixture
def blimp(tmp_path: Path) -> Path:
    return write(tmp_path / "blimp" / "agree.jsonl", PAIRS)


def test_every_shipped_suite_is_whole() -> None:
    assert set(shipped()) == {"bbh", "blimp", "gsm8k", "humaneval", "lambada", "truthfulqa", "truthfulqa2"}
    assert all(suite.about for suite in shipped().values())


def test_pairs_are_chosen_as_transformers_finds_them_likelier(make, blimp) -> None:
    made = make("complete")
    document = run.run(find("blimp"), made.model, blimp)
    tokenizer = Tokenizer.load(made.model)
    judge = transformers.AutoModelForCausalLM.from_pretrained(made.model, dtype=torch.float32)

    def nats(text: str) -> float:
        ids = torch.tensor([tokenizer.prompt(text)])
        return float(judge(ids, labels=ids).loss.detach()) * (ids.shape[1] - 1)

    right = [nats(pair["sentence_good"]) < nats(pair["sentence_bad"]) for pair in PAIRS]
    for pair, answer in zip(PAIRS, document["answers"], strict=True):
        assert -answer["said"][0] == pytest.approx(nats(pair["sentence_good"]), abs=1e-3)
    assert document["groups"]["ask"]["value"] == right[2]
    expected = (np.mean(right[:2]) + right[2]) / 2
    assert document["metrics"]["choice"]["value"] == pytest.approx(expected), "the mean of the two parts"


def test_the_worked_examples_come_from_the_training_file(tmp_path) -> None:
    write(tmp_path / "train.jsonl", [{"question": f"q{i}", "answer": f"so #### {i}"} for i in range(9)])
    folder = write(tmp_path / "test.jsonl", [{"question": "1,000 + 1?", "answer": "It is #### 1,001"}])
    (item,) = items.read(find("gsm8k"), folder, shots=2)
    assert item.prompt == (
        "Question: q0\nAnswer: so #### 0\n\nQuestion: q1\nAnswer: so #### 1\n\nQuestion: 1,000 + 1?\nAnswer:"
    )
    assert item.answer == "1,001"


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("1000 and 1 is 1001", True), ("$1,001.00.", True), ("It is 1,001.\n\n", True), ("1001 or 1002", False),
        ("I do not know", False), ("", False), ("10 01", False),
    ],
)  # fmt: skip
def test_numbers_are_compared_as_numbers(said: str, right: bool) -> None:
    assert outcome.is_right(find("gsm8k"), "1,001", said) is right


def test_number_spellings() -> None:
    assert {outcome.number(text) for text in ("18", "18.0", "$18.", " 18 ")} == {Decimal(18)}
    assert outcome.number("eighteen") is None


def test_bbh_reads_its_folders_and_takes_the_words_after_the_answer_is(tmp_path) -> None:
    (tmp_path / "bbh").mkdir()
    (tmp_path / "bbh" / "snarks.json").write_text(
        json.dumps({"canary": "x", "examples": [{"input": "Which?", "target": "(B)"}]})
    )
    (tmp_path / "cot-prompts").mkdir()
    (tmp_path / "cot-prompts" / "snarks.txt").write_text("do not train\n-----\nTask.\n\nQ: a\nA: b\n")
    (item,) = items.read(find("bbh"), tmp_path)
    assert item.prompt == "Task.\n\nQ: a\nA: b\n\nQ: Which?\nA: Let's think step by step."
    assert (item.group, item.answer) == ("snarks", "(B)")
    assert outcome.is_right(find("bbh"), item.answer, " So the answer is (A). No: the answer is (B).\n\nQ: more")


def test_truthfulqa_in_both_measures(make, tmp_path) -> None:
    marked = {"mc1_targets": {"no": 0, "yes": 1, "maybe": 0}, "mc2_targets": {"yes": 1, "no": 0, "sure": 1}}
    folder = write(tmp_path / "mc_task.json", [{"question": "Is it?", **marked}], lines=False)
    (item,) = items.read(find("truthfulqa"), folder)
    assert item.choices == (" yes", " no", " maybe")
    (item,) = items.read(find("truthfulqa2"), folder)
    assert (item.choices, item.right) == ((" yes", " sure", " no"), 2)
    assert outcome.mass([item], [(math.log(0.2), math.log(0.3), math.log(0.5))]) == pytest.approx([0.5])
    mass = run.run(find("truthfulqa2"), make("complete").model, folder)["metrics"]["mass"]["value"]
    assert 0 < mass < 1


def test_the_last_word_is_judged_as_transformers_foretells_it(make, tmp_path) -> None:
    made = make("complete")
    texts = ["Once upon a time there was a", "Story 1. Once upon a dragon", "of number of number"]
    document = run.run(
        find("lambada"), made.model, write(tmp_path / "lambada_test.jsonl", [{"text": t} for t in texts])
    )
    tokenizer = Tokenizer.load(made.model)
    judge = transformers.AutoModelForCausalLM.from_pretrained(made.model, dtype=torch.float32)
    right = []
    for text, answer in zip(texts, document["answers"], strict=True):
        before, _, word = text.rpartition(" ")
        ids, wanted = tokenizer.prompt(before), torch.tensor(tokenizer.encode(f" {word}"))
        with torch.inference_mode():
            logits = judge(torch.tensor([[*ids, *wanted.tolist()]])).logits[0, len(ids) - 1 : -1]
        assert answer["said"] == pytest.approx(
            float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        )
        right.append(bool((logits.argmax(-1) == wanted).all()))
    assert document["metrics"]["last_word"]["value"] == np.mean(right)


def test_programs_pass_or_fail_by_their_tests(tmp_path) -> None:
    code.check()
    (item,) = items.read(find("humaneval"), write(tmp_path / "HumanEval.jsonl", [PROBLEM]))
    assert code.run(f"{item.prompt}    return 2 * x\n\n{item.answer}") == "passed"
    assert code.run(f"{item.prompt}    return x\n\n{item.answer}") == "failed"


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
        "x = bytearray(2 * 1024 ** 3)",
        "open('big', 'wb').write(bytes(4 * 1024 ** 2))",
        "import os; assert os.environ.get('HOME')",
    ],
)
def test_programs_can_do_little(program: str) -> None:
    assert code.run(program) == "failed"


def test_programs_end_in_time_with_all_that_they_started(tmp_path) -> None:
    sign = tmp_path / "sign"
    child = f"import time; time.sleep(1.5); open({str(sign)!r}, 'w')"
    program = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    assert code.run(program, seconds=0.8) == "timed out"
    import time

    time.sleep(1.5)
    assert not sign.exists()


def test_code_is_not_run_unless_that_is_said(make, tmp_path) -> None:
    folder = write(tmp_path / "HumanEval.jsonl", [PROBLEM])
    with pytest.raises(BadSetting, match="runs what the model writes"):
        run.run(find("humaneval"), make("complete").model, folder)


def test_intervals_of_plain_means_and_of_means_of_groups() -> None:
    plain = outcome.score(np.array([1.0] * 90 + [0.0] * 10), None)
    assert (plain.value, plain.n) == (0.9, 100) and plain.interval.low < 0.9 < plain.interval.high
    groups = ["a"] * 90 + ["b"] * 10
    parts = outcome.score(np.array([1.0] * 90 + [0.0, 1.0] * 5), groups)
    assert parts.value == pytest.approx(0.75)
    assert parts.interval.high - parts.interval.low > plain.interval.high - plain.interval.low


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x"\nfiles = "*"\nkind = "choise"', "kind"),
        ('name = "x"\nfiles = "*"\nkind = "answer"', "give answer"),
        ('name = "x"\nfiles = "*"\nkind = "choice"\nchoices = "a"\naverage = "groups"', "needs group"),
        ('name = "x"\nfiles = "*"\nkind = "choice"\nchoises = "a"', "choises"),
        ("name = ", "TOML"),
    ],
)
def test_a_wrong_definition_is_named(text: str, said: str) -> None:
    with pytest.raises(BadSetting, match=said):
        parse(text, "x.toml")


def test_what_is_missing_is_named(tmp_path, make) -> None:
    with pytest.raises(UsageError, match="blimp"):
        find("blimpp")
    with pytest.raises(BadInput, match="holds no file"):
        items.read(find("blimp"), tmp_path)
    folder = write(tmp_path / "a.jsonl", [{"sentence_good": "x"}])
    with pytest.raises(BadInput, match="sentence_bad") as error:
        items.read(find("blimp"), folder)
    assert error.value.where == "a.jsonl:1"
    with pytest.raises(BadSetting, match="models that write"):
        run.run(find("blimp"), make("classify").model, write(tmp_path / "b" / "a.jsonl", PAIRS))


def test_a_suite_of_ones_own_takes_a_few_lines(make, tmp_path) -> None:
    (tmp_path / "capitals.toml").write_text(
        'name = "capitals"\nfiles = "*.csv"\nkind = "choice"\nprompt = "The capital of {{ land }} is"\n'
        'choices = ["{{ capital }}", "{{ others }}"]\nseparator = ";"\n'
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("\ufeffland,capital,others\nFrance,Paris,Lyon;Nice\n", encoding="utf-8")
    suite = definition.find(str(tmp_path / "capitals.toml"))
    (item,) = items.read(suite, tmp_path / "data")
    assert (item.prompt, item.choices) == ("The capital of France is", (" Paris", " Lyon", " Nice"))
    assert run.run(suite, make("complete").model, tmp_path / "data")["items"] == 1
