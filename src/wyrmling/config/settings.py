"""The whole project file: its sections in order, and what must hold between them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from wyrmling.config.data import Data
from wyrmling.config.evaluate import Evaluate
from wyrmling.config.feedback import Feedback
from wyrmling.config.launch import Launch
from wyrmling.config.machine import Machine
from wyrmling.config.model import Model
from wyrmling.config.objective import Objective
from wyrmling.config.retrain import Retrain
from wyrmling.config.section import Section, as_tuple
from wyrmling.config.serve import Serve
from wyrmling.config.tokenizer import Tokenizer
from wyrmling.config.train import TrainStep
from wyrmling.config.tune import Tune

PROJECT_FILE = "wyrmling.toml"


class Settings(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The name of the project and of its models in the registry."""
    seed: int = Field(default=0, ge=0)
    """Seed of every random choice."""
    database: str | None = None
    """The project database as a SQLAlchemy URL. None: wyrmling.db in the project folder."""
    objective: Objective
    data: Data
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    train: Annotated[tuple[TrainStep, ...], BeforeValidator(as_tuple)] = ()
    """Training steps in order. None given: derived from the task."""
    tune: Tune = Tune()
    evaluate: Evaluate = Evaluate()
    serve: Serve = Serve()
    feedback: Feedback = Feedback()
    retrain: Retrain = Retrain()
    machine: Machine = Machine()
    launch: Launch = Launch()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        names = [step.name for step in self.train]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two train steps are named {name!r}")
        if self.train and self.train[0].method != "full" and self.model.base == "scratch":
            raise ValueError(
                f"train.{self.train[0].name}.method = {self.train[0].method!r} needs a trained model to start from, "
                'but model.base is "scratch"'
            )
        for step in self.train:
            named = [("sources", source) for source in step.sources or ()] + [("replay", s) for s in step.replay]
            for setting, source in named:
                if source not in self.data.sources:
                    known = sorted(self.data.sources)
                    raise ValueError(f"train.{step.name}.{setting} names {source!r}, but data.sources has {known}")
        return self


# From random weights, by task: first to read, then the task.
DEFAULT_STEPS: dict[str, tuple[TrainStep, ...]] = {
    "complete": (TrainStep(name="pretrain", objective="causal"),),
    "chat": (TrainStep(name="pretrain", objective="causal"), TrainStep(name="tune", objective="sft")),
    "answer": (TrainStep(name="pretrain", objective="causal"), TrainStep(name="tune", objective="sft")),
    "summarize": (TrainStep(name="pretrain", objective="causal"), TrainStep(name="tune", objective="sft")),
    "classify": (TrainStep(name="pretrain", objective="masked"), TrainStep(name="tune", objective="classify")),
    "tag": (TrainStep(name="pretrain", objective="masked"), TrainStep(name="tune", objective="tag")),
}


def default_steps(settings: Settings) -> tuple[TrainStep, ...]:
    """The steps of a project that names none. A ready model has learned to read, here or behind an API."""
    steps = DEFAULT_STEPS[settings.objective.task]
    return steps if settings.model.base == "scratch" else steps[-1:]


def schema() -> dict[str, Any]:
    """The JSON schema of the project file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": PROJECT_FILE,
        **Settings.model_json_schema(),
    }
