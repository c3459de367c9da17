"""How many threads a computation gets.

A pass over a few short texts takes milliseconds. Shared between threads it is hardly shorter, and each of its steps
waits for the last of them: on a machine whose cores also answer requests, now and then for a whole turn of another
program. Such passes stay on the thread that asks for them.
"""

from __future__ import annotations

import math

import torch

from wyrmling.model.transformer import ModelConfig

# Multiplications from which on more threads are worth waiting for: some ten milliseconds of one core.
WORTH_SHARING = 5e8

_most = torch.get_num_threads()


def limit(count: int) -> None:
    """Never use more threads than this."""
    global _most
    _most = count
    torch.set_num_threads(count)


def choose(config: ModelConfig | None = None, tokens: float = math.inf) -> None:
    """Set the threads of what the calling thread computes next: a pass of a model over so many tokens; else all.

    Every thread that computes must choose, as what one has chosen is where a new one starts.
    """
    work = math.inf if config is None else tokens * config.body_parameters
    torch.set_num_threads(1 if work < WORTH_SHARING else _most)
