"""One answer while it grows: from tokens to text, until an end token, a stop text or the limit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wyrmling.model.generate import Token
from wyrmling.model.sampling import Sampling
from wyrmling.serve.responses import FinishReason
from wyrmling.serve.stops import StopScan
from wyrmling.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Question:
    """One answer that is wanted.

    choice        which answer of the request
    prompt        token ids, at least one
    sampling      None: no answer at all, only the score of the prompt
    stops         texts that end the answer
    score_prompt  report the log-probabilities of the prompt's tokens too
    top_logprobs  the alternatives to report per token
    adapter       which of the model's adapters answers. None: the model itself
    owner         whose question it is; what was read for one is not used for another
    """

    choice: int
    prompt: Sequence[int]
    sampling: Sampling | None
    stops: tuple[str, ...] = ()
    score_prompt: bool = False
    top_logprobs: int = 0
    adapter: str | None = None
    owner: str = ""


@dataclass(frozen=True)
class Piece:
    """What one step adds to one answer.

    text      new text; empty while a character or a possible stop text is unfinished
    token     the new token; None where only the prompt was scored
    is_end    the token only ends the answer and has no text
    finish    why the answer is over; None while it goes on
    count     tokens generated so far, the end token included
    prompt_scores   the tokens of the prompt after its first, where they were asked for
    """

    choice: int
    text: str = ""
    token: Token | None = None
    is_end: bool = False
    finish: FinishReason | None = None
    count: int = 0
    prompt_scores: tuple[Token, ...] | None = None


class Answer:
    """The growing answer to a question."""

    def __init__(self, question: Question, tokenizer: Tokenizer) -> None:
        self.question = question
        self._count = 0
        self._end_ids = frozenset(tokenizer.end_ids)
        if question.sampling is not None:
            self._end_ids |= question.sampling.stop_ids
        self._stream = tokenizer.stream()
        self._scan = StopScan(question.stops)

    def take(self, token: Token) -> Piece:
        """What this token adds. The answer is over when the piece has a finish, even if the token has none."""
        self._count += 1
        ended = token.id in self._end_ids
        text = "" if ended else self._scan.push(self._stream.push(token.id))
        finish = token.finish
        if finish is not None and not self._scan.stopped:
            text += self._scan.push(self._stream.finish()) + self._scan.finish()
        if self._scan.stopped:
            finish = "stop"
        return Piece(self.question.choice, text, token, ended, finish, self._count)


def for_choice(sampling: Sampling, choice: int) -> Sampling:
    """The sampling of the n-th answer to one prompt: each has its own seed, the first one the seed that was given."""
    if sampling.seed is None or choice == 0:
        return sampling
    digest = hashlib.sha256(f"{sampling.seed}/{choice}".encode()).digest()
    return replace(sampling, seed=int.from_bytes(digest[:7]))
