"""Rows with several labels, from a file to answers: data, training, evaluation and classify."""

import csv
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evaluate.test_remote import fake, said
from train.small import Small
from wyrmling import config
from wyrmling.config import Project, TrainStep
from wyrmling.data import run as data
from wyrmling.evaluate import baselines
from wyrmling.evaluate import run as evaluate
from wyrmling.flow import ladder
from wyrmling.model import folder
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig
from wyrmling.serve import answer
from wyrmling.tokenizer import run as tokenizer
from wyrmling.train import run
from wyrmling.train.batches import Batches
from wyrmling.train.loop import accumulate
from wyrmling.train.objectives import class_weights, loss_function
from wyrmling.train.rivals import row_scores

WORDS = {"card": "payments", "parcel": "delivery", "password": "access"}
PROJECT = """
name = "several"
objective = { task = "classify", accept = ["macro_f1 >= 0.5", "recall[access] >= 0.2"] }
data.clean.pii = "keep"
data.dedup.near = false
data.split = { val = 0.2, test = 0.2, decontaminate = false }
tokenizer.vocab_size = 300
model = { layers = 2, width = 32, context = 32 }
machine = { threads = 1, dtype = "float32" }

[data.sources.tickets]
path = "tickets.csv"
text = "text"
label = "teams"
label_separator = "|"

[[train]]
name = "tune"
objective = "classify"
steps = 120
batch_tokens = 600
class_weights = "balanced"
"""


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Small:
    root = tmp_path_factory.mktemp("several")
    with (root / "tickets.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["text", "teams"])
        for number in range(120):
            words = [word for place, word in enumerate(WORDS) if number >> place & 1]
            text = f"number {number}: the {' and the '.join(words) or 'weather'} is late"
            table.writerow([text, "|".join(reversed([WORDS[word] for word in words]))])
    (root / "wyrmling.toml").write_text(PROJECT)
    project = config.load(root)
    rows = data.run(project)
    return Small(project, rows, tokenizer.run(project, rows))


def test_every_row_keeps_all_its_labels_and_may_have_none(several: Small) -> None:
    store = several.store()
    assert store.several and store.labels == ["access", "delivery", "payments"]
    for row in range(len(store)):
        text = several.tokenizer.decode(store.tokens(row).tolist())
        expected = {team for word, team in WORDS.items() if word in text}
        assert {store.labels[number] for number in store.rows["labels"][row]} == expected
    assert min(len(labels) for labels in store.rows["labels"]) == 0


def test_a_list_is_several_labels_without_a_separator(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": [["a"], ["b", "a"], []][n % 3]} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "wyrmling.toml").write_text(
        'name = "p"\nobjective = { task = "classify" }\ndata.sources.rows.path = "rows.jsonl"\n'
    )
    made = data.run(config.load(tmp_path))
    assert json.loads((made.path / "labels.json").read_text()) == {"labels": ["a", "b"], "tags": [], "several": True}


def material(several: Small, micro: int = 10**6) -> Batches:
    store = several.store()
    return Batches(
        store, "classify", np.arange(len(store)), context=32, data_hash="h", seed=0, batch_tokens=400,
        micro_batch_tokens=micro, several=3,
    )  # fmt: skip


def model() -> Model:
    made = Model(ModelConfig("modernbert", 304, 32, 2, 2, 2, 16, 48, 32, tied=True), "classes", 3, seed=1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return made.double()


def test_the_loss_is_torch_binary_cross_entropy_however_the_batch_is_split(several: Small) -> None:
    weights = [0.5, 2.0, 3.0]
    loss = loss_function("classify", weights=weights, label_smoothing=0.1)
    sums, gradients = [], []
    for micro in (10**6, 1):
        of, batches = model(), material(several, micro).step(1)
        sums.append(accumulate(of, loss, batches))
        gradients.append([parameter.grad for parameter in of.parameters()])
        if micro == 1:
            continue
        (batch,) = batches
        targets = batch.targets.double() * 0.9 + 0.05
        judge = F.binary_cross_entropy_with_logits(
            of.logits(batch.tokens, Segments(batch.lengths)), targets, pos_weight=torch.tensor(weights).double()
        )
        assert sums[0][1] == 3 * len(batch.lengths)
        assert sums[0][0] / sums[0][1] == pytest.approx(float(judge.detach()), rel=1e-12)
    assert sums[0] == pytest.approx(sums[1], rel=1e-12)
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_every_yes_and_no_of_a_row_is_scored_for_pairing(several: Small) -> None:
    of, batches = model(), material(several, 100)
    found = row_scores(of, "classify", batches, nullcontext)
    assert found.row_N.tolist() == list(range(len(batches.store.rows["length"]))) and set(found.targets_N) == {3.0}
    (whole,) = material(several).everything()
    said = of.logits(whole.tokens, Segments(whole.lengths)) > 0
    assert found.earned_N[whole.rows].tolist() == (said == (whole.targets == 1)).sum(1).tolist()


def test_balanced_weights_make_yes_and_no_equal_in_sum() -> None:
    step = TrainStep(name="s", objective="classify", class_weights="balanced")
    assert class_weights(step, ["a", "b"], [10, 40], rows=50) == [4.0, 0.25]


def test_tfidf_decides_each_label_for_itself() -> None:
    texts = [f"the {' and '.join(words)} is late" for words in (["card"], ["parcel"], ["card", "parcel"], [])] * 5
    sets = [[word for word in ("card", "parcel") if word in text] for text in texts]
    assert baselines.tfidf_sets(texts, sets)(texts) == sets


def test_a_trained_model_gives_all_labels_of_a_text(several: Small, tmp_path: Path) -> None:
    project = Project(root=tmp_path, settings=several.project.settings)
    made = run.run_all(project, several.data, several.tokens)[-1]
    about = folder.about(made.path / "model")
    assert about is not None and about.several
    assert made.figures["val"]["micro_f1"] > 0.8
    judged = evaluate.run(project, several.data, made.path / "model")
    assert judged.figures["verdict"]["status"] in ("PASS", "INCONCLUSIVE")
    assert {"macro_f1", "micro_f1", "accuracy"} <= judged.figures["metrics"].keys()
    assert (judged.path / "report.html").is_file()
    (both, none) = answer.classify(
        made.path / "model", ["number 99: the card and the parcel is late", "number 96: the weather is late"]
    )
    assert sorted(both["labels"]) == ["delivery", "payments"] and none["labels"] == []
    assert all(0 < share < 1 for share in both["probabilities"].values())


def test_the_ladder_has_the_rungs_that_give_several_labels(several: Small) -> None:
    """The server answers all right; what shows rows to a model gives one label, and says so."""

    def right(body: dict[str, Any], _: int) -> tuple[int, Any]:
        labels = [team for word, team in WORDS.items() if word in body["messages"][-1]["content"]]
        return said(", ".join(labels) or "None")

    steps = "name='start', objective='masked', steps=2", "name='tune', objective='classify', steps=8"
    with fake(right) as (url, seen):
        remote = f"{{url='{url}', model='m', usd_per_million_input=0, usd_per_million_output=0}}"
        settings = ["evaluate.resamples=100", f"evaluate.remote={remote}", f"train=[{{{steps[0]}}}, {{{steps[1]}}}]"]
        found, folder = ladder.run(config.load(several.project.root, settings), None, ladder.Remote(usd=1.0))
    lines = {line.rung.name: line for line in found.lines}
    assert list(lines) == ["majority", "tfidf", "probe", "lora", "full", "remote"] and found.metric == "macro_f1"
    assert {one.name for one in found.left_out} == {"zero-shot", "few-shot"}
    assert all("rows may have several labels" in one.reason for one in found.left_out)
    assert len(seen) == found.rows and lines["remote"].quality.value == 1
    for line in lines.values():
        # The answers read back score as they did when they were given.
        assert line.quality.value == line.rung.measured["macro_f1"].value
        assert line.rung.verdict is not None
    assert (folder / ladder.PAGE).is_file()
