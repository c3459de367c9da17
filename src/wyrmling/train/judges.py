"""By which figure of the validation rows a look is told better than another. No torch: the artifact's key asks too."""

from __future__ import annotations

from typing import NamedTuple

from wyrmling.config import Settings, TrainObjective, TrainStep
from wyrmling.evaluate import accept


class Judge(NamedTuple):
    """The figure that tells which look is best."""

    name: str
    higher_is_better: bool


JUDGES: dict[TrainObjective, Judge] = {
    "causal": Judge("loss", False),
    "masked": Judge("loss", False),
    "sft": Judge("loss", False),
    "classify": Judge("macro_f1", True),
    "tag": Judge("entity_f1", True),
    "preference": Judge("loss", False),
}
# What a condition of objective.accept may put in their place, and how the figure is called in a look. Bits per byte and
# perplexity rise and fall with the loss.
ASKED: dict[TrainObjective, dict[str, str]] = {
    "classify": {"accuracy": "accuracy", "macro_f1": "macro_f1"},
    "tag": {"token_accuracy": "accuracy", "entity_f1": "entity_f1"},
}


def judge_of(settings: Settings, step: TrainStep) -> Judge:
    """The figure of a step: what the first condition on all rows asks for, where a look has it; else the task's own.

    Raises   BadSetting for a bad line of objective.accept
    """
    usual, asked = JUDGES[step.objective], ASKED.get(step.objective, {})
    if step.objective != settings.objective.task:
        return usual
    names = (
        asked[one.metric]
        for one in accept.of(settings)
        if one.metric in asked and one.part is None and one.label is None
    )
    return Judge(next(names, usual.name), usual.higher_is_better)
