"""Which settings are tried next, and which trial falls behind: Optuna, with its memory in a SQLite file.

Settings come from a tree-structured Parzen estimator. A trial that is not among the best third at a rung of looks
(successive halving: ASHA, Li et al. 2018, arXiv 1810.05934) falls behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wyrmling.core.errors import UsageError
from wyrmling.flow.search_space import Choice, Space

# The first rung is at the second look: at the first, a run has often only warmed up. Each rung leaves one in three.
FIRST_RUNG, LEAVES = 2, 3
REFUSED = "refused"


@dataclass(frozen=True)
class Asked:
    """Settings to try, as TOML text by key."""

    settings: dict[str, str]
    trial: Any


class Sampler:
    """The search's memory: what was tried and how it went.

    file   the SQLite file; what is in it is taken up again
    """

    def __init__(self, file: Path, space: Space, *, seed: int, higher_is_better: bool) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UsageError("a search needs Optuna", fix="pip install 'wyrmling[tune]'") from error
        self._optuna, self._space = optuna, space
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        made = optuna.distributions
        self._distributions: dict[str, Any] = {}
        for key, one in space.items():
            if isinstance(one, Choice):
                self._distributions[key] = made.CategoricalDistribution(one.values)
            elif one.whole:
                self._distributions[key] = made.IntDistribution(int(one.low), int(one.high), log=one.log)
            else:
                self._distributions[key] = made.FloatDistribution(one.low, one.high, log=one.log)
        self._study = optuna.create_study(
            storage=f"sqlite:///{file}",
            study_name="tune",
            load_if_exists=True,
            direction="maximize" if higher_is_better else "minimize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=FIRST_RUNG, reduction_factor=LEAVES),
        )
        self._again_what_was_cut_off()
        # Another seed after each trial: a search that was cut off does not draw the same settings twice.
        self._study.sampler = optuna.samplers.TPESampler(seed=seed + len(self._study.trials), n_startup_trials=5)

    def _again_what_was_cut_off(self) -> None:
        """Trials that were running when the search was killed come first, with the same settings."""
        state = self._optuna.trial.TrialState
        for trial in self._study.get_trials(states=(state.RUNNING,)):
            self._study.tell(trial.number, state=state.FAIL)
            if trial.params:
                self._study.enqueue_trial(trial.params)

    @property
    def tried(self) -> int:
        """Trials that came to an end, given-up and refused ones included."""
        state = self._optuna.trial.TrialState
        ended = self._study.get_trials(states=(state.COMPLETE, state.PRUNED, state.FAIL))
        return sum(trial.state != state.FAIL or REFUSED in trial.user_attrs for trial in ended)

    def ask(self) -> Asked:
        """What to try next."""
        trial = self._study.ask(self._distributions)
        settings = {}
        for key, value in trial.params.items():
            one = self._space[key]
            settings[key] = str(value) if isinstance(one, Choice) else one.written(value)
        return Asked(settings, trial)

    def falls_behind(self, asked: Asked, look: int, value: float) -> bool:
        """Take note of a look, counted from 1; True when the trial should be given up."""
        asked.trial.report(value, look)
        return bool(asked.trial.should_prune())

    def done(self, asked: Asked, value: float) -> None:
        self._study.tell(asked.trial, value)

    def given_up(self, asked: Asked) -> None:
        self._study.tell(asked.trial, state=self._optuna.trial.TrialState.PRUNED)

    def refused(self, asked: Asked) -> None:
        """The settings do not go together."""
        asked.trial.set_user_attr(REFUSED, True)
        self._study.tell(asked.trial, state=self._optuna.trial.TrialState.FAIL)
