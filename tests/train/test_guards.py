"""It never trains on nothing: each kind of bad material is said, with row ids, before step 1."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from train.small import Small
from wyrmling.config import TrainStep
from wyrmling.core.errors import BadSetting, NothingToLearn
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore
from wyrmling.train import guards
from wyrmling.train.batches import IGNORED, Array, Batches, Noise
from wyrmling.train.guards import material, preview, shared_with, validation_rows

TEXT = """
name = "p"
objective = {{ task = "{task}" }}

[data]
split = {{ val = 0, test = 0 }}
dedup = {{ near = false, exact = false }}

[data.sources.a]
path = "a.csv"
{columns}

[tokenizer]
vocab_size = 300
"""
LABELLED = TEXT.format(task="classify", columns='text = "text"\nlabel = "label"')
CHATS = TEXT.format(task="complete", columns='prompt = "q"\nresponse = "r"')


def step(objective: str, **changes: object) -> TrainStep:
    return TrainStep.model_validate({"name": "tune", "objective": objective, **changes})


def check(small: Small, objective: str, *, context: int = 64, **changes: object) -> guards.Material:
    return material(small.store(), small.tokenizer, step(objective, **changes), context=context)


@pytest.mark.parametrize(
    ("objective", "kinds"), [("causal", 4), ("masked", 4), ("sft", 1), ("classify", 1), ("tag", 1)]
)
def test_good_rows_pass_without_a_word(objective: str, kinds: int, small: Small) -> None:
    found = check(small, objective)
    assert found.warnings == []
    assert len(set(small.store().rows["kind"][found.rows])) == kinds


def test_sources_narrow_the_rows(small: Small) -> None:
    found = check(small, "causal", sources=["chats"])
    assert set(small.store().rows["source"][found.rows]) == {"chats"}
    with pytest.raises(NothingToLearn, match=r"no training row fits the objective tag,.* conversation"):
        check(small, "tag", sources=["chats"])


def test_one_label_only_is_an_error_that_names_it(small: Small) -> None:
    store = small.store()
    store.rows = {**store.rows, "label": np.where(store.rows["label"] >= 0, 1, -1)}
    with pytest.raises(NothingToLearn, match=rf"training rows have the same label '{store.labels[1]}'.*tickets\.csv:"):
        material(store, small.tokenizer, step("classify"), context=64)


def test_rare_labels_and_long_texts_are_said(make_project: Callable[..., Small]) -> None:
    rows = [f"row {i},{'bills' if i % 2 else 'cards'}\n" for i in range(8)]
    long = "very " * 60
    made = make_project(LABELLED, a_csv="text,label\n" + "".join(rows) + f"{long},cards\nlonely,odd\n")
    found = check(made, "classify", context=16)
    assert len(found.rows) == 10
    assert any("1 labels have a single training row" in text and "a.csv:11" in text for text in found.warnings)
    assert any("longer than the context of 16" in text and "a.csv:10" in text for text in found.warnings)


def test_labels_without_training_rows_are_named(small: Small) -> None:
    store = small.store()
    store.rows = {**store.rows, "label": np.where(store.rows["label"] == 2, 1, store.rows["label"])}
    found = material(store, small.tokenizer, step("classify"), context=64)
    assert [text for text in found.warnings if "1 labels have no training row" in text and store.labels[2] in text]


def test_answers_that_are_cut_off_are_an_error_with_the_remedy(make_project: Callable[..., Small]) -> None:
    rows = [f"what is {i},the answer is {i} {'and so on ' * i}\n" for i in range(9)]
    made = make_project(CHATS, a_csv="q,r\n" + "".join(rows))
    context = int(sorted(made.store().rows["length"])[3])
    with pytest.raises(
        NothingToLearn, match=r"of 9 conversations are longer than the context .* cut off.*a\.csv"
    ) as error:
        check(made, "sft", context=context)
    assert error.value.fix is not None and "model.context" in error.value.fix


def test_a_few_conversations_that_do_not_fit_are_left_out_and_named(make_project: Callable[..., Small]) -> None:
    rows = "".join(f"what is {i},it is {i}\n" for i in range(40))
    made = make_project(CHATS, a_csv="q,r\n" + rows + f"tell me more,{'on and on ' * 60}\n")
    found = check(made, "sft", context=64)
    assert len(found.rows) == 40
    assert len(found.warnings) == 1 and "a.csv:42" in found.warnings[0] and "left out" in found.warnings[0]


def test_rows_with_nothing_to_learn_are_left_out_and_all_of_them_an_error(small: Small, tmp_path: Path) -> None:
    rows = np.flatnonzero(small.store().rows["kind"] == "conversation")
    some, every = (
        _without_learning(small, tmp_path / "some", rows[:2]),
        _without_learning(small, tmp_path / "all", rows),
    )
    found = material(some, small.tokenizer, step("sft"), context=64)
    assert len(found.rows) == len(rows) - 2
    assert "2 rows have nothing to learn and are left out" in found.warnings[0]
    assert str(some.rows["row_id"][rows[0]]) in found.warnings[0]
    with pytest.raises(NothingToLearn, match=f"all {len(rows)} rows have nothing to learn"):
        material(every, small.tokenizer, step("sft"), context=64)


def _without_learning(small: Small, folder: Path, rows: Array) -> TokenStore:
    """A copy of the training split in which nothing of these rows is learned."""
    shutil.copytree(small.tokens.path / "store", folder)
    store = TokenStore.open(folder, "train")
    learn = np.fromfile(folder / "train-00000.learn", dtype=np.uint8)
    for row in rows:
        learn[store.rows["start"][row] : store.rows["start"][row] + store.rows["length"][row]] = 0
    learn.tofile(folder / "train-00000.learn")
    return TokenStore.open(folder, "train")


def test_a_missing_end_of_text_is_an_error(small: Small, tmp_path: Path) -> None:
    shutil.copytree(small.tokens.path / "store", tmp_path / "store")
    store = TokenStore.open(tmp_path / "store", "train")
    learn = np.fromfile(tmp_path / "store" / "train-00000.learn", dtype=np.uint8)
    ends = np.isin(np.concatenate([store.tokens(row) for row in range(len(store))]), small.tokenizer.end_ids)
    learn[ends] = 0
    learn.tofile(tmp_path / "store" / "train-00000.learn")
    for objective in ("sft", "causal"):
        with pytest.raises(NothingToLearn, match="do not end with an end-of-text token"):
            material(TokenStore.open(tmp_path / "store", "train"), small.tokenizer, step(objective), context=64)


def test_one_tag_only_is_an_error(small: Small, tmp_path: Path) -> None:
    shutil.copytree(small.tokens.path / "store", tmp_path / "store")
    tags = np.fromfile(tmp_path / "store" / "train-00000.tags", dtype="<i2")
    np.where(tags == IGNORED, IGNORED, 0).astype("<i2").tofile(tmp_path / "store" / "train-00000.tags")
    with pytest.raises(NothingToLearn, match="have the same tag 'O'"):
        material(TokenStore.open(tmp_path / "store", "train"), small.tokenizer, step("tag"), context=64)


def test_the_masked_objective_needs_a_mask_token(small: Small, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(small.tokens.path)
    tokenizer.special_tokens.pop("mask_token")
    with pytest.raises(BadSetting, match="no mask token"):
        material(small.store(), tokenizer, step("masked"), context=64)


def test_a_held_out_row_among_the_training_rows_is_found(small: Small) -> None:
    store = small.store()
    assert shared_with(store, np.arange(len(store)), small.store("val")) == []
    assert len(shared_with(store, np.arange(5), store)) == 5


def test_validation_leaves_out_conversations_that_do_not_fit(small: Small) -> None:
    everything = validation_rows(small.store("val"), step("sft"), context=64)
    assert len(everything) > 0
    assert len(validation_rows(small.store("val"), step("sft"), context=4)) == 0


@pytest.mark.parametrize("objective", ["causal", "masked", "sft", "classify", "tag"])
def test_the_preview_marks_what_is_learned(objective: str, small: Small) -> None:
    store, tokenizer = small.store(), small.tokenizer
    noise = Noise(0.3, tokenizer.mask_id or 0, tuple(tokenizer.special_ids.values()), store.vocab_size)
    batches = Batches(
        store,
        objective,
        material(store, tokenizer, step(objective), context=64).rows,
        context=64,
        data_hash="h",
        seed=0,
        batch_tokens=200,
        micro_batch_tokens=200,
        noise=noise if objective == "masked" else None,
    )
    batch = batches.step(1)[0]
    lines = preview(store, tokenizer, step(objective), batch)
    assert len(lines) == 2
    for line, row in zip(lines, batch.rows, strict=False):
        assert line.startswith(str(store.rows["row_id"][row]))
        assert "⟦" in line and "⟧" in line
    learned = lines[0].split("⟦", 1)[1].split("⟧", 1)[0]
    if objective == "classify":
        assert learned in store.labels
    if objective == "tag":
        assert learned in store.tag_names
    if objective == "sft":
        assert learned.endswith("<|im_end|>") and learned.startswith("The")
    if objective == "causal":
        assert "<|endoftext|>" in lines[0] or "<|im_end|>" in lines[0]
