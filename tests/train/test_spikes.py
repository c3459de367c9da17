"""What a step is refused for: no finite numbers, or numbers far above those of the steps before."""

import math

import numpy as np
import pytest

from wyrmling.train.spikes import LEAST, Judge, Recent


def seen(judge: Judge, steps: int) -> list[float]:
    """Show a judge so many usual losses, with a gradient norm of 1 to 2."""
    chance = np.random.default_rng(0)
    losses = (4 + 0.1 * chance.standard_normal(steps)).tolist()
    assert [judge(loss, 1 + chance.random()) for loss in losses] == [""] * steps
    return losses


def test_the_limit_is_the_mean_and_six_deviations_of_the_last_128_steps() -> None:
    judge = Judge(Recent())
    losses = seen(judge, 300)[-128:]
    limit = float(np.mean(losses) + 6 * np.std(losses))
    assert judge.recent.losses == losses
    assert judge(limit + 1e-9, 1.5).startswith("a spike: loss")
    assert judge(limit - 1e-9, 1.5) == ""
    assert judge(4.0, 9.0).startswith("a spike: gradient norm 9")


def test_what_is_refused_does_not_become_usual() -> None:
    judge = Judge(Recent())
    seen(judge, 128)
    before = list(judge.recent.losses)
    assert "" not in [judge(9.0, 1.0) for _ in range(200)]
    assert judge.recent.losses == before


def test_before_64_steps_only_numbers_that_are_not_finite_are_refused() -> None:
    judge = Judge(Recent())
    seen(judge, LEAST - 1)
    assert judge(1000.0, 1.0) == ""
    for loss, norm in ((math.nan, 1.0), (math.inf, 1.0), (4.0, math.nan), (4.0, math.inf)):
        assert judge(loss, norm).startswith("no finite loss or gradient")


def test_without_deviations_no_spike_is_refused() -> None:
    judge = Judge(Recent(), deviations=0)
    seen(judge, 128)
    assert judge(1e9, 1e9) == ""


@pytest.mark.parametrize("loss", [0.0, 1e-6, 2.0])
def test_a_loss_that_stands_still_may_move_a_little(loss: float) -> None:
    judge = Judge(Recent())
    assert [judge(loss, 1.0) for _ in range(128)] == [""] * 128
    assert judge(loss * 1.05, 1.05) == ""
