"""The micro-batches of the coming steps, prepared by a thread while the step before them is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy

from wyrmling.core.errors import WyrmlingError
from wyrmling.train.batches import Batch, Batches

# Steps prepared in advance.
AHEAD = 2


class Feed:
    """What steps `first` to `last` learn. Which rows those are is the business of `batches`, not of the thread.

    skipped   steps of material that were given up: step n learns what `batches` holds for step n + skipped
    """

    def __init__(self, batches: Batches, *, first: int, last: int, skipped: int = 0) -> None:
        self.batches, self._last, self._skipped = batches, last, skipped
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._coming: dict[int, Future[list[Batch]]] = {}
        self._prepare(first)

    def step(self, number: int) -> list[Batch]:
        """The micro-batches of a step; those after it begin to be prepared."""
        self._prepare(number)
        return self._coming.pop(number).result()

    def halve(self, number: int, most: Callable[[int], int] = int) -> list[Batch]:
        """The rows of step `number` in micro-batches of half as many tokens, which later steps get too.

        most     the largest of a number over all processes that share the step
        Raises   WyrmlingError when each micro-batch is a single document already
        """
        micro = self.batches.micro_batch_tokens
        before = self.step(number)
        largest = max(before, key=lambda batch: len(batch.tokens))
        if len(largest.lengths) == 1:
            raise WyrmlingError(
                f"the memory is too small for a micro-batch of one document of {len(largest.tokens)} tokens",
                where=f"step {number}",
                fix="shorten model.context, choose a smaller model, or set train.<step>.checkpoint_activations = true",
            )
        self.batches = copy(self.batches)
        self.batches.micro_batch_tokens = min(micro, most(len(largest.tokens))) // 2
        self._coming.clear()
        return self.step(number)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _prepare(self, number: int) -> None:
        for step in range(number, min(number + AHEAD, self._last) + 1):
            if step not in self._coming:
                self._coming[step] = self._thread.submit(self.batches.step, step + self._skipped)
