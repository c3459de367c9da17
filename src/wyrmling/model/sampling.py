"""One next token from one row of logits: penalties, temperature, the cuts, and a seeded draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wyrmling.core.errors import BadSetting


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn. Raises BadSetting for a value out of range.

    Applied in this order: repetition, presence and frequency penalties, logit_bias, temperature, min_p, top_k, top_p.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    """Divides the logits; 0 takes the most probable token every time."""
    top_k: int | None = None
    """Keep only the k most probable tokens. None: all."""
    top_p: float = 1.0
    """Keep the most probable tokens that together reach this probability."""
    min_p: float = 0.0
    """Keep tokens at least this probable relative to the most probable one."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt or answer (Keskar et al. 2019, CTRL)."""
    presence_penalty: float = 0.0
    """Taken off the logit of each token that the answer holds already."""
    frequency_penalty: float = 0.0
    """Taken off the logit of a token for each time the answer holds it."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens."""
    seed: int | None = None
    """Same seed, same answer, whatever else is being answered. None: another answer every time."""
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end the answer."""
    top_logprobs: int = 0
    """How many of the most probable tokens to report with each token."""

    def __post_init__(self) -> None:
        bounds = {
            "max_tokens": self.max_tokens >= 1,
            "temperature": self.temperature >= 0,
            "top_k": self.top_k is None or self.top_k >= 1,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": self.repetition_penalty > 0,
            "top_logprobs": self.top_logprobs >= 0,
        }
        for name, holds in bounds.items():
            if not holds:
                raise BadSetting(f"{name} = {getattr(self, name)} is out of range", where="sampling")

    def generator(self) -> torch.Generator:
        """A new source of random numbers for one answer."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator

    @property
    def plain(self) -> bool:
        """Greedy without penalties or biases: the token is the argmax."""
        return self.temperature == 0 and not self.changes_logits

    @property
    def changes_logits(self) -> bool:
        penalties = (self.repetition_penalty != 1, self.presence_penalty, self.frequency_penalty)
        return any(penalties) or bool(self.logit_bias)


def draw(
    logits_V: Tensor, sampling: Sampling, prompt: Sequence[int], answer: Sequence[int], generator: torch.Generator
) -> int:
    """The next token.

    logits_V    float32 on the CPU, of the tokens that may be drawn
    prompt      the ids before the answer; answer: the ids drawn so far
    generator   gives exactly one number per token drawn with a temperature
    """
    if sampling.changes_logits:
        logits_V = _penalised(logits_V, sampling, prompt, answer)
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    probabilities_V = (logits_V.double() / sampling.temperature).softmax(-1)
    p_V, id_V = probabilities_V.sort(descending=True, stable=True)
    p_V = p_V[: _kept(p_V, sampling)]
    cumulative_V = p_V.cumsum(0)
    threshold = torch.rand((), generator=generator, dtype=torch.float64) * cumulative_V[-1]
    index = int(torch.searchsorted(cumulative_V, threshold, right=True))
    return int(id_V[min(index, len(p_V) - 1)])


def _penalised(logits_V: Tensor, sampling: Sampling, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    logits_V = logits_V.clone()
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted({*prompt, *answer}))
        values = logits_V[seen]
        r = sampling.repetition_penalty
        logits_V[seen] = torch.where(values > 0, values / r, values * r)
    for token, count in Counter(answer).items():
        logits_V[token] -= sampling.presence_penalty + count * sampling.frequency_penalty
    for token, bias in sampling.logit_bias.items():
        if not 0 <= token < len(logits_V):
            raise BadSetting(
                f"logit_bias names token {token}, but the ids end at {len(logits_V) - 1}", where="sampling.logit_bias"
            )
        logits_V[token] += bias
    return logits_V


def _kept(p_V: Tensor, sampling: Sampling) -> int:
    """How many of the descending probabilities the cuts leave; at least one."""
    kept = len(p_V)
    if sampling.min_p > 0:
        kept = int((p_V >= sampling.min_p * p_V[0]).sum())
    if sampling.top_k is not None:
        kept = min(kept, sampling.top_k)
    if sampling.top_p < 1:
        cumulative_V = p_V[:kept].cumsum(0)
        # The token that crosses the bound still belongs to the set (Holtzman et al. 2019, section 3.1).
        before = cumulative_V - p_V[:kept]
        kept = int((before < sampling.top_p * cumulative_V[-1]).sum())
    return max(kept, 1)
