"""Do a piece of work for every unit of it: in this process, in a pool of processes, or on Ray.

A unit is described by a few values and reads and writes files. A finished unit leaves a file that says so, with what it
returned and what it said; after a crash only the others are done. The engine never changes a result.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from wyrmling.core import errors, log
from wyrmling.core.artifact import write_durably
from wyrmling.core.errors import BadSetting, WyrmlingError
from wyrmling.core.progress import bar

Engine = Literal["processes", "ray"]
Unit = TypeVar("Unit")


def for_each(
    function: Callable[[Unit], Any],
    units: Sequence[Unit],
    folder: Path,
    *,
    title: str,
    workers: int = 1,
    engine: Engine = "processes",
) -> list[Any]:
    """What `function` returns for each unit, in order; what it says is said in order too.

    function   of a module; takes a unit that can be sent to another process, returns a value that JSON can hold
    folder     where unit k leaves `<k>.done`; units that left one are not done again
    workers    processes; 1 works in this one
    Raises     the error of the first unit, in order of time, that has one; BadSetting when Ray is not installed
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:05}.done" for number in range(len(units))]
    work = partial(_finish, function)
    left = [(unit, file) for unit, file in zip(units, files, strict=True) if not file.exists()]
    with bar(title, len(units)) as progress:
        progress.at(len(units) - len(left))
        if engine == "ray":
            _on_ray(work, left, workers, progress.advance)
        elif workers > 1 and len(left) > 1:
            _in_pool(work, left, workers, progress.advance)
        else:
            for unit, file in left:
                work(unit, file)
                progress.advance()
    return list(_told(files))


def _finish(function: Callable[[Unit], Any], unit: Unit, file: Path) -> None:
    with log.collected() as said:
        result = function(unit)
    write_durably(file, json.dumps([result, said], ensure_ascii=False).encode("utf-8", "backslashreplace"))


def _told(files: Sequence[Path]) -> Iterator[Any]:
    for file in files:
        result, said = json.loads(file.read_bytes())
        log.repeat(said)
        yield result


def _in_pool(work: Callable[[Any, Path], None], left: Sequence[tuple[Any, Path]], workers: int, done: Any) -> None:
    # Forked copies of a process with threads, as Arrow has, can hang; a fresh process costs half a second.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(left)), context, initializer=_end_with_parent) as pool:
        waiting = [pool.submit(work, unit, file) for unit, file in left]
        try:
            for future in as_completed(waiting):
                future.result()
                done()
        except BrokenProcessPool as error:
            raise WyrmlingError(
                "a worker process ended without a word, as happens when memory runs out",
                where="machine.workers",
                fix="run the same command again with --set machine.workers=1; finished parts are not done again",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""

    def watch() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(work: Callable[[Any, Path], None], left: Sequence[tuple[Any, Path]], workers: int, done: Any) -> None:
    """One Ray Data row per unit. Nodes other than this one must see the project folder under the same path."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    try:
        import ray
    except ImportError as error:
        raise BadSetting(
            "the engine ray needs Ray Data, which is not installed",
            where="machine.engine",
            fix="pip install 'wyrmling[ray]', or leave out --engine ray",
        ) from error
    if not left:
        return
    if not ray.is_initialized():
        # RAY_ADDRESS names a cluster; without it Ray starts here, with as many processes as workers are allowed. It
        # stays until this process ends: the next pass needs it too.
        here = None if os.environ.get("RAY_ADDRESS") else workers
        ray.init(num_cpus=here, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = ray.data.from_items([{"unit": number} for number in range(len(left))], override_num_blocks=len(left))

    def one(row: dict[str, Any]) -> dict[str, Any]:
        unit, file = left[row["unit"]]
        try:
            work(unit, file)
        except WyrmlingError as error:
            return {"problem": [type(error).__name__, error.what, error.where, error.fix]}
        return {"problem": None}

    for answer in rows.map(one).iter_rows():
        if (problem := answer["problem"]) is not None:
            kind, what, where, fix = problem
            raise getattr(errors, kind)(what, where=where, fix=fix)
        done()
