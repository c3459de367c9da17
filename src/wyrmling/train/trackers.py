"""Figures of a run for other programs to show: TensorBoard event files, an MLflow store, a W&B folder. All offline.

Each writes below `runs/track/` of the project; nothing is sent anywhere. A library is imported when a run asks for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from wyrmling.config import TrackerName, TrainStep
from wyrmling.core.errors import BadSetting

FOLDER = "track"


class Tracker(Protocol):
    """Is told each line of steps.jsonl, and when the run ends."""

    def write(self, line: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


def opened(step: TrainStep, runs: Path, run_id: str, settings: Mapping[str, Any]) -> list[Tracker]:
    """The trackers that a training step asks for.

    runs      the project's folder of results
    run_id    tells this run from others of the step
    settings  what it is trained with, flat
    Raises    BadSetting when a library is missing
    """
    return [_opened(name, step.name, runs / FOLDER, run_id, settings) for name in dict.fromkeys(step.track)]


def _opened(name: TrackerName, step: str, folder: Path, run_id: str, settings: Mapping[str, Any]) -> Tracker:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return TRACKERS[name](folder, f"{step}-{run_id}", settings)
    except ImportError as error:
        raise BadSetting(
            f"the figures can not be written for {name}: {error}",
            where=f"train.{step}.track",
            fix=f"pip install 'wyrmling[{name}]'",
        ) from error


def figures(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of a line: train/loss, train/lr, ... of a step, val/loss, ... of a look."""
    part, values = ("val", line["val"]) if "val" in line else ("train", line)
    for name, value in values.items():
        if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{part}/{name}", float(value)


class TensorBoard:
    """One event file per run, in `tensorboard/<run>`. Show them with: tensorboard --logdir runs/track/tensorboard"""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder / "tensorboard" / run))

    def write(self, line: Mapping[str, Any]) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in figures(line)]
        event = self._event(wall_time=time.time(), step=line["step"], summary=self._summary(value=values))
        self._writer.add_event(event)

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """One run in the experiment `wyrmling` of `mlflow.db`. Show them with: mlflow ui --backend-store-uri sqlite:///...

    Lines are handed over some at a time: each is a transaction of the database.
    """

    EVERY_LINES = 50

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        # MLflow counts its users unless it is told not to; nothing here calls home.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        found = self._client.get_experiment_by_name("wyrmling")
        experiment = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment("wyrmling", artifact_location=(folder / "mlflow").as_uri())
        )
        self._run = str(self._client.create_run(experiment, run_name=run).info.run_id)
        for name, value in settings.items():
            self._client.log_param(self._run, name, value)
        self._waiting: list[Any] = []
        self._lines = 0

    def write(self, line: Mapping[str, Any]) -> None:
        now = int(time.time() * 1000)
        self._waiting += [self._metric(name, value, now, line["step"]) for name, value in figures(line)]
        self._lines += 1
        if self._lines % self.EVERY_LINES == 0:
            self._hand_over()

    def _hand_over(self) -> None:
        self._client.log_batch(self._run, metrics=self._waiting)
        self._waiting = []

    def close(self) -> None:
        self._hand_over()
        self._client.set_terminated(self._run)


class WandB:
    """One offline run in `wandb/`. Whoever wants it on a server sends it later with: wandb sync runs/track/wandb/..."""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        import wandb

        quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True)
        self._run = wandb.init(
            project="wyrmling", name=run, dir=str(folder), mode="offline", config=dict(settings), settings=quiet
        )

    def write(self, line: Mapping[str, Any]) -> None:
        self._run.log(dict(figures(line)), step=line["step"])

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[TrackerName, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}
