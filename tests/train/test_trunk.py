"""The state before the rate falls: kept, and gone on from as if training had never ended."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from train.small import Small
from wyrmling.config import TrainStep
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadSetting
from wyrmling.model import folder
from wyrmling.model.heads import stacked_parts
from wyrmling.train import run, trunk
from wyrmling.train.optim import Optimizer, parameter_groups
from wyrmling.train.team import ALONE

LONG = 'name="pretrain", objective="causal", sources=["stories"], batch_tokens=500'


def train(small: Small, root: Path, steps: str, *settings: str) -> list[Artifact]:
    project = small.with_settings(f"train=[{steps}]", *settings, root=root)
    return run.run_all(project, small.data, small.tokens)


FIRST = f"{{{LONG}, steps=9, warmup=0, decay=0.34, keep_trunk=true}}"
AGAIN = '{name="again", objective="causal", sources=["stories"], batch_tokens=500, steps=3, trunk="pretrain"}'


def test_a_trunk_is_the_state_of_a_run_whose_rate_never_falls(small: Small, tmp_path: Path) -> None:
    (made,) = train(small, tmp_path / "a", FIRST)
    (kept,) = (made.path / "trunk").glob("step-*")
    assert kept.name == "step-00000006" and any(name.startswith("trunk/") for name in made.manifest["files"])
    constant = f'{{{LONG}, steps=6, warmup=0, schedule="constant", evaluate_every=6}}'
    (flat,) = train(small, tmp_path / "b", constant)
    weights = folder.load(flat.path / "model").state_dict()
    assert all(weights[name].equal(value) for name, value in load_file(kept / "model.safetensors").items())


def test_a_step_goes_on_with_weights_and_moments(small: Small, tmp_path: Path) -> None:
    made, refreshed = train(small, tmp_path / "a", f"{FIRST}, {AGAIN}")
    (kept,) = (made.path / "trunk").glob("step-*")
    derived = refreshed.figures["derived"]["step"]
    assert (derived["warmup_steps"], derived["optimizer"]) == (0, "muon")
    # What go_on gives is what was kept.
    model = folder.load(made.path / "model")
    optimizer = Optimizer(
        parameter_groups(
            dict(model.named_parameters()), rule="muon", lr=0.02, embedding_lr=0.1, head_lr=0.004, weight_decay=0.1,
            parts=stacked_parts(model),
        )
    )  # fmt: skip
    step = TrainStep(name="again", objective="causal", trunk="pretrain")
    trunk.go_on(made.path, model, optimizer, step, ALONE, tokenizer_sha256=small.store().tokenizer_sha256)
    for file, state in (("model", dict(model.named_parameters())), ("optimizer", optimizer.state())):
        stored = load_file(kept / f"{file}.safetensors")
        assert stored.keys() == state.keys() and all(state[name].equal(value) for name, value in stored.items())
    # The same trunk, named by its folder from another project folder, gives the same bits.
    named = AGAIN.replace('"pretrain"', f"'{made.path}'")
    (elsewhere,) = train(small, tmp_path / "b", named)
    ours, theirs = (load_file(one.path / "model" / "model.safetensors") for one in (refreshed, elsewhere))
    assert all(theirs[name].equal(value) for name, value in ours.items())


def test_a_trunk_of_another_optimizer_or_tokenizer_is_refused(small: Small, tmp_path: Path) -> None:
    (made,) = train(small, tmp_path, FIRST)
    with pytest.raises(BadSetting, match="can't be continued"):
        train(small, tmp_path, f"{FIRST}, {AGAIN[:-1]}, optimizer='sgd'}}")
    with pytest.raises(BadSetting, match="another tokenizer"):
        step = TrainStep(name="again", objective="causal", trunk="pretrain")
        trunk.go_on(made.path, folder.load(made.path / "model"), Optimizer([]), step, ALONE, tokenizer_sha256="0")


def test_a_trunk_has_to_be_there(small: Small, tmp_path: Path) -> None:
    plain = f"{{{LONG}, steps=2}}"
    with pytest.raises(BadSetting, match="has no trunk"):
        train(small, tmp_path, f'{plain}, {{name="again", objective="causal", steps=2, trunk="pretrain"}}')
    with pytest.raises(BadSetting, match="is neither an earlier train step nor"):
        train(small, tmp_path, '{name="again", objective="causal", steps=2, trunk="nothing"}')


def test_a_trunk_needs_steps_before_the_fall() -> None:
    for wrong in ({"schedule": "cosine"}, {"decay": 1.0}, {"method": "freeze"}):
        with pytest.raises(ValueError, match=r"keep_trunk needs|made of all weights"):
            TrainStep.model_validate({"name": "s", "objective": "causal", "keep_trunk": True, **wrong})
