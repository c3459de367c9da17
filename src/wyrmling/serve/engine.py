"""The one thread that owns the model: answers that share a batch as they come and go, and texts labelled in between.

A request is a ticket: it waits, joins the batch one answer at a time, and hears of every step through `deliver`, which
is called on the engine's thread. What is waiting is bounded; a request beyond it is refused at once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from wyrmling.model.adapter import Adapters
from wyrmling.model.cache import Prefixes
from wyrmling.model.generate import Decoder, Token, score
from wyrmling.serve import labels, threads
from wyrmling.serve.answers import Answer, Piece, Question
from wyrmling.serve.loaded import Loaded
from wyrmling.serve.metrics import Metrics
from wyrmling.serve.openai import ApiError, overloaded
from wyrmling.serve.responses import FinishReason

_log = logging.getLogger("wyrmling.serve")


@dataclass(frozen=True)
class Labelled:
    """The distributions of one row: one for a text that is classified, one per word for one that is tagged."""

    row: int
    distributions: list[list[float]]


Event = Piece | Labelled | ApiError
Deliver = Callable[[list[Event]], None]
# Which answer: the adapter that gives it, and its handle there.
Key = tuple[str | None, int]


@dataclass(eq=False)
class Ticket:
    """A request in the engine. `busy_seconds` is its share of the model's time so far."""

    deliver: Deliver
    arrived: float = field(default_factory=time.monotonic)
    busy_seconds: float = 0.0
    cancelled: bool = False
    last_token: float | None = None


class Engine:
    """Runs a model for many requests at once. Ready once `start` has returned.

    max_sequences   answers generated at the same time
    max_queue       answers that may wait for a place, and labelling requests that may wait for a pass
    prefill_tokens  tokens of prompts that are read between two tokens of the answers that are being generated
    prefix_bytes    keys and values of earlier prompts and answers that are kept to be used again
    adapters        what questions may name besides the model itself. None: nothing
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        max_sequences: int,
        max_queue: int,
        metrics: Metrics,
        prefill_tokens: int = 256,
        prefix_bytes: int = 0,
        adapters: Adapters | None = None,
    ) -> None:
        self._loaded = loaded
        self._max_sequences, self._max_queue, self._metrics = max_sequences, max_queue, metrics
        self._prefill_tokens, self._prefixes = prefill_tokens, Prefixes(prefix_bytes)
        self._adapters = adapters
        # Held by whoever runs the model while it has adapters, of which one is applied at a time.
        self._applied = threading.Lock()
        self._in_use: str | None = None
        self._wake = threading.Condition()
        self._decoders: dict[str | None, Decoder] = {}
        self._waiting: deque[tuple[Ticket, Question]] = deque()
        self._rows: deque[tuple[Ticket, int, labels.Row]] = deque()
        self._running: dict[Key, tuple[Answer, Ticket]] = {}
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether a request would be taken: the thread lives and is not being stopped."""
        return self._thread.is_alive() and self._deadline is None

    @property
    def alive(self) -> bool:
        """Whether there is anything left to finish after `drain`."""
        return self._thread.is_alive()

    # ---- called by the server's threads ----

    def ask(self, questions: Sequence[Question], deliver: Deliver) -> Ticket:
        """Have these questions answered. Their prompts fit the model: the decoder would fail for all otherwise.

        Raises   ApiError 400 when there are more than could ever wait; 503 when too many wait now or the server stops
        """
        ticket = Ticket(deliver)
        with self._wake:
            self._check_open()
            room = self._max_sequences + self._max_queue
            if len(questions) > room:
                self._metrics.rejected("too_many_answers")
                raise ApiError(
                    400,
                    f"{len(questions)} answers are asked for, but this server takes {room} at a time",
                    code="too_many_answers",
                )
            if len(self._running) + len(self._waiting) + len(questions) > room:
                self._refuse()
            self._waiting += [(ticket, question) for question in questions]
            self._count()
            self._wake.notify()
        return ticket

    def label(self, rows: Sequence[labels.Row], deliver: Deliver) -> Ticket:
        """Have these rows labelled. Raises ApiError 503 when too many requests wait or the server stops."""
        ticket = Ticket(deliver)
        with self._wake:
            self._check_open()
            if len({id(waiting) for waiting, _, _ in self._rows}) > self._max_queue:
                self._refuse()
            self._rows += [(ticket, index, row) for index, row in enumerate(rows)]
            self._wake.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request that nobody listens to any more; its place in the batch is free after the present step."""
        with self._wake:
            ticket.cancelled = True
            self._wake.notify()

    def drain(self, seconds: float) -> None:
        """Take nothing new; finish what there is, but fail what is left after `seconds`."""
        with self._wake:
            self._deadline = time.monotonic() + seconds
            self._wake.notify()

    def join(self) -> None:
        """Wait until the engine has ended after `drain`."""
        self._thread.join()

    @contextlib.contextmanager
    def applied(self, adapter: str | None) -> Iterator[None]:
        """The model answers as this adapter, or as itself, inside the block. On any thread."""
        if self._adapters is None:
            yield
            return
        with self._applied:
            if self._in_use != adapter:
                self._adapters.use(adapter)
                self._in_use = adapter
            yield

    def _check_open(self) -> None:
        if not self.ready:
            self._metrics.rejected("stopping")
            raise overloaded("the server is stopping", retry_after_seconds=5)

    def _refuse(self) -> None:
        self._metrics.rejected("queue_full")
        raise overloaded("too many requests are waiting; try again", retry_after_seconds=1)

    # ---- the engine's thread ----

    def _work(self) -> None:
        while self._wait_for_work():
            try:
                self._forget_cancelled()
                self._admit()
                self._step()
                self._label_some()
            except Exception:
                # The edge of the thread: what was running is lost, the server goes on.
                _log.exception("the engine failed; the requests in the batch get an error")
                self._fail_all(_failure())
                self._decoders = {}

    def _decoder(self, adapter: str | None) -> Decoder:
        """Answers of one adapter share a batch; those of different ones take turns."""
        if adapter not in self._decoders:
            piece = self._prefill_tokens
            self._decoders[adapter] = Decoder(self._loaded.model, piece=piece, prefixes=self._prefixes)
        return self._decoders[adapter]

    def _wait_for_work(self) -> bool:
        """True when there is something to do; False when the engine should end."""
        with self._wake:
            while not (self._waiting or self._running or self._rows):
                if self._deadline is not None:
                    return False
                self._wake.wait()
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._fail_all(overloaded("the server stopped before the answer was finished", retry_after_seconds=5))
            return False
        return True

    def _forget_cancelled(self) -> None:
        with self._wake:
            self._waiting = deque(item for item in self._waiting if not item[0].cancelled)
            self._rows = deque(item for item in self._rows if not item[0].cancelled)
        for key in [key for key, (_, ticket) in self._running.items() if ticket.cancelled]:
            self._leave(key, "abort")

    def _admit(self) -> None:
        """Give free places to those who wait, in order of arrival."""
        scored: list[tuple[Ticket, Question]] = []
        with self._wake:
            while self._waiting and len(self._running) + len(scored) < self._max_sequences:
                ticket, question = self._waiting.popleft()
                self._metrics.queue_time.observe(time.monotonic() - ticket.arrived)
                self._metrics.prompt_tokens.inc(len(question.prompt))
                self._metrics.prompt_length.observe(len(question.prompt))
                if question.score_prompt:
                    scored.append((ticket, question))
                if question.sampling is not None:
                    # An adapter has other keys and values for the same text.
                    owner = f"{question.adapter or ''}\0{question.owner}"
                    handle = self._decoder(question.adapter).add(question.prompt, question.sampling, owner=owner)
                    answer = Answer(question, self._loaded.tokenizer)
                    self._running[question.adapter, handle] = (answer, ticket)
            self._count()
        for ticket, question in scored:
            self._score(ticket, question)

    def _score(self, ticket: Ticket, question: Question) -> None:
        started = time.monotonic()
        threads.choose(self._loaded.model.config, len(question.prompt))
        with self.applied(question.adapter):
            scores = score(self._loaded.model, question.prompt, top_logprobs=question.top_logprobs)
        ticket.busy_seconds += time.monotonic() - started
        finish: FinishReason | None = "length" if question.sampling is None else None
        if finish is not None:
            self._metrics.finished(finish)
        ticket.deliver([Piece(question.choice, finish=finish, prompt_scores=tuple(scores))])

    def _step(self) -> None:
        """One more token for every answer in the batch, one delivery per request."""
        for adapter, decoder in self._decoders.items():
            if not decoder.running:
                continue
            started = time.monotonic()
            threads.choose()
            with self.applied(adapter):
                tokens = decoder.step()
            self._hand_out(adapter, tokens, time.monotonic() - started)

    def _hand_out(self, adapter: str | None, tokens: Sequence[Token], seconds: float) -> None:
        """Tell every request what a step of so many seconds gave its answers."""
        now = time.monotonic()
        news: dict[Ticket, list[Event]] = {}
        for token in tokens:
            answer, ticket = self._running[adapter, token.handle]
            piece = answer.take(token)
            news.setdefault(ticket, []).append(piece)
            ticket.busy_seconds += seconds / len(tokens)
            if piece.count == 1:
                self._metrics.prefix_hits.inc(token.cached)
                self._metrics.prefix_queries.inc(len(answer.question.prompt))
            self._time_token(ticket, now)
            if piece.finish is not None:
                self._metrics.answer_length.observe(piece.count)
                self._leave((adapter, token.handle), piece.finish)
        for ticket, events in news.items():
            ticket.deliver(events)

    def _leave(self, key: Key, reason: str) -> None:
        del self._running[key]
        adapter, handle = key
        self._decoders[adapter].remove(handle)
        self._metrics.finished(reason)
        self._count()

    def _count(self) -> None:
        self._metrics.waiting.set(len(self._waiting))
        self._metrics.running.set(len(self._running))
        self._metrics.kv_cache_usage.set(len(self._running) / self._max_sequences)

    def _time_token(self, ticket: Ticket, now: float) -> None:
        self._metrics.generation_tokens.inc()
        if ticket.last_token is None:
            self._metrics.first_token.observe(now - ticket.arrived)
        else:
            self._metrics.between_tokens.observe(now - ticket.last_token)
        ticket.last_token = now

    def _label_some(self) -> None:
        """One forward pass over rows of all who wait, in order of arrival."""
        chosen: list[tuple[Ticket, int, labels.Row]] = []
        tokens = 0
        with self._wake:
            while self._rows and (not chosen or tokens + len(self._rows[0][2].tokens) <= labels.TOKENS_PER_PASS):
                chosen.append(self._rows.popleft())
                tokens += len(chosen[-1][2].tokens)
        if not chosen:
            return
        self._metrics.prompt_tokens.inc(tokens)
        started = time.monotonic()
        threads.choose(self._loaded.model.config, tokens)
        try:
            found = labels.probabilities(self._loaded.model, [row for *_, row in chosen], several=self._loaded.several)
        except Exception:
            # Whoever waits for these rows must hear of the failure too.
            with self._wake:
                self._rows.extendleft(reversed(chosen))
            raise
        seconds = time.monotonic() - started
        news: dict[Ticket, list[Event]] = {}
        for (ticket, index, row), distributions in zip(chosen, found, strict=True):
            ticket.busy_seconds += seconds * len(row.tokens) / tokens
            news.setdefault(ticket, []).append(Labelled(index, distributions))
            self._metrics.prompt_length.observe(len(row.tokens))
        for ticket, events in news.items():
            ticket.deliver(events)

    def _fail_all(self, error: ApiError) -> None:
        with self._wake:
            running = [ticket for _, ticket in self._running.values()]
            tickets = {*running, *(item[0] for item in self._waiting), *(item[0] for item in self._rows)}
            self._running.clear()
            self._waiting.clear()
            self._rows.clear()
            self._count()
        for ticket in tickets:
            self._metrics.finished("abort")
            ticket.deliver([error])


def _failure() -> ApiError:
    return ApiError(500, "the engine failed; the server's log says more", code="engine_error", kind="server_error")
