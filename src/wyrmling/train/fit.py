"""One training step from start to finish: model, rows, checks, loop, looks, checkpoints, the model folder.

Reads top to bottom. Everything that decides the result is a function of settings, rows and the step number, so a run
that was killed goes on from its last checkpoint to the same bits.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wyrmling.core import hardware
from wyrmling.core.artifact import Draft, write_durably
from wyrmling.core.energy import SPENT, Meter
from wyrmling.core.errors import Interrupted
from wyrmling.core.log import say, warn
from wyrmling.core.progress import Bar, bar
from wyrmling.core.steps import STEPS_FILE
from wyrmling.model.adapter_folder import base_of
from wyrmling.model.heads import Model
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore
from wyrmling.train import checkpoint, features, forecast, guards, outcome, sizing, trackers, trainable
from wyrmling.train.assemble import (
    Job,
    Look,
    Numerics,
    batches_for,
    exact,
    loss_for,
    model_for,
    numerics_for,
    optimizer_for,
    with_dropout,
)
from wyrmling.train.batches import Batches
from wyrmling.train.checkpoint import State
from wyrmling.train.facts import facts_of
from wyrmling.train.journal import Journal
from wyrmling.train.look import JUDGES, is_better, look
from wyrmling.train.loop import Step, step_seed, steps
from wyrmling.train.objectives import OBJECTIVES, LossFunction
from wyrmling.train.optim import SCHEDULES, Optimizer
from wyrmling.train.pace import Pace, limit_passed
from wyrmling.train.rivals import row_scores
from wyrmling.train.signals import Stop, watch
from wyrmling.train.sizing import Derived, Facts, Shape
from wyrmling.train.workload import work_of

CHECKPOINTS, FINISHED, FEATURES = "checkpoints", "finished.json", "features.f32"
# The training loss in the figures is the mean of the last so many steps.
RECENT_STEPS = 20


def fit(job: Job, draft: Draft, meter: Meter) -> None:
    """Train one step in the work folder `draft.path` and fill in its figures; goes on from a checkpoint found there.

    Raises   NothingToLearn or BadSetting before the first step; Interrupted after a signal, with the work saved
    """
    if _finished_before(draft):
        return
    settings, step, device = job.project.settings, job.step, hardware.device(job.project.settings.machine.device)
    train, val = (TokenStore.open(job.tokens.path, split) for split in ("train", "val"))
    tokenizer = Tokenizer.load(job.tokens.path)
    facts = facts_of(job.project, train)
    frozen = "" if job.base is None or step.method == "full" else base_of(job.base).digest
    state = checkpoint.load_newest(draft.path / CHECKPOINTS, base=frozen)
    numerics = numerics_for(job.project, facts, state)

    with exact(numerics, device), watch() as stop:
        model, shape = model_for(job, facts, train)
        scratch = settings.model.base == "scratch"
        derived = sizing.derive_step(settings, step, shape, facts, scratch=scratch, first=job.first)
        model = with_dropout(model, derived.dropout).to(device)
        total = sum(p.numel() for p in model.parameters())
        adapters = trainable.prepare(model, step, seed=settings.seed, dtype=numerics.dtype)
        optimizer = optimizer_for(model, derived, adapters)
        batches, looks = batches_for(job, train, val, tokenizer, derived, model)
        work = work_of(step, shape, derived, facts, dtype=numerics.dtype, validation_tokens=_tokens_of(looks))
        draft.forecast = forecast.step_forecast(work, forecast.Pricing.of(job.project)).manifest()
        progress = Progress(threads=numerics.threads, dtype=numerics.dtype)
        if state is None:
            _announce(job, shape, derived, total, model, batches, train, tokenizer)
        else:
            say(f"train {step.name}: going on after step {state.step}")
            trainable.restore(model, state.model)
            optimizer.load(state.optimizer)
            progress = Progress(**state.progress)
            progress.best_weights = dict(state.best) if state.best is not None else None
            draft.earlier_cost = dict(state.spent)

        learned: tuple[Model, Batches, Batches | None] = (model, batches, looks)
        if features.can_store(model, step):
            autocast = partial(numerics.autocast, device)
            learned = features.store(model, batches, looks, draft.path / FEATURES, autocast)
        pace = Pace(work)
        loss = loss_for(step, train, np.unique(batches.pieces.row))
        run = _Run(
            job, draft, meter, learned[0], optimizer, derived, progress, numerics, learned[2], val, frozen, pace, loss
        )
        run.train(learned[1], first=1 if state is None else state.step + 1, stop=stop)
        run.finish(model, facts, tokenizer, train, shape, batches)


@dataclass
class Progress:
    """Counters that are saved with each checkpoint."""

    threads: int
    dtype: str
    tokens: int = 0
    targets: int = 0
    left_out: int = 0
    bad_in_a_row: int = 0
    recent: list[float] | None = None
    best: dict[str, float] | None = None
    best_step: int = 0
    looks_without_gain: int = 0
    stopped: str | None = None
    """Why training ended before its last step: "patience" or "budget"."""
    best_weights: dict[str, Tensor] | None = None
    """Weights of the best look when the newest weights are others; saved as tensors."""

    def saved(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "best_weights"}


class _Run:
    """The state of one training step while it runs."""

    def __init__(
        self,
        job: Job,
        draft: Draft,
        meter: Meter,
        model: Model,
        optimizer: Optimizer,
        derived: Derived,
        progress: Progress,
        numerics: Numerics,
        looks: Batches | None,
        val: TokenStore,
        frozen: str,
        pace: Pace,
        loss: LossFunction,
    ) -> None:
        self.job, self.draft, self.meter = job, draft, meter
        self.model, self.optimizer, self.derived = model, optimizer, derived
        self.progress, self.looks, self.val, self.frozen = progress, looks, val, frozen
        self.pace, self.loss = pace, loss
        self.autocast = partial(numerics.autocast, next(model.parameters()).device.type)
        self.saved_at = time.monotonic()
        self.step_done = 0

    def train(self, batches: Batches, *, first: int, stop: Stop) -> None:
        """All steps from `first`, with looks and checkpoints in between."""
        step, derived = self.job.step, self.derived
        total = derived.steps
        schedule = partial(
            SCHEDULES[step.schedule], total=total, warmup=derived.warmup_steps, decay=derived.decay_steps
        )
        self.step_done = first - 1
        told = trackers.opened(step, self.job.project.runs, self.job.run_id, self._settings())
        log = Journal(self.draft.path / STEPS_FILE, self.step_done, told)
        stepping = steps(
            self.model,
            self.optimizer,
            self.loss,
            batches.step,
            first=first,
            last=total if self.progress.stopped is None else first - 1,
            schedule=schedule,
            seed=step_seed(self.job.project.settings.seed, 0),
            max_norm=step.clip,
            bad_in_a_row=self.progress.bad_in_a_row,
            autocast=self.autocast,
        )
        with log, contextlib.closing(stepping), bar(f"train {step.name}", total=total) as shown:
            for done in stepping:
                self._count(done)
                log.write(self._line(done))
                if self.pace.is_known_now and done.number < total:
                    self._say_pace(done)
                self._show(shown, done)
                if done.number % derived.evaluate_every == 0 or done.number == total:
                    self._look(log, done.number)
                if self._patience_is_over():
                    self.progress.stopped = "patience"
                elif done.number < total and (limit := self._used_up()) is not None:
                    self._end_within(limit, log, done.number)
                if stop.signal is not None and done.number < total and self.progress.stopped is None:
                    self._save(done.number)
                    raise Interrupted(
                        f"stopped by {stop.signal} after step {done.number} of {total}; the work is saved",
                        where=self.draft.path,
                        fix="run the same command again to go on",
                    )
                if self.progress.stopped is not None:
                    break
                if time.monotonic() - self.saved_at >= step.save_every_seconds and done.number < total:
                    self._save(done.number)
            if self.step_done > first - 1:
                self._save(self.step_done)

    def finish(
        self, trained: Model, facts: Facts, tokenizer: Tokenizer, train: TokenStore, shape: Shape, batches: Batches
    ) -> None:
        """Choose the best weights, write the model folder and its probes, and remove the checkpoints.

        trained   the whole model: while probing, only its head is in the loop
        """
        job, progress = self.job, self.progress
        if progress.best_weights is not None:
            trainable.restore(self.model, progress.best_weights)
        moved = sum(value.numel() for value in trainable.state(trained).values())
        model, merged = outcome.write(job, self.draft.path, trained, facts, train, tokenizer, batches)
        if job.step.method == "qlora" and self.looks is not None:
            # Learned beside 4 bits, merged into the whole weights: not quite the same model.
            device = next(trained.parameters()).device
            merged["val_merged"] = self._figures(model.to(device), self.looks)
        recent = progress.recent or []
        self.draft.figures = {
            "steps": self.step_done,
            "tokens": progress.tokens,
            "targets": progress.targets,
            "loss": sum(recent) / len(recent) if recent else None,
            "val": progress.best or {},
            "best_step": progress.best_step or self.step_done,
            "parameters": sum(p.numel() for p in model.parameters()),
            "trained_parameters": moved,
            "left_out_steps": progress.left_out,
            "stopped": progress.stopped,
            "threads": progress.threads,
            "dtype": progress.dtype,
            "derived": {"model": asdict(shape), "step": asdict(self.derived)},
        } | merged
        finished = {"figures": self.draft.figures, "forecast": self.draft.forecast}
        write_durably(self.draft.path / FINISHED, json.dumps(finished, indent=1).encode())
        shutil.rmtree(self.draft.path / CHECKPOINTS, ignore_errors=True)
        (self.draft.path / FEATURES).unlink(missing_ok=True)

    def _count(self, done: Step) -> None:
        progress = self.progress
        self.step_done = done.number
        progress.tokens += done.tokens
        progress.targets += 0 if done.left_out else done.targets
        progress.left_out += done.left_out
        progress.bad_in_a_row = progress.bad_in_a_row + 1 if done.left_out else 0
        if math.isfinite(done.loss):
            progress.recent = [*(progress.recent or []), done.loss][-RECENT_STEPS:]

    def _line(self, done: Step) -> dict[str, Any]:
        spent = self._spent()
        return {
            "step": done.number,
            "loss": done.loss if math.isfinite(done.loss) else None,
            "lr": self.derived.lr * done.rate,
            "tokens": self.progress.tokens,
            "grad_norm": done.grad_norm if math.isfinite(done.grad_norm) else None,
            "seconds": round(spent["seconds"], 3),
            "wh": round(spent["wh"], 5),
            "memory_gb": round(self._peak_gb(), 3),
            **self.pace.step(done.tokens, done.seconds),
        } | ({"left_out": True} if done.left_out else {})

    def _peak_gb(self) -> float:
        """Largest memory so far: of the board when training on one, else of the process."""
        if self.pace.work.device == "cuda":
            return torch.cuda.max_memory_allocated() / hardware.GB
        return self.meter.cost().peak_memory_gb

    def _say_pace(self, done: Step) -> None:
        """After a few steps their time is known: what is left of the run, and whether the budget lasts."""
        other = self.derived.steps - done.number
        left = self.pace.left(other, other // self.derived.evaluate_every)
        say(f"  {self.pace.step_seconds:.2g} s a step: about {left / 60:.2g} minutes for the other {other:,}")
        budget, used, spent = self.job.project.settings.objective.budget, self._used(), self._spent()
        if (limit := limit_passed(budget, used, spent, left)) is not None:
            warn(f"at this pace budget.{limit} ends train {self.job.step.name} before its last step")

    def _show(self, shown: Bar, done: Step) -> None:
        rate = done.tokens / max(done.seconds, 1e-9)
        wh = self._spent()["wh"]
        shown.at(done.number, f"loss {done.loss:.3f}  {rate:,.0f} tokens/s  {wh:.2f} Wh")

    def _spent(self) -> dict[str, float]:
        """Seconds, Wh, money and CO2 so far, over all attempts."""
        cost, earlier = self.meter.cost().as_dict(), self.draft.earlier_cost
        return {name: cost[name] + earlier.get(name, 0.0) for name in SPENT}

    def _look(self, log: Journal, number: int) -> None:
        """Score the validation rows, if there are any, and keep the weights when they are the best so far."""
        objective, progress = self.job.step.objective, self.progress
        if self.looks is None:
            return
        with self.pace.look():
            figures = self._figures(self.model, self.looks)
        log.write({"step": number, "val": figures, "look_seconds": round(self.pace.look_seconds, 4)})
        if is_better(objective, figures, progress.best):
            progress.looks_without_gain = 0
            progress.best, progress.best_step = figures, number
            progress.best_weights = {name: value.clone() for name, value in trainable.state(self.model).items()}
        else:
            progress.looks_without_gain += 1
        judge = JUDGES[objective].name
        if judge in figures:
            say(f"  step {number}: val " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        if self.job.on_look is not None:
            rows = partial(row_scores, self.model, objective, self.looks, self.autocast)
            looked = -(-number // self.derived.evaluate_every)
            self.job.on_look(Look(looked, number, figures, self._spent(), rows))

    def _figures(self, model: Model, looks: Batches) -> dict[str, float]:
        """What the model makes of the validation rows."""
        rows = np.unique(looks.pieces.row)
        return look(
            model,
            self.job.step.objective,
            looks,
            n_bytes=int(self.val.rows["n_bytes"][rows].sum()),
            tag_names=self.val.tag_names,
            autocast=self.autocast,
        )

    def _patience_is_over(self) -> bool:
        patience = self.job.step.patience
        return patience is not None and self.progress.looks_without_gain >= patience

    def _used_up(self) -> str | None:
        """The budget that another step of this run would pass, with those before it; None while there is room."""
        budget = self.job.project.settings.objective.budget
        return self.pace.passed_by_the_next(budget, self._used(), self._spent())

    def _used(self) -> dict[str, float]:
        """What this run and the project's steps before it have taken."""
        before = self.job.spent_before
        return {name: before.get(name, 0.0) + value for name, value in self._spent().items()}

    def _end_within(self, limit: str, log: Journal, number: int) -> None:
        """End early, with a last look, so that the best weights are chosen among all that were paid for."""
        self.progress.stopped = "budget"
        warn(f"budget.{limit} is used up after step {number} of {self.derived.steps}: another step would pass it")
        if number % self.derived.evaluate_every:
            self._look(log, number)

    def _settings(self) -> dict[str, Any]:
        """What the run is trained with, for trackers."""
        derived = {name: value for name, value in asdict(self.derived).items() if name != "reasons"}
        return {"objective": self.job.step.objective, "method": self.job.step.method, **derived}

    def _save(self, number: int) -> None:
        best = None if self.progress.best_step == number else self.progress.best_weights
        state = State(
            step=number,
            model=trainable.state(self.model),
            optimizer=self.optimizer.state(),
            best=best,
            progress=self.progress.saved(),
            spent=self._spent(),
            base=self.frozen,
        )
        with self.pace.save():
            checkpoint.save(self.draft.path / CHECKPOINTS, state, keep=self.job.step.keep_checkpoints)
        self.saved_at = time.monotonic()


def _finished_before(draft: Draft) -> bool:
    """True when an earlier attempt wrote everything but the manifest."""
    path = draft.path / FINISHED
    if not path.is_file():
        return False
    finished = json.loads(path.read_text())
    draft.figures, draft.forecast = finished["figures"], finished["forecast"]
    shutil.rmtree(draft.path / CHECKPOINTS, ignore_errors=True)
    (draft.path / FEATURES).unlink(missing_ok=True)
    return True


def _tokens_of(looks: Batches | None) -> int:
    return 0 if looks is None else int(looks.pieces.length.sum())


def _announce(
    job: Job,
    shape: Shape,
    derived: Derived,
    total: int,
    model: Model,
    batches: Batches,
    train: TokenStore,
    tokenizer: Tokenizer,
) -> None:
    """Say what will be learned, with two real rows of step 1."""
    step, target = job.step, OBJECTIVES[job.step.objective].target
    trained = sum(value.numel() for value in trainable.state(model).values())
    pieces, first = batches.pieces, batches.step(1)
    targets = sum(int((batch.targets >= 0).sum()) for batch in first)
    say(
        f"train {step.name}: {step.objective}, {shape.layers} layers of width {shape.width}; "
        f"{step.method}: {trained:,} of {total:,} parameters move, {derived.optimizer} at {derived.lr:g}"
    )
    say(
        f"  {len(np.unique(pieces.row)):,} rows, {int(pieces.length.sum()):,} tokens per pass; {derived.steps:,} steps "
        f"of {derived.batch_tokens:,} tokens; step 1 learns {targets:,} {target}"
    )
    for line in guards.preview(train, tokenizer, step, first[0]):
        say(f"  {line}")
