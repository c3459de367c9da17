"""Answers token by token, for a batch whose members come and go at every step (continuous batching).

    decoder = Decoder(model)
    handle = decoder.add(prompt_ids, Sampling(temperature=0, stop_ids=frozenset({eos})))
    while decoder.running:
        for token in decoder.step(): ...

It knows ids, not text: stop strings and UTF-8 belong to the caller. Not for use from several threads at once.

Letters: B sequences, H heads, G key/value heads, h heads per G, T places of the cache, K head width, D width,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from wyrmling.core.errors import BadInput, BadSetting
from wyrmling.model.attention import Masks, Rule, Segments, attention
from wyrmling.model.cache import Cache, Prefixes, read_into
from wyrmling.model.foreign import Foreign, ForeignCache
from wyrmling.model.heads import Model
from wyrmling.model.prefill import Intake, Piece, read
from wyrmling.model.sampling import Finish, Matcher, Sampling, draw


class Token(NamedTuple):
    """One token of one answer.

    handle    which answer
    id        the token
    logprob   its natural log-probability by the model itself: before penalties, biases, temperature and cuts
    top       the most probable tokens and their log-probabilities, best first, as many as were asked for
    finish    "stop" after a stop id, "length" at max_tokens or the end of the context, None when more follows
    cached    with the first token: how many tokens of the prompt did not have to be read
    """

    handle: int
    id: int
    logprob: float
    top: list[tuple[int, float]]
    finish: Finish | None
    cached: int = 0


@dataclass
class Answer:
    """One answer in the making. `owner` may use what was read for it before; `cached` tokens of the prompt were."""

    handle: int
    prompt: list[int]
    sampling: Sampling
    generator: torch.Generator
    matcher: Matcher | None = None
    answer: list[int] = field(default_factory=list)
    ended: Finish | None = None
    """Why the grammar lets nothing follow."""
    owner: str = ""
    cached: int = 0

    def draw(self, logits_V: Tensor) -> int:
        """The next token by the sampling, within the grammar if there is one."""
        if self.matcher is None:
            return draw(logits_V, self.sampling, self.prompt, self.answer, self.generator)
        logits_V = logits_V.masked_fill(~self.matcher.allowed(), -math.inf)
        id = draw(logits_V, self.sampling, self.prompt, self.answer, self.generator)
        self.ended = self.matcher.take(id)
        return id


class Decoder:
    """Generates for many prompts at once; an answer does not depend on what else is being answered.

    piece      tokens of prompts that are read in one step, so that no answer waits long for its next token. None: all
    prefixes   what was read before and may be used again. None: nothing
    Raises     BadSetting when the model does not predict next tokens
    """

    def __init__(self, model: Model, *, piece: int | None = None, prefixes: Prefixes | None = None) -> None:
        if model.head_name != "next":
            raise BadSetting(
                f"a model with the head {model.head_name!r} can't generate text",
                fix="use a model trained with the objective causal or sft",
            )
        self.model = model.eval()
        self.device = model.body.embedding.weight.device
        self.cache = model.cache() if isinstance(model, Foreign) else Cache(model)
        self.piece, self.prefixes = piece, prefixes or Prefixes(0)
        self.active: list[Answer] = []
        self.reading: list[tuple[Answer, Intake]] = []
        self.waiting: list[Answer] = []
        self.next_handle = 0

    @property
    def running(self) -> int:
        """Answers that are not finished."""
        return len(self.active) + len(self.reading) + len(self.waiting)

    def add(self, prompt: Sequence[int], sampling: Sampling, *, owner: str = "") -> int:
        """Begin an answer; its first token comes with the step that reads the end of the prompt. Returns the handle.

        owner    only what was read for the same owner is used again
        Raises   BadInput for a prompt that is empty, leaves no room in the context, or holds an unknown id
        """
        check_prompt(self.model, prompt, room=1)
        handle, self.next_handle = self.next_handle, self.next_handle + 1
        matcher = None if sampling.grammar is None else sampling.grammar.matcher()
        self.waiting.append(Answer(handle, list(prompt), sampling, sampling.generator(), matcher, owner=owner))
        return handle

    @torch.inference_mode()
    def remove(self, handle: int) -> None:
        """Give up an answer. A finished one is gone already; removing it again does nothing."""
        self.waiting = [s for s in self.waiting if s.handle != handle]
        self.reading = [(s, intake) for s, intake in self.reading if s.handle != handle]
        for slot, sequence in enumerate(self.active):
            if sequence.handle == handle:
                self._free(slot)
                return

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """One more token for every answer whose prompt was read, then the next piece of the other prompts.

        Finished answers leave.
        """
        logits = [self._continue()] if self.active else []
        if self.waiting or self.reading:
            logits += self._prefill()
        if not logits:
            return []
        tokens = self._choose(torch.cat(logits).float().cpu())
        for slot in reversed(range(len(tokens))):
            if tokens[slot].finish:
                self._free(slot)
        return tokens

    def _continue(self) -> Tensor:
        """Logits (B, V) after the last token of every active sequence, whose keys and values join the cache."""
        if isinstance(self.cache, ForeignCache):
            return self.cache.after([s.answer[-1] for s in self.active])
        cache = self.cache
        position_B = torch.tensor([len(s.prompt) + len(s.answer) - 1 for s in self.active], device=self.device)
        longest = int(position_B.max()) + 1
        cache.reserve(len(self.active), longest)
        slot_B = torch.arange(len(self.active), device=self.device)
        masks = Masks(position_B[:, None], torch.arange(longest, device=self.device))
        groups = self.model.config.kv_heads

        def attend(layer: int, rule: Rule, q_BHK: Tensor, k_BGK: Tensor, v_BGK: Tensor) -> Tensor:
            keys, values = cache.kv[:, layer]
            keys[slot_B, :, position_B] = k_BGK
            values[slot_B, :, position_B] = v_BGK
            past = slice(0, len(slot_B)), slice(None), slice(0, longest)
            # The heads that share keys ask as if they were several queries of one head: nothing is copied for them.
            q_BGhK = q_BHK.view(len(slot_B), groups, -1, q_BHK.shape[-1])
            mask_BGhT = masks.of(rule, q_BHK.shape[1], q_BHK.dtype)
            if mask_BGhT.shape[1] > 1:
                mask_BGhT = mask_BGhT.view(len(slot_B), groups, -1, longest)
            return attention(rule, q_BGhK, keys[past], values[past], mask_BGhT).flatten(1, 2)

        last_B = torch.tensor([s.answer[-1] for s in self.active], device=self.device)
        hidden_BD = self.model.body.final_norm(self.model.body.layers(last_B, position_B, attend))
        return self.model.project(hidden_BD)

    def _prefill(self) -> list[Tensor]:
        """Read on in the prompts that wait: logits (B, V) after those that end here, which become active; or none."""
        first_slot = len(self.active)
        if isinstance(self.cache, ForeignCache):
            new, self.waiting = self.waiting, []
            self.active += new
            return [self.cache.take_in(first_slot, [s.prompt for s in new])]
        hidden_MD = read(self.model, self._pieces())
        left = []
        for s, intake in self.reading:
            if not intake.whole:
                left.append((s, intake))
                continue
            self.cache.begin(len(self.active), intake.kv)
            self.prefixes.keep(s.owner, s.prompt, intake.kv)
            self.active.append(s)
        self.reading = left
        return [self.model.project(hidden_MD)] if len(self.active) > first_slot else []

    def _pieces(self) -> list[Piece]:
        """What is read next, in order of arrival. Where a prompt is cut does not depend on the others."""
        pieces: list[Piece] = []
        room = self.piece or sum(len(s.prompt) for s in self.waiting)
        for number in range(len(self.reading) + len(self.waiting)):
            if number == len(self.reading):
                self.reading.append(self._begin(self.waiting.pop(0)))
            intake = self.reading[number][1]
            size = min(self.piece or len(intake.ids), len(intake.ids) - intake.done)
            if pieces and size > room:
                break
            pieces.append(Piece(intake, intake.done, intake.done + size))
            room -= size
        return pieces

    def _begin(self, s: Answer) -> tuple[Answer, Intake]:
        """A prompt that is not read yet, but for what is known of its beginning."""
        assert isinstance(self.cache, Cache)
        intake = Intake(s.prompt, self.cache.room_for(len(s.prompt)))
        s.cached = intake.done = read_into(intake.kv, self.prefixes.find(s.owner, s.prompt))
        return s, intake

    def _choose(self, logits_BV: Tensor) -> list[Token]:
        """Draw the next token of every active sequence and note it in its answer."""
        # The probabilities are over all rows, as in training; rows that no token of the tokenizer has are never drawn.
        logprobs_BV = logits_BV.log_softmax(-1)
        drawable_BV = logits_BV[:, : self.model.config.tokens]
        best_B = drawable_BV.argmax(-1).tolist()
        tokens = []
        for row, s in enumerate(self.active):
            id = best_B[row] if s.sampling.plain else s.draw(drawable_BV[row])
            s.answer.append(id)
            top = _top(logprobs_BV[row, : self.model.config.tokens], s.sampling.top_logprobs)
            cached = s.cached if len(s.answer) == 1 else 0
            tokens.append(Token(s.handle, id, float(logprobs_BV[row, id]), top, self._finish(s), cached))
        return tokens

    def _finish(self, s: Answer) -> Finish | None:
        if s.ended is not None:
            return s.ended
        if s.answer[-1] in s.sampling.stop_ids:
            return "stop"
        full = len(s.prompt) + len(s.answer) >= self.model.config.context
        return "length" if full or len(s.answer) >= s.sampling.max_tokens else None

    def _free(self, slot: int) -> None:
        """Drop a sequence, remembering what it said; the last one moves into its slot."""
        s = self.active[slot]
        if isinstance(self.cache, Cache):
            # The last token was never read.
            known = [*s.prompt, *s.answer[:-1]]
            self.prefixes.keep(s.owner, known, self.cache.of(slot, len(known)))
        last = self.active.pop()
        if slot < len(self.active):
            self.cache.move(len(self.active), slot)
            self.active[slot] = last


def generate(model: Model, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Token]]:
    """The whole answer to each prompt; a stop id, if one was drawn, is its last token."""
    decoder = Decoder(model)
    answers: dict[int, list[Token]] = {decoder.add(prompt, sampling): [] for prompt in prompts}
    while decoder.running:
        for token in decoder.step():
            answers[token.handle].append(token)
    return list(answers.values())


@torch.inference_mode()
def score(model: Model, ids: Sequence[int], *, top_logprobs: int = 0) -> list[Token]:
    """The tokens after the first, each with its log-probability given all before it, as one full forward pass gives it.

    Raises   BadInput as `Decoder.add` does
    """
    check_prompt(model, ids, room=0)
    tokens_N = torch.tensor(list(ids), device=model.body.embedding.weight.device)
    logprobs_NV = model.eval().logits(tokens_N, Segments([len(ids)])).float().log_softmax(-1).cpu()
    return [
        Token(0, int(id), float(row_V[id]), _top(row_V[: model.config.tokens], top_logprobs), None)
        for id, row_V in zip(ids[1:], logprobs_NV, strict=False)
    ]


@torch.inference_mode()
def continuations(model: Model, prompt: Sequence[int], choices: Sequence[Sequence[int]]) -> list[float]:
    """The natural log-probability of each choice after the prompt, which is read once for all of them.

    Raises   BadInput as `Decoder.add` does, and for choices that don't fit behind the prompt
    """
    longest = max(len(choice) for choice in choices)
    check_prompt(model, prompt, room=longest)
    if isinstance(model, Foreign):
        return [sum(t.logprob for t in score(model, [*prompt, *ids])[len(prompt) - 1 :]) for ids in choices]
    decoder = Decoder(model)
    cache = decoder.cache
    assert isinstance(cache, Cache)
    decoder.add(prompt, Sampling())
    first_V = decoder._prefill()[0][0].float().log_softmax(-1)
    nats = [float(first_V[ids[0]]) for ids in choices]
    cache.reserve(len(choices), len(prompt) + longest)
    for slot in range(1, len(choices)):
        cache.move(0, slot)
    decoder.active = [replace(decoder.active[0], handle=i, answer=[ids[0]]) for i, ids in enumerate(choices)]
    while decoder.active:
        for slot in reversed(range(len(decoder.active))):
            if len(decoder.active[slot].answer) == len(choices[decoder.active[slot].handle]):
                decoder._free(slot)
        if decoder.active:
            logprobs_BV = decoder._continue().float().log_softmax(-1)
            for row_V, s in zip(logprobs_BV, decoder.active, strict=True):
                s.answer.append(choices[s.handle][len(s.answer)])
                nats[s.handle] += float(row_V[s.answer[-1]])
    return nats


def check_prompt(model: Model, ids: Sequence[int], *, room: int) -> None:
    """Raise BadInput when a prompt is empty, too long to leave `room` tokens, or has an id outside the vocabulary."""
    if not ids:
        raise BadInput("the prompt is empty: a model needs at least one token to go on from")
    if len(ids) + room > model.config.context:
        raise BadInput(
            f"the prompt has {len(ids)} tokens, but the model's context is {model.config.context}",
            fix="shorten the prompt",
        )
    unknown = [id for id in ids if not 0 <= id < model.config.vocab_size]
    if unknown:
        raise BadInput(f"token id {unknown[0]} is outside the vocabulary of {model.config.vocab_size}")


def _top(logprobs_V: Tensor, count: int) -> list[tuple[int, float]]:
    if not count:
        return []
    values, ids = logprobs_V.topk(min(count, len(logprobs_V)))
    return list(zip(ids.tolist(), values.tolist(), strict=True))
