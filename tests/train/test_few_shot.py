"""The method few-shot trains nothing: a copy of the base, rows beside it, and a classifier like any other."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from train.small import Small
from wyrmling.config import Project
from wyrmling.core.artifact import Artifact, file_digest
from wyrmling.core.errors import BadSetting, CorruptArtifact, GateRefused, UsageError
from wyrmling.evaluate import run as evaluate
from wyrmling.evaluate import score, tasks
from wyrmling.flow.export import export
from wyrmling.model import few_shot, folder, generate, probes, shown
from wyrmling.model.embed import embed
from wyrmling.model.generate import continuations
from wyrmling.serve import answer
from wyrmling.serve.loaded import find, load
from wyrmling.tokenizer import chat
from wyrmling.train import run

STEPS = {
    "decoder": '{name="s", objective="causal", sources=["stories", "tickets"], steps=30, batch_tokens=400}',
    "encoder": '{name="s", objective="masked", sources=["stories", "tickets"], steps=30, batch_tokens=400}',
}
ROOM = ("model.context=256",)


@pytest.fixture(scope="module")
def bases(small: Small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A decoder and an encoder that have seen the stories and tickets."""
    found = {}
    for name, step in STEPS.items():
        project = small.with_settings(f"train=[{step}]", *ROOM, root=tmp_path_factory.mktemp(name))
        found[name] = run.run_all(project, small.data, small.tokens)[-1].path / "model"
    return found


def project_of(small: Small, base: Path, root: Path, **few: object) -> Project:
    step = '[{name="s", objective="classify", method="few-shot", sources=["tickets"]}]'
    settings = [f"train.s.few_shot.{name}={json.dumps(value)}" for name, value in few.items()]
    return small.with_settings(f"model.base={base}", f"train={step}", *settings, *ROOM, root=root)


def made(small: Small, base: Path, root: Path, **few: object) -> Artifact:
    return run.run_all(project_of(small, base, root, **few), small.data, small.tokens)[-1]


def prompts_of(made: Artifact, small: Small) -> tuple[shown.Prompted, list[str], list[list[int]]]:
    """The model, and for each test text the prompt as text and the rows in it."""
    model = folder.load(made.path / "model")
    assert isinstance(model, shown.Prompted)
    texts = [row["text"] for row in tasks.read_split(small.data, "classify", "val")]
    found = [model.prompt(small.tokenizer.document(text)) for text in texts]
    return model, [small.tokenizer.decode(ids) for ids, _ in found], [rows for _, rows in found]


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_nothing_is_trained_and_the_model_is_evaluated_and_served_alike(
    kind: str, small: Small, bases: dict[str, Path], tmp_path: Path
) -> None:
    artifact = made(small, bases[kind], tmp_path)
    model = artifact.path / "model"
    assert file_digest(model / "model.safetensors") == file_digest(bases[kind] / "model.safetensors")
    assert (artifact.figures["steps"], artifact.figures["trained_parameters"]) == (0, 0)
    assert set(artifact.figures["val"]) == {"accuracy", "loss"}
    scored = evaluate.run(project_of(small, bases[kind], tmp_path), small.data, model)
    import pyarrow.parquet as pq

    table = pq.read_table(scored.path / "predictions.parquet").to_pylist()
    texts = [row["text"] for row in tasks.read_split(small.data, "classify", "test")]
    served = answer.classify(model, texts)
    assert [one["label"] for one in served] == [row["predicted"] for row in table]
    assert sum(served[0]["probabilities"].values()) == pytest.approx(1)
    assert probes.replay(model, tokenizer=small.tokenizer).max_abs < 1e-4
    assert run.run_all(project_of(small, bases[kind], tmp_path), small.data, small.tokens)[-1].reused


def test_the_prompt_shows_training_rows_most_alike_last(small: Small, bases: dict[str, Path], tmp_path: Path) -> None:
    artifact = made(small, bases["decoder"], tmp_path / "a", examples=4)
    model, prompts, rows = prompts_of(artifact, small)
    train = {row["row_id"]: row for row in tasks.read_split(small.data, "classify", "train")}
    texts = [row["text"] for row in tasks.read_split(small.data, "classify", "val")]
    for text, prompt, chosen in zip(texts, prompts, rows, strict=True):
        assert prompt.rstrip().endswith(f"{text}\nLabel:")
        shown_rows = [model.about.rows[i] for i in chosen]
        assert all(train[row.row_id]["label"] == model.about.labels[row.label] for row in shown_rows)
        assert len({row.label for row in shown_rows}) == 4  # four labels, one row of each
        places = [prompt.index(f"{row.text}\nLabel: {model.about.labels[row.label]}\n\n") for row in shown_rows]
        assert places == sorted(places, reverse=True)
    first = made(small, bases["decoder"], tmp_path / "b", examples=4, order="nearest-first")
    _, others, _ = prompts_of(first, small)
    assert all(a != b and sorted(a) == sorted(b) for a, b in zip(prompts, others, strict=True))


@pytest.mark.parametrize("select", ["nearest", "bm25", "balanced", "random"])
def test_each_way_to_choose(select: str, small: Small, bases: dict[str, Path], tmp_path: Path) -> None:
    model, _, rows = prompts_of(made(small, bases["decoder"], tmp_path, select=select, examples=4), small)
    fixed = select in ("balanced", "random")
    assert (len(set(map(tuple, rows))) == 1) == fixed
    assert all(len(chosen) == 4 for chosen in rows)
    if select == "balanced":
        assert sorted(row.label for row in model.about.rows) == [0, 1, 2, 3]


def test_a_long_prompt_leaves_out_what_is_least_alike(small: Small, bases: dict[str, Path], tmp_path: Path) -> None:
    model, _, rows = prompts_of(made(small, bases["decoder"], tmp_path, examples=40), small)
    longest = max(map(len, model.about.names))
    texts = [row["text"] for row in tasks.read_split(small.data, "classify", "val")]
    sizes = [len(model.prompt(small.tokenizer.document(text))[0]) + longest for text in texts]
    assert max(sizes) <= model.inner.config.context
    assert all(4 <= len(chosen) < 40 for chosen in rows)


def test_zero_shot_shows_no_row(small: Small, bases: dict[str, Path], tmp_path: Path) -> None:
    model, prompts, _ = prompts_of(made(small, bases["decoder"], tmp_path / "d", examples=0), small)
    assert model.about.rows == [] and all(prompt.count("Label:") == 1 for prompt in prompts)
    compared = folder.load(made(small, bases["encoder"], tmp_path / "e", examples=0).path / "model")
    assert isinstance(compared, shown.Compared)
    assert [row.text for row in compared.about.rows] == compared.about.labels


def test_an_encoder_with_one_row_is_the_nearest_neighbour(small: Small, bases: dict[str, Path], tmp_path: Path) -> None:
    path = made(small, bases["encoder"], tmp_path, examples=1, calibrate=False).path / "model"
    model, base, tokenizer = folder.load(path), folder.load(bases["encoder"]), small.tokenizer
    train = tasks.read_split(small.data, "classify", "train")
    documents = [tokenizer.document(row["text"]) for row in tasks.read_split(small.data, "classify", "val")]
    nearest = (embed(base, documents) @ embed(base, [tokenizer.document(row["text"]) for row in train]).T).argmax(1)
    expected = [train[i]["label"] for i in nearest.tolist()]
    assert isinstance(model, shown.Compared)
    assert [model.about.labels[i] for i in model.raw(documents).argmax(1).tolist()] == expected


def test_a_k_shot_pool_and_its_digest(small: Small, bases: dict[str, Path], tmp_path: Path) -> None:
    path = made(small, bases["encoder"], tmp_path, per_label=2).path / "model"
    about = few_shot.read(path)
    assert about is not None and np.bincount([row.label for row in about.rows]).tolist() == [2, 2, 2, 2]
    assert len(about.rows_sha256) == len(about.vectors_sha256 or "") == 64


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_calibrated_model_favours_no_label_for_a_text_that_says_nothing(
    kind: str, small: Small, bases: dict[str, Path], tmp_path: Path
) -> None:
    path = made(small, bases[kind], tmp_path / "on", examples=0, calibrate=True).path / "model"
    model = folder.load(path)
    assert isinstance(model, shown.Shown)
    about = few_shot.read(path)
    assert about is not None and about.calibration is not None
    nothing = [ids for text in ("N/A", "[MASK]", "") if (ids := small.tokenizer.document(text))]
    assert (model.raw(nothing).mean(0) - torch.tensor(about.calibration)).abs().max() < 1e-4
    off = few_shot.read(made(small, bases[kind], tmp_path / "off", examples=0, calibrate=False).path / "model")
    assert off is not None and off.calibration is None


def answering(small: Small, base: Path, root: Path, **few: object) -> Artifact:
    step = '[{name="s", objective="sft", method="few-shot", sources=["chats"]}]'
    settings = [f"train.s.few_shot.{name}={json.dumps(value)}" for name, value in few.items()]
    project = small.with_settings(f"model.base={base}", f"train={step}", "objective.task=answer", *settings, root=root)
    return run.run_all(project, small.data, small.tokens)[-1]


def test_answers_are_given_after_the_questions_most_like_the_new_one(
    small: Small, bases: dict[str, Path], tmp_path: Path
) -> None:
    loaded = load(find(answering(small, bases["decoder"], tmp_path / "a", examples=2).path / "model"))
    train = {row["messages"][0]["content"] for row in tasks.read_split(small.data, "answer", "train")}
    question = "Where is the parcel of Ada?"
    said = small.tokenizer.decode(loaded.prompt([{"role": "user", "content": question}]))
    shown_rows = [row for row in loaded.turns.about.rows if row.text in said] if loaded.turns else []
    assert len(shown_rows) == 2 and {row.text for row in shown_rows} <= train
    assert all(row.answer in said and ("Ada" in row.text or "parcel" in row.text) for row in shown_rows)
    assert said.rindex(question) > max(said.index(row.text) for row in shown_rows)
    plain = load(find(answering(small, bases["decoder"], tmp_path / "b", examples=0).path / "model"))
    bare = small.tokenizer.decode(plain.prompt([{"role": "user", "content": question}]))
    assert question in bare and len(bare) < len(said)


def test_what_is_shown_is_not_scored_and_what_is_evaluated_is_what_is_served(
    small: Small, bases: dict[str, Path], tmp_path: Path
) -> None:
    rows = tasks.read_split(small.data, "answer", "train")[:6]
    paths = [answering(small, bases["decoder"], tmp_path / str(k), examples=k).path / "model" for k in (0, 2)]
    bare, shown_some = (score.load(path) for path in paths)
    a, b = (score.text(scorer, rows) for scorer in (bare, shown_some))
    assert a.targets_N.tolist() == b.targets_N.tolist() and a.bytes_N.tolist() == b.bytes_N.tolist()
    assert np.abs(a.nll_N - b.nll_N).max() > 1e-3
    served = load(find(paths[1]))
    for row in rows[:3]:
        asked = score.shown(shown_some, row["messages"][:-1])
        assert served.prompt(row["messages"][:-1]) == chat.render(small.tokenizer, asked, add_generation_prompt=True)[0]


def test_continuations_are_those_of_a_full_pass(bases: dict[str, Path]) -> None:
    model, choices = folder.load(bases["decoder"]), [[5], [300, 7], [9, 8, 7, 6], [9, 8, 7]]
    prompt = [3, 50, 60, 70]
    given = continuations(model, prompt, choices)
    whole = [sum(t.logprob for t in generate.score(model, prompt + choice)[len(prompt) - 1 :]) for choice in choices]
    assert given == pytest.approx(whole, abs=1e-4)


def test_what_a_base_can_not_do_is_refused(small: Small, bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="compares vectors, so select = 'bm25'"):
        made(small, bases["encoder"], tmp_path, select="bm25")
    with pytest.raises(UsageError, match="it can't learn tag"):
        small.with_settings(f"model.base={bases['encoder']}", 'train=[{name="s", objective="tag", method="few-shot"}]')
    with pytest.raises(UsageError, match="few_shot is set, but the method is 'full'"):
        small.with_settings('train=[{name="s", objective="classify", few_shot={examples=3}}]')
    first = made(small, bases["encoder"], tmp_path, examples=2)
    with pytest.raises(BadSetting, match="a few-shot model already"):
        made(small, first.path / "model", tmp_path, examples=3)


def test_it_is_not_exported_and_a_changed_row_is_noticed(small: Small, bases: dict[str, Path], tmp_path: Path) -> None:
    path = made(small, bases["encoder"], tmp_path, per_label=1, examples=1).path / "model"
    for to in ("hf", "gguf", "onnx"):
        with pytest.raises(UsageError, match="other tools don't read"):
            export(path, to=to, out=tmp_path / "out")
    written = json.loads((path / few_shot.FEW_SHOT).read_text())
    swapped = [row | {"label": (row["label"] + 1) % 4} for row in written["rows"]]
    (path / few_shot.FEW_SHOT).write_text(json.dumps(written | {"rows": swapped}))
    with pytest.raises(GateRefused, match="differ from the trained"):
        probes.replay(path, tokenizer=small.tokenizer)
    (path / few_shot.FEW_SHOT).write_text("{}")
    with pytest.raises(CorruptArtifact, match="make the few-shot model again"):
        folder.load(path)
