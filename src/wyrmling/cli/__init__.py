"""The command line."""

import atexit
import gc
import os

from wyrmling.cli import data, evaluate, flow, serve, start, train
from wyrmling.cli.verb import app

__all__ = ["app", "data", "evaluate", "flow", "main", "serve", "start", "train"]


def main() -> None:
    """The `wyrmling` command."""
    # Idle OpenMP threads spin for a moment, then sleep. Spinning for as long as they do by default, they wait for
    # partners that other programs keep from running: training on a busy machine nearly stops (docs/decisions.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # What is imported stays: the collector need not look through it again and again as it comes in, nor at the end,
    # which takes 0.6 s of a command that uses torch.
    gc.set_threshold(50_000, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
    app(prog_name="wyrmling")
