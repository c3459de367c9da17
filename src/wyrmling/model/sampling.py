"""One next token from one row of logits: penalties, temperature, the cuts, and a seeded draw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from wyrmling.core.errors import BadSetting

Finish = Literal["stop", "length"]


class Matcher(Protocol):
    """Where one answer stands in a grammar."""

    def allowed(self) -> Tensor:
        """bool[V]: the tokens that may come next, at least one."""
        ...

    def take(self, token: int) -> Finish | None:
        """Go on after a token: "stop" when the answer is complete, "length" when it can't be completed."""
        ...


class Grammar(Protocol):
    """A form that answers must have."""

    def matcher(self) -> Matcher: ...


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn. Raises BadSetting for a value out of range.

    Applied in this order: grammar, repetition, presence and frequency penalties, logit_bias, temperature, min_p, top_k,
    top_p.
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
    grammar: Grammar | None = None
    """The form of the answer; what would leave it is never drawn."""

    def __post_init__(self) -> None:
        numbers = (self.temperature, self.top_p, self.min_p, self.repetition_penalty)
        if not all(map(math.isfinite, (*numbers, self.presence_penalty, self.frequency_penalty))):
            raise BadSetting("every sampling setting must be a finite number", where="sampling")
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
        """Greedy without a grammar, penalties or biases: the token is the argmax."""
        return self.temperature == 0 and self.grammar is None and not self.changes_logits

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
    kept_K, id_K = _kept(logits_V / sampling.temperature, sampling)
    cumulative_K = kept_K.double().softmax(-1).cumsum(0)
    threshold = torch.rand((), generator=generator, dtype=torch.float64) * cumulative_K[-1]
    index = min(int(torch.searchsorted(cumulative_K, threshold, right=True)), len(cumulative_K) - 1)
    return index if id_K is None else int(id_K[index])


def _penalised(logits_V: Tensor, sampling: Sampling, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    logits_V = logits_V.clone()
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted(id for id in {*prompt, *answer} if id < len(logits_V)), dtype=torch.int64)
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


def _kept(logits_V: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """The logits that the cuts leave, at least one, and their ids; None for the ids: all are left.

    Only what may be left is sorted: a vocabulary is long and the answer waits.
    """
    id_K = None
    if sampling.min_p > 0:
        id_K = (logits_V >= logits_V.max() + math.log(sampling.min_p)).nonzero().squeeze(1)
        logits_V = logits_V[id_K]
    if sampling.top_k is not None and sampling.top_k < len(logits_V):
        logits_V, at_K = logits_V.topk(sampling.top_k)
        id_K = at_K if id_K is None else id_K[at_K]
    if sampling.top_p < 1:
        at_K = _nucleus(logits_V, sampling.top_p)
        logits_V, id_K = logits_V[at_K], at_K if id_K is None else id_K[at_K]
    return logits_V, id_K


def _nucleus(logits_V: Tensor, top_p: float) -> Tensor:
    """The most probable tokens that together reach a probability, most probable first."""
    p_V = logits_V.double().softmax(-1)
    # All tokens less probable than this together have less than what may be missing.
    at_K = (p_V >= (1 - top_p) / len(p_V)).nonzero().squeeze(1)
    p_K, order_K = p_V[at_K].sort(descending=True, stable=True)
    at_K = at_K[order_K]
    # The token that crosses the bound still belongs to the set (Holtzman et al. 2019, section 3.1).
    before_K = p_K.cumsum(0) - p_K
    return at_K[: max(1, int((before_K < top_p).sum()))]
