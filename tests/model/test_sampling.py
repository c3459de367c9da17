"""Every setting of the draw does what the logits processor of transformers does with the same number."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers.generation import logits_process as theirs

from wyrmling.core.errors import BadSetting
from wyrmling.model import sampling as sampling_module
from wyrmling.model.sampling import Sampling, draw

PROMPT, ANSWER = [3, 9, 9, 40], [7, 7, 12, 300]


def logits(rows: int = 1000, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, generator=torch.Generator().manual_seed(seed)) * 3


def drawn(logits_V: torch.Tensor, sampling: Sampling, times: int = 400) -> set[int]:
    generator = sampling.generator()
    return {draw(logits_V, sampling, PROMPT, ANSWER, generator) for _ in range(times)}


def left(processor: theirs.LogitsProcessor, logits_V: torch.Tensor) -> set[int]:
    scores = processor(torch.tensor([PROMPT + ANSWER]), logits_V[None])[0]
    return set(scores.isfinite().nonzero().squeeze(1).tolist())


CUTS = {
    "top_k": (Sampling(temperature=20, top_k=7, seed=0), theirs.TopKLogitsWarper(7)),
    "top_p": (Sampling(top_p=0.6, seed=0), theirs.TopPLogitsWarper(0.6)),
    "top_p that needs the whole vocabulary": (Sampling(top_p=0.9999, seed=0), theirs.TopPLogitsWarper(0.9999)),
    "min_p": (Sampling(min_p=0.4, seed=0), theirs.MinPLogitsWarper(0.4)),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_leaves_the_tokens_that_transformers_leaves(name: str) -> None:
    sampling, judge = CUTS[name]
    logits_V = logits()
    kept, ids = sampling_module._kept(logits_V / sampling.temperature, sampling)
    assert ids is not None
    assert set(ids.tolist()) == left(judge, logits_V / sampling.temperature)
    assert torch.equal(kept, (logits_V / sampling.temperature)[ids])
    assert drawn(logits_V, sampling) <= set(ids.tolist())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_draws_as_often_as_the_softmax_says(temperature: float) -> None:
    logits_V = logits(6)
    expected_V = theirs.TemperatureLogitsWarper(temperature)(None, logits_V[None])[0].softmax(-1)
    sampling, n = Sampling(temperature=temperature, seed=1), 4000
    generator = sampling.generator()
    counts = Counter(draw(logits_V, sampling, [], [], generator) for _ in range(n))
    for token, share in enumerate(expected_V.tolist()):
        # Five standard deviations of a binomial share.
        assert abs(counts[token] / n - share) < 5 * (share * (1 - share) / n) ** 0.5 + 1e-9


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    logits_V = logits()
    judge = theirs.RepetitionPenaltyLogitsProcessor(1.7)
    expected_V = judge(torch.tensor([PROMPT + ANSWER]), logits_V[None].clone())[0]
    assert torch.equal(
        sampling_module._penalised(logits_V, Sampling(repetition_penalty=1.7), PROMPT, ANSWER), expected_V
    )


def test_a_prompt_may_hold_ids_that_are_never_drawn() -> None:
    """Rows that fill up the embedding have ids too."""
    assert draw(logits(100), Sampling(temperature=0, repetition_penalty=1.5), [103], [], torch.Generator()) < 100


def test_presence_counts_a_token_once_and_frequency_each_time_and_neither_the_prompt() -> None:
    logits_V = torch.zeros(400)
    changed_V = sampling_module._penalised(
        logits_V, Sampling(presence_penalty=0.5, frequency_penalty=0.25, logit_bias={9: 2.0}), PROMPT, ANSWER
    )
    expected = {7: -1.0, 12: -0.75, 300: -0.75, 9: 2.0}
    assert {i: v for i, v in enumerate(changed_V.tolist()) if v} == expected
    assert not logits_V.any()


def test_all_settings_together_are_the_processors_in_a_row() -> None:
    sampling = Sampling(temperature=1.5, min_p=0.02, top_k=30, top_p=0.8, repetition_penalty=1.3, seed=0)
    logits_V = logits(400)
    row = [
        theirs.RepetitionPenaltyLogitsProcessor(1.3), theirs.TemperatureLogitsWarper(1.5),
        theirs.MinPLogitsWarper(0.02), theirs.TopKLogitsWarper(30), theirs.TopPLogitsWarper(0.8),
    ]  # fmt: skip
    scores = logits_V[None].clone()
    for processor in row:
        scores = processor(torch.tensor([PROMPT + ANSWER]), scores)
    expected = set(scores[0].isfinite().nonzero().squeeze(1).tolist())
    assert drawn(logits_V, sampling, 3000) == expected


@pytest.mark.parametrize(
    "settings", [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"min_p": 1.5}, {"top_k": 0},
                 {"repetition_penalty": 0}, {"presence_penalty": float("inf")}, {"max_tokens": 0}]
)  # fmt: skip
def test_a_setting_out_of_range_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(BadSetting):
        Sampling(**settings)


def test_a_bias_on_a_token_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadSetting, match="names token 500, but the ids end at 99"):
        draw(logits(100), Sampling(logit_bias={500: 1.0}), [], [], torch.Generator())
