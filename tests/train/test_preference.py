"""DPO, ORPO and KTO against the formulas of their papers, and from a file of pairs to a model that prefers."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from train.small import Small
from wyrmling import config
from wyrmling.config import Preference, PreferenceLoss, Project
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import NothingToLearn
from wyrmling.data import run as data
from wyrmling.evaluate import run as evaluate
from wyrmling.model import folder
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig
from wyrmling.tokenizer import run as tokenizer
from wyrmling.train import cross_entropy, run
from wyrmling.train.batches import IGNORED, Batch
from wyrmling.train.choices import GROUP, PreferenceBatches
from wyrmling.train.loop import accumulate, steps
from wyrmling.train.objectives import loss_function
from wyrmling.train.optim import Optimizer, parameter_groups
from wyrmling.train.preference import log_probabilities
from wyrmling.train.prefetch import Feed
from wyrmling.train.reference import DIGEST, FILE, fill
from wyrmling.train.spikes import Judge, Recent

THINGS = ["card", "parcel", "refund", "password", "ticket", "letter", "key", "bill"]
PROJECT = """
name = "chooser"
objective = { task = "chat" }
data.clean.pii = "keep"
data.dedup.near = false
data.split = { val = 0.2, test = 0.1, decontaminate = false }
tokenizer.vocab_size = 300
model = { layers = 2, width = 32, context = 96 }
machine = { threads = 1, dtype = "float32" }

[data.sources.pairs]
path = "pairs.jsonl"

[data.sources.rated]
path = "rated.jsonl"
messages = "messages"
rating = "thumb"

[data.sources.chats]
path = "chats.jsonl"
prompt = "question"
response = "answer"
"""


@pytest.fixture(scope="module")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A project whose better answers are polite, with pairs, rated answers and conversations."""
    root = tmp_path_factory.mktemp("chooser")
    asked = [f"Where is my {thing} number {n}?" for thing in THINGS for n in range(4)]
    polite, rude = [f"Sorry, we look for it: {q}" for q in asked], [f"No idea, go away, {q}" for q in asked]
    _write(root / "pairs.jsonl", [_pair(*row) for row in zip(asked, polite, rude, strict=True)])
    said = [(q, a, thumb) for q, a, thumb in zip(asked, polite, [1] * 32, strict=True)]
    said += [(q, a, 0) for q, a in zip(asked, rude, strict=True)]
    _write(
        root / "rated.jsonl", [{"messages": [_says("user", q), _says("assistant", a)], "thumb": t} for q, a, t in said]
    )
    _write(root / "chats.jsonl", [{"question": q, "answer": a} for q, a in zip(asked, polite, strict=True)])
    (root / "wyrmling.toml").write_text(PROJECT)
    project = config.load(root)
    rows = data.run(project)
    return Small(project, rows, tokenizer.run(project, rows))


def _says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _pair(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": question, "chosen": chosen, "rejected": rejected}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def model(seed: int = 1) -> Model:
    made = Model(ModelConfig("qwen3", 304, 32, 2, 2, 2, 16, 48, 96), "next", seed=seed, zero_init=False)
    with torch.no_grad():
        # Far enough from uniform that no term of a loss vanishes.
        for parameter in made.parameters():
            parameter.mul_(1.5)
    return made.double()


def material(chooser: Small, loss: PreferenceLoss, *, micro: int = 10**6, split: str = "train") -> PreferenceBatches:
    store = chooser.store(split)
    kinds = ("pair", "rating") if loss == "kto" else ("pair",)
    rows = np.flatnonzero(np.isin(store.rows["kind"], kinds))
    made = PreferenceBatches(
        store, loss, rows, context=96, data_hash="h", seed=0, batch_tokens=1200, micro_batch_tokens=micro
    )
    if loss != "orpo":
        made.reference = np.random.default_rng(0).normal(-60, 3, (len(made.items.row), 2)).astype(np.float32)
    return made


def by_hand(of: Model, batch: Batch) -> tuple[list[Tensor], list[int]]:
    """Log-probability and number of the learned tokens of each sequence, one token at a time."""
    logits = of.logits(batch.tokens, Segments(batch.lengths))
    logp = logits - logits.exp().sum(-1, keepdim=True).log()
    sums, counts, start = [], [], 0
    for length in batch.lengths:
        learned = [t for t in range(start, start + length) if batch.targets[t] != IGNORED]
        sums.append(torch.stack([logp[t, batch.targets[t]] for t in learned]).sum())
        counts.append(len(learned))
        start += length
    return sums, counts


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log(1 + torch.exp(-x))


def formula(loss: PreferenceLoss, of: Model, batch: Batch, asked: Preference, smoothing: float) -> Tensor:
    """The loss as its paper writes it, summed over the items."""
    logp, count = by_hand(of, batch)
    choices, total = batch.choices, torch.zeros((), dtype=torch.float64)
    assert choices is not None
    if loss == "orpo":
        for at in range(0, len(logp), 2):
            mean = [logp[at + side] / count[at + side] for side in (0, 1)]
            odds = [m.exp() / (1 - m.exp()) for m in mean]
            total = total - mean[0] - asked.beta * log_sigmoid(torch.log(odds[0] / odds[1]))
        return total
    assert choices.reference_S is not None
    ratio = [value - reference for value, reference in zip(logp, choices.reference_S.double(), strict=True)]
    if loss == "dpo":
        for at in range(0, len(logp), 2):
            margin = asked.beta * (ratio[at] - ratio[at + 1])
            total = total - (1 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin)
        return total
    groups = choices.group_S.tolist()
    for at in range(0, len(logp), 2):
        moved = [ratio[i].detach() for i in range(1, len(logp), 2) if groups[i] == groups[at]]
        z = max(torch.stack(moved).mean(), torch.zeros((), dtype=torch.float64))
        if choices.good_S[at]:
            value = asked.desirable_weight * torch.sigmoid(asked.beta * (ratio[at] - z))
            total = total + asked.desirable_weight - value
        else:
            value = asked.undesirable_weight * torch.sigmoid(asked.beta * (z - ratio[at]))
            total = total + asked.undesirable_weight - value
    return total


@pytest.mark.parametrize(
    ("asked", "smoothing"),
    [
        (Preference(loss="dpo"), 0.0),
        (Preference(loss="dpo", beta=0.5), 0.2),
        (Preference(loss="orpo", beta=0.3), 0.0),
        (Preference(loss="kto", beta=0.2, desirable_weight=1.5, undesirable_weight=0.5), 0.0),
    ],
)
def test_losses_and_gradients_are_those_of_the_papers(
    asked: Preference, smoothing: float, chooser: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ROWS", 50)
    ours, theirs = model(), model()
    (batch,) = material(chooser, asked.loss).step(1)
    if asked.loss == "kto":
        # So low a reference that z is above 0 in one of the groups, where it matters.
        assert batch.choices is not None and batch.choices.reference_S is not None
        batch.choices.reference_S[batch.choices.group_S == 0] = -300.0
    loss, count = loss_function("preference", label_smoothing=smoothing, preference=asked)(ours, batch)
    judge = formula(asked.loss, theirs, batch, asked, smoothing)
    assert count == len(batch.lengths) // 2 > GROUP
    torch.testing.assert_close(loss, judge, rtol=1e-9, atol=1e-9)
    loss.backward()
    judge.backward()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("loss", ["dpo", "orpo", "kto"])
def test_splitting_a_step_does_not_change_its_gradient(loss: PreferenceLoss, chooser: Small) -> None:
    found = []
    for micro in (10**6, 1):
        of, batches = model(), material(chooser, loss, micro=micro).step(2)
        total, count = accumulate(of, loss_function("preference", preference=Preference(loss=loss)), batches)
        found.append((total, count, len(batches), [parameter.grad for parameter in of.parameters()]))
    whole, parts = found
    assert whole[2] == 1 < parts[2] and whole[1] == parts[1]
    assert whole[0] == pytest.approx(parts[0], rel=1e-12)
    for one, two in zip(whole[3], parts[3], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", ["dpo", "orpo", "kto"])
def test_going_on_after_any_step_gives_the_same_bits(loss: PreferenceLoss, chooser: Small) -> None:
    def go(of: Model, optimizer: Optimizer, first: int, last: int) -> None:
        chosen = loss_function("preference", preference=Preference(loss=loss), neftune=5.0)
        span = {"first": first, "last": last}
        feed = Feed(material(chooser, loss), **span)
        numbers = {"schedule": lambda _: 1.0, "seed": 1, "max_norm": 1.0, "judge": Judge(Recent())}
        list(steps(of, optimizer, chosen, feed, **span, **numbers))

    def made(of: Model) -> Optimizer:
        rates = {"lr": 1e-3, "embedding_lr": 1e-3, "head_lr": 1e-3}
        return Optimizer(parameter_groups(dict(of.named_parameters()), rule="adamw", weight_decay=0, parts={}, **rates))

    straight, stopped = model(), model()
    go(straight, made(straight), 1, 6)
    before = made(stopped)
    go(stopped, before, 1, 4)
    after = made(stopped)
    after.load({name: tensor.clone() for name, tensor in before.state().items()})
    go(stopped, after, 5, 6)
    assert all(a.equal(b) for a, b in zip(straight.parameters(), stopped.parameters(), strict=True))


def test_a_pair_is_two_conversations_of_which_the_answers_are_learned(chooser: Small) -> None:
    tokenizer_, batches = chooser.tokenizer, material(chooser, "dpo")
    (batch,) = batches.step(1)
    texts = [tokenizer_.decode(part.tolist()) for part in batch.tokens.split(batch.lengths)]
    for number, targets in enumerate(batch.targets.split(batch.lengths)):
        learned = tokenizer_.decode([token for token in targets.tolist() if token != IGNORED])
        assert learned.startswith(("Sorry,", "No idea,")[number % 2])
        assert targets[-1] in tokenizer_.end_ids and texts[number].endswith(learned)
        assert texts[number].split("?")[0] == texts[number - number % 2].split("?")[0]


def test_kto_compares_with_the_answer_to_another_question(chooser: Small) -> None:
    batches = material(chooser, "kto")
    items = batches.items
    assert (items.row[items.other] != items.row).all()
    pairs = batches.store.rows["kind"][items.row] == "pair"
    assert items.good[pairs].mean() == 0.5 and 0 < items.good[~pairs].mean() < 1
    (batch,) = batches.step(1)
    sequences = batch.tokens.split(batch.lengths)
    for at in range(0, len(sequences), 2):
        own, other = (chooser.tokenizer.decode(part.tolist()) for part in sequences[at : at + 2])
        question = own.split("?")[0]
        assert other.startswith(question) and other != own


def test_the_reference_is_computed_once_and_a_damaged_one_again(
    chooser: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of, batches = model().float(), material(chooser, "dpo")
    fill(of, {"train": batches}, tmp_path, nullcontext)
    first = batches.reference
    (batch,) = batches.step(1)
    assert batch.choices is not None and batch.choices.reference_S is not None and first is not None
    sums, _ = by_hand(of, batch)
    torch.testing.assert_close(torch.stack(sums), batch.choices.reference_S, rtol=1e-4, atol=1e-3)
    fill(model(2).float(), {"train": batches}, tmp_path, nullcontext)
    assert batches.reference is not None and batches.reference.tolist() == first.tolist()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[-3] ^= 1
    (tmp_path / FILE).write_bytes(content)
    fill(of, {"train": batches}, tmp_path, nullcontext)
    assert batches.reference.tolist() == first.tolist() and (tmp_path / DIGEST).is_file()
    assert "computed again" in capsys.readouterr().err


def _trained(chooser: Small, root: Path, *settings: str) -> list[Artifact]:
    """A model that talks, and what became of it."""
    steps_ = '[{name="talk", objective="sft", steps=30}, {name="choose", objective="preference", steps=25, lr=0.003}]'
    project = chooser.with_settings(f"train={steps_}", *settings)
    moved = Project(root=root, settings=project.settings)
    return run.run_all(moved, chooser.data, chooser.tokens)


def margin(made: Artifact, chooser: Small) -> float:
    """How much likelier than the rejected answer the chosen one is, in nats, on average over the validation pairs."""
    batches = material(chooser, "orpo", split="val")
    with torch.no_grad():
        logp_S = torch.cat([log_probabilities(folder.load(made.path / "model"), one) for one in batches.everything()])
    return float((logp_S[0::2] - logp_S[1::2]).mean())


@pytest.mark.parametrize(
    "settings",
    [
        ["train.choose.preference.loss=dpo"],
        ["train.choose.preference.loss=orpo"],
        ["train.choose.preference.loss=kto", "train.choose.method=lora"],
    ],
)
def test_a_step_learns_to_prefer_what_was_preferred(settings: list[str], chooser: Small, tmp_path: Path) -> None:
    before, made = _trained(chooser, tmp_path, *settings)
    log = [json.loads(line) for line in (made.path / "steps.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    # Before anything was learned DPO's margin is 0, and KTO's answers are as far as all others.
    start = {"dpo": np.log(2), "kto": 0.5}
    name = settings[0].rpartition("=")[2]
    if name in start:
        assert losses[0] == pytest.approx(start[name], abs=1e-3)
    if name != "kto":
        assert losses[-1] < 0.8 * losses[0] and made.figures["val"]["accuracy"] == 1.0
    # What the steps are for, whatever became of the loss: KTO's is measured against a mean that moves with the model.
    assert margin(made, chooser) > margin(before, chooser) + 1
    assert not (made.path / "checkpoints").exists()


def test_ratings_of_one_kind_teach_nothing(chooser: Small, tmp_path: Path) -> None:
    asked = 'train=[{name="p", objective="preference", sources=["rated"]}]'
    with pytest.raises(NothingToLearn, match="no training row fits the objective preference"):
        run.run_all(chooser.with_settings(asked, root=tmp_path), chooser.data, chooser.tokens)


def test_pairs_alone_are_a_whole_project(tmp_path: Path) -> None:
    asked = [f"Where is my {thing} number {n}?" for thing in THINGS for n in range(6)]
    _write(tmp_path / "pairs.jsonl", [_pair(q, f"Sorry, we look for it: {q}", f"No idea, {q}") for q in asked])
    cut = PROJECT.index("[data.sources.rated]")
    steps_ = '[[train]]\nname = "choose"\nobjective = "preference"\nsteps = 3\npreference.loss = "orpo"\n'
    (tmp_path / "wyrmling.toml").write_text(PROJECT[:cut] + steps_)
    project = config.load(tmp_path)
    rows = data.run(project)
    tokens = tokenizer.run(project, rows)
    (made,) = run.run_all(project, rows, tokens)
    judged = evaluate.run(project, rows, made.path / "model")
    # What is scored is the chosen answer, after its question.
    assert judged.figures["rows"] > 0 and judged.figures["metrics"]["bpb"]["value"] > 0
