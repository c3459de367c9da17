"""A judge of answers: its word counts when it is one, in both orders, beside how far people agree with it."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import cohen_kappa_score

from evaluate.chat_server import fake, said
from evaluate.conftest import Made, Make
from shell import served
from wyrmling.config import Project
from wyrmling.core.errors import BadInput, BadSetting, UsageError
from wyrmling.evaluate import accept, chat_api, score, systems, tasks, write
from wyrmling.evaluate.judge import METRICS, agreement, human, wording
from wyrmling.flow import judge
from wyrmling.model import folder, probes
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.tokenizer import chat
from wyrmling.tokenizer.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait between two tries."""
    monkeypatch.setattr(chat_api, "MOST_WAIT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def made(make: Make) -> Made:
    return make("chat")


@pytest.fixture(scope="module")
def other(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model, with answers of its own."""
    path = tmp_path_factory.mktemp("other") / "model"
    return saved(made, path, context=48, spread=True)


def saved(made: Made, path: Path, *, context: int, spread: bool = False) -> Path:
    small = folder.load(made.model)
    model = Model(replace(small.config, context=context), "next", seed=None)
    model.load_state_dict(small.state_dict())
    if spread:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)), alpha=0.1)
    about = folder.About(task="chat", head="next", context=context, objective="sft", chat=True)
    folder.save(model.eval(), path, made.model, about)
    probes.record(model, Tokenizer.load(path), ["what is 1 plus one?"], path)
    return path


def judged_by(made: Made, *, answers: int = 100, **asked: Any) -> Project:
    settings = made.project.settings
    chosen = settings.evaluate.judge.model_copy(update={"model": "wise", "rubric": "Good?", **asked})
    evaluate = settings.evaluate.model_copy(update={"judge": chosen, "answer_tokens": 12, "answers": answers})
    return Project(made.project.root, settings.model_copy(update={"evaluate": evaluate}))


def asked_number(body: dict[str, Any]) -> int:
    found = re.search(r"what is (\d+) plus", body["messages"][-1]["content"])
    assert found is not None
    return int(found[1])


def answers_in(body: dict[str, Any]) -> list[str]:
    return re.findall(r"<(?:first|second)_answer>\n(.*?)\n</", body["messages"][-1]["content"], re.DOTALL)


def word(**said_: Any) -> tuple[int, Any]:
    return said(json.dumps({"reason": "because", **said_}))


def run(project: Project, model: Path, against: Path | None = None, *, human: Path | None = None) -> dict[str, Any]:
    document, text = judge.run(project, str(model), None if against is None else str(against), human, None)
    assert f"{document['missing']} missing" in text
    return document


def rows_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(document["answers"]).read_text().splitlines()]


@pytest.mark.parametrize("seed", range(40))
def test_agreement_is_that_of_scikit_learn_and_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    human_N = rng.integers(0, 5, 60)
    judge_N = np.where(rng.random(60) < rng.random(), human_N, rng.integers(0, 5, 60))
    found = agreement.measure(human_N, judge_N, 5, 200, ordered=True)
    assert found["kappa"].value == pytest.approx(cohen_kappa_score(human_N, judge_N))
    assert found["weighted_kappa"].value == pytest.approx(cohen_kappa_score(human_N, judge_N, weights="quadratic"))
    assert found["spearman"].value == pytest.approx(scipy.stats.spearmanr(human_N, judge_N).statistic)
    assert found["agreement"].value == np.mean(human_N == judge_N)
    for one in found.values():
        assert -1 <= one.low <= one.value <= one.high <= 1 and one.n == 60


def test_no_agreement_beyond_chance_is_known_where_one_side_never_changes() -> None:
    found = agreement.measure(np.full(60, 2), np.full(60, 2), 5, 200, ordered=True)
    assert found["agreement"].value == 1.0
    assert all(found[name].value is None and "says the same" in found[name].note for name in ("kappa", "spearman"))


def test_nonsense_and_silence_are_missing_and_never_a_score(made: Made) -> None:
    over = threading.Event()
    nonsense = ["no idea", '{"score": 9, "reason": ""}', '{"score": true}', "[5]", '{"score": "5"}', '{"score": 4.5}']

    def answer(body: dict[str, Any], n: int) -> tuple[int, Any]:
        place = questions.index(asked_number(body))
        if place == 0:
            over.wait(20)
        return said(nonsense[place - 1]) if 0 < place < 4 else word(score=1 + place % 5)

    questions = [
        int(re.findall(r"\d+", row["messages"][0]["content"])[0]) for row in tasks.from_artifact(made.data, "chat").test
    ]
    expected = [1 + place % 5 for place in range(4, len(questions))]
    assert len(expected) >= 3
    with fake(answer) as (url, seen):
        project = judged_by(made, url=url, timeout_seconds=0.5)
        found = run(project, made.model)
        over.set()
        asked = len(seen)
        assert asked == len(questions) + chat_api.TRIES - 1
        assert run(project, made.model) == found and len(seen) == asked, "what was judged is not asked for again"
    one = found["metrics"]["judge_score"]
    assert (found["rows"], found["missing"], one["n"]) == (len(questions), 4, len(expected))
    assert one["value"] == pytest.approx(np.mean(expected)) and 1 <= one["low"] < one["value"] < one["high"] <= 5
    assert "judge:wise" in one["signature"] and f"prompt:{wording.prompt_hash('Good?', two=False)}" in one["signature"]
    assert wording.prompt_hash("Good?", two=False) != wording.prompt_hash("Bad?", two=False)
    assert seen[-1]["response_format"]["json_schema"]["schema"]["properties"]["score"]["enum"] == [1, 2, 3, 4, 5]
    assert sorted(one["judge"] or 0 for one in rows_of(found)) == sorted([0] * 4 + expected)
    assert not found["usable"] and "nobody judged" in found["why_not"]
    for text in nonsense:
        assert wording.judged(wording.Item("q", None, ("a",)), [text]).word is None
    assert wording.judged(wording.Item("q", None, ("a",)), ['Well:\n```json\n{"score": 2}\n```']).word == 2


def test_which_answer_comes_first_decides_nothing(made: Made, other: Path) -> None:
    with fake(lambda body, n: word(winner="first")) as (url, seen):
        found = run(judged_by(made, url=url), made.model, other)
    assert len(seen) == 2 * found["rows"]
    assert (found["metrics"]["judge_win_rate"]["value"], found["metrics"]["judge_steady"]["value"]) == (0.5, 0.0)
    assert {row["judge"] for row in rows_of(found)} == {"tie"}


def test_a_judge_that_looks_at_the_answers_prefers_the_same_in_both_orders(made: Made, other: Path) -> None:
    def weight(text: str) -> int:
        return sum(map(ord, text)) % 97

    def heavier(body: dict[str, Any], n: int) -> tuple[int, Any]:
        one, two = map(weight, answers_in(body))
        return word(winner="tie" if one == two else "first" if one > two else "second")

    with fake(heavier) as (url, _):
        project = judged_by(made, url=url)
        found, back = run(project, made.model, other), run(project, other, made.model)
    wins = [np.sign(weight(row["first"]) - weight(row["second"])) for row in rows_of(found)]
    assert len(set(wins)) > 1
    assert found["metrics"]["judge_steady"]["value"] == 1.0
    assert found["metrics"]["judge_win_rate"]["value"] == pytest.approx((np.mean(wins) + 1) / 2)
    assert back["metrics"]["judge_win_rate"]["value"] == pytest.approx(1 - found["metrics"]["judge_win_rate"]["value"])


def test_one_order_without_a_word_is_missing() -> None:
    item = wording.Item("q", None, ("a", "b"))
    first, second, tie = (json.dumps({"winner": name}) for name in ("first", "second", "tie"))
    for texts, expected in (((first, second), "first"), ((second, first), "second"), ((tie, tie), "tie"),
                            ((first, tie), "tie"), ((first, None), None), (("?", second), None)):  # fmt: skip
        assert wording.judged(item, texts).word == expected


def labelled(path: Path, words: list[Any]) -> Path:
    rows = [{"question": f"what is {n} plus one?", "answer": str(n + 1), "human": w} for n, w in enumerate(words)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_judge_counts_for_something_when_enough_people_agree_with_it(made: Made, tmp_path: Path) -> None:
    people = [1 + n * n % 5 for n in range(60)]

    def mostly(body: dict[str, Any], n: int) -> tuple[int, Any]:
        number = asked_number(body)
        return word(score=3 if number % 6 == 0 else 1 + number * number % 5)

    with fake(mostly) as (url, _):
        project = judged_by(made, url=url, rubric="Agree?")
        found = run(project, made.model, human=labelled(tmp_path / "60.jsonl", people))
        few = run(project, made.model, human=labelled(tmp_path / "49.jsonl", people[:49] + [None] * 9))
    said_ = [3 if n % 6 == 0 else people[n] for n in range(60)]
    assert found["human"]["metrics"]["kappa"]["value"] == pytest.approx(cohen_kappa_score(people, said_))
    assert found["usable"] and found["why_not"] is None
    assert not few["usable"] and "49 answers" in few["why_not"] and few["human"]["rows"] == 49
    with fake(lambda body, n: word(score=5 - asked_number(body) ** 2 % 5)) as (url, _):
        wrong = run(judged_by(made, url=url), made.model, human=labelled(tmp_path / "60.jsonl", people))
    assert not wrong["usable"] and "agrees with people little" in wrong["why_not"]
    with fake(lambda body, n: word(score=4)) as (url, _):
        _, text = judge.run(judged_by(made, url=url), str(made.model), None, tmp_path / "60.jsonl", None)
    assert "not usable in accept" in text


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"question": "q", "answer": "a", "human": 6}', '"human" is 6'),
        ('{"question": "q", "answer": "a", "human": "first"}', '"human" is'),
        ('{"question": "q"}', "not a JSON object"), ("good", "not a JSON object"),
        ('{"question": "q", "answer": "a", "human": null}', "no row"),
    ],
)  # fmt: skip
def test_a_bad_row_of_people_s_judgements_is_named(tmp_path: Path, line: str, what: str) -> None:
    (tmp_path / "people.jsonl").write_text(line + "\n")
    with pytest.raises(BadInput, match=what) as caught:
        human.read(tmp_path / "people.jsonl", two=False)
    assert what == "no row" or str(caught.value.where).endswith("people.jsonl:1")


def test_the_answers_that_were_judged_are_a_file_to_fill_in(tmp_path: Path) -> None:
    for item, said_ in ((wording.Item("q", "e", ("a",)), 4), (wording.Item("q", None, ("a", "b")), "tie")):
        (tmp_path / "filled.jsonl").write_text(json.dumps(human.columns(item) | {"human": said_}))
        assert human.read(tmp_path / "filled.jsonl", two=len(item.answers) == 2) == [(item, said_)]


def test_nothing_leaves_this_machine_without_consent_to_the_price(made: Made) -> None:
    far = {"url": "http://judge.invalid/v1"}
    with pytest.raises(BadSetting, match="not known"):
        judge.run(judged_by(made, **far), str(made.model), None, None, 1.0)
    prices = {"usd_per_million_input": 1000.0, "usd_per_million_output": 1000.0}
    for spend in (None, 0.001):
        with pytest.raises(UsageError, match=r"would send \d+ rows to http://judge.invalid") as caught:
            judge.run(judged_by(made, **far, **prices), str(made.model), None, None, spend)
        assert "--spend" in str(caught.value.fix)
    with fake(lambda body, n: word(score=4)) as (url, seen), pytest.raises(BadInput, match="were spent after"):
        judge.run(judged_by(made, url=url, **prices), str(made.model), None, None, 0.01)
    assert 0 < len(seen) < 8


def test_a_judge_that_is_of_no_use_at_all_is_an_error(made: Made) -> None:
    with (
        fake(lambda body, n: said("I like it.")) as (url, _),
        pytest.raises(BadInput, match=r"nothing of use.*I like it"),
    ):
        run(judged_by(made, url=url), made.model)
    with fake(lambda body, n: (500, {})) as (url, _), pytest.raises(BadInput, match="was answered"):
        run(judged_by(made, url=url), made.model)
    with pytest.raises(BadSetting, match="no judge"):
        run(judged_by(made, model=None), made.model)
    with pytest.raises(BadSetting, match="nothing to judge"):
        run(judged_by(made, answers=0), made.model)


def test_a_task_without_written_answers_and_a_gate_have_no_judge(make: Make, made: Made) -> None:
    with pytest.raises(UsageError, match="no written answers"):
        judge.run(make("classify").project, None, None, None, None)
    for metric in METRICS:
        with pytest.raises(BadSetting, match="not usable in accept: it is never the evidence"):
            accept.parse([f"{metric} >= 4"], "chat")


def by_heart(made: Made, project: Project, path: Path) -> Path:
    """A judge that has learned one verdict by heart."""
    wise = saved(made, path, context=1024)
    scorer = score.load(wise)
    test = tasks.from_artifact(made.data, "chat").test
    rows = [test[i] for i in systems.answered_rows(len(test), project.settings.evaluate)]
    written = write.answers(score.load(made.model), rows, max_tokens=project.settings.evaluate.answer_tokens)
    verdict = {"role": "assistant", "content": '{"score": 4, "reason": "ok"}'}
    talks = []
    for row, answer in zip(rows, written, strict=True):
        item = wording.Item(row["messages"][0]["content"], row["messages"][-1]["content"], (answer,))
        talks.append(chat.render(scorer.tokenizer, [*wording.prompts(item, "Good?")[0], verdict]))
    tokens = torch.tensor([token for ids, _ in talks for token in ids])
    learned = torch.tensor([flag for _, learn in talks for flag in learn])
    wanted = torch.nonzero(learned[1:]).squeeze(1)
    # The output matrix alone is enough for so little, and learns in no time.
    with torch.no_grad():
        features = scorer.model.features(tokens, Segments([len(ids) for ids, _ in talks]), wanted)
    optimizer = torch.optim.Adam([scorer.model.output.weight_VD], lr=0.05)
    for _ in range(1000):
        torch.nn.functional.cross_entropy(scorer.model.project(features), tokens[wanted + 1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    about = folder.About(task="chat", head="next", context=1024, objective="sft", chat=True)
    judge_folder = path.parent / "judge"
    folder.save(scorer.model.eval(), judge_folder, made.model, about)
    probes.record(scorer.model, Tokenizer.load(judge_folder), ["what is 1 plus one?"], judge_folder)
    return judge_folder


def test_a_model_here_and_our_own_server_judge_alike(made: Made, tmp_path: Path) -> None:
    few = {"answers": 2, "tokens": 32}
    wise = by_heart(made, judged_by(made, **few), tmp_path / "start")
    here = run(judged_by(made, model=str(wise), **few), made.model)
    with served(made.project.root, str(wise)) as url:
        there = run(judged_by(made, url=f"{url}/v1", model="judge", **few), made.model)
    for found in (here, there):
        assert found["metrics"]["judge_score"]["value"] == 4.0 and found["missing"] == 0
    assert "weights:" in here["metrics"]["judge_score"]["signature"]
    short = saved(made, tmp_path / "short", context=64)
    with pytest.raises(BadInput, match="the judge reads 64 tokens"):
        run(judged_by(made, model=str(short)), made.model)
