"""The course of one training step: the loop's steps, and between them log, looks, checkpoints, rollbacks, budgets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from copy import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wyrmling.core import hardware
from wyrmling.core.artifact import Draft
from wyrmling.core.energy import SPENT, Meter
from wyrmling.core.errors import CorruptArtifact, Interrupted, WyrmlingError
from wyrmling.core.log import say, warn
from wyrmling.core.progress import Bar, bar
from wyrmling.core.steps import STEPS_FILE
from wyrmling.model.heads import Model
from wyrmling.tokenizer.tokens import TokenStore
from wyrmling.train import checkpoint, same_rows, shards, trackers, trainable
from wyrmling.train.assemble import Job, Look, Numerics
from wyrmling.train.batches import Batches
from wyrmling.train.checkpoint import State
from wyrmling.train.journal import Journal
from wyrmling.train.judges import judge_of
from wyrmling.train.look import is_better, look
from wyrmling.train.loop import Step, step_seed, steps
from wyrmling.train.objectives import LossFunction
from wyrmling.train.optim import SCHEDULES, Optimizer
from wyrmling.train.pace import Pace, limit_passed
from wyrmling.train.prefetch import Feed
from wyrmling.train.progress import Progress, finite
from wyrmling.train.rivals import row_scores
from wyrmling.train.saving import Saver
from wyrmling.train.signals import Stop
from wyrmling.train.sizing import Derived
from wyrmling.train.spikes import Judge
from wyrmling.train.team import Team
from wyrmling.train.trunk import TRUNK
from wyrmling.train.watchdog import watched
from wyrmling.train.workload import MOMENT_BYTES

CHECKPOINTS = "checkpoints"
# Steps in a row that are left out; one more, and the run goes back to its last restore point.
MAX_BAD_STEPS = 3


class Course:
    """One training step while it runs."""

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
        team: Team,
    ) -> None:
        self.job, self.draft, self.meter = job, draft, meter
        self.model, self.optimizer, self.derived = model, optimizer, derived
        self.progress, self.looks, self.val, self.frozen = progress, looks, val, frozen
        self.numerics = numerics
        self.pace, self.loss, self.team = pace, team.evenly(loss), team
        self.autocast = partial(numerics.autocast, team.device)
        self.folder, step = draft.path / CHECKPOINTS, job.step
        self.saver = Saver(self.folder, keep=step.keep_checkpoints, every=step.save_every_seconds, team=team)
        self.rows = same_rows.stamp(job.tokens.path)
        self.step_done = 0

    def train(self, batches: Batches, *, first: int, stop: Stop) -> None:
        """All steps from `first`, with looks, checkpoints and, where it must be, rollbacks in between."""
        self.step_done = first - 1
        self._require_room()
        self.batches = batches
        if self.progress.micro_batch_tokens is not None:
            self.batches = copy(batches)
            self.batches.micro_batch_tokens = self.progress.micro_batch_tokens
        log = self._journal()
        shown = bar(f"train {self.job.step.name}", total=self.derived.steps)
        with contextlib.closing(self.saver), log, shown as at:
            if self.step_done == 0:
                self._save()
            while reason := self._stretch(log, at, stop):
                self._roll_back(reason, log)
            if self.step_done > first - 1:
                self._save()
            self.saver.wait()

    def _journal(self) -> Journal:
        """Of several processes, the first keeps it."""
        if not self.team.first:
            return Journal(Path(os.devnull), self.step_done)
        told = trackers.opened(self.job.step, self.job.project.runs, self.job.run_id, self._settings())
        return Journal(self.draft.path / STEPS_FILE, self.step_done, told)

    def _stretch(self, log: Journal, shown: Bar, stop: Stop) -> str:
        """Steps until training ends. Why it must be rolled back, or an empty text when it need not."""
        first, total, step, progress = self.step_done + 1, self.derived.steps, self.job.step, self.progress
        feed = Feed(self.batches, first=first, last=total, skipped=progress.skipped)
        judge = Judge(progress.recent, step.spike_sigmas)
        stepping = self._stepping(feed, judge, first)
        watching = watched(stepping, self.draft.path, first=first, allowance=step.hang_seconds)
        with contextlib.closing(feed), contextlib.closing(stepping), contextlib.closing(watching):
            for done in watching:
                self.step_done = done.number
                progress.count(done, judge.recent)
                if feed.batches is not self.batches:
                    self.batches = feed.batches
                    progress.micro_batch_tokens = self.batches.micro_batch_tokens
                log.write(self._line(done))
                if self.pace.is_known_now and done.number < total:
                    self._say_pace(done)
                self._show(shown, done)
                if done.left_out:
                    warn(f"step {done.number} was left out ({progress.bad_in_a_row} in a row): {done.left_out}")
                if progress.bad_in_a_row > MAX_BAD_STEPS:
                    return done.left_out
                if done.number % self.derived.evaluate_every == 0 or done.number == total:
                    self._look(log, done.number)
                if step.keep_trunk and done.number == total - self.derived.decay_steps:
                    shards.save(self.draft.path / TRUNK, self._state(), self.team, keep=1)
                self.team.note(self.meter.cost())
                # What clocks and meters say is decided by one process for all.
                used_up, due = self.team.same((self._used_up(), self.saver.due()))
                self._end_early(log, used_up)
                if progress.stopped is not None or done.number == total:
                    break
                self._leave_when_asked(stop)
                if due or done.number % checkpoint.RESTORE_EVERY == 0:
                    self._save()
        return ""

    def _stepping(self, feed: Feed, judge: Judge, first: int) -> Generator[Step, None, None]:
        step, derived, total = self.job.step, self.derived, self.derived.steps
        shape = partial(SCHEDULES[step.schedule], total=total, warmup=derived.warmup_steps, decay=derived.decay_steps)
        rate = self.progress.rate
        return steps(
            self.model,
            self.optimizer,
            self.loss,
            feed,
            first=first,
            last=total if self.progress.stopped is None else first - 1,
            schedule=lambda number: rate * shape(number),
            seed=step_seed(self.job.project.settings.seed, 0),
            max_norm=step.clip,
            judge=judge,
            autocast=self.autocast,
            team=self.team,
        )

    def _roll_back(self, reason: str, log: Journal) -> None:
        """Go back to the last restore point; go on from there with half the rate, past the rows that led here."""
        undone, allowed = self.progress, self.job.step.rollbacks
        if len(undone.rollbacks) >= allowed:
            raise WyrmlingError(
                f"{undone.bad_in_a_row} steps in a row were left out, after {allowed} rollbacks; the last: {reason}",
                where=f"step {self.step_done}",
                fix="lower the learning rate of this train step, or look for broken rows in its sources",
            )
        self.saver.wait()
        state = shards.load_newest(self.folder, self.team, base=self.frozen, restore_points=True)
        if state is None:
            raise CorruptArtifact("no restore point can be read", where=self.folder)
        if self.team.first:
            checkpoint.discard_after(self.folder, state.step)
        state = shards.localised(state, self.team)
        trainable.restore(self.model, state.model)
        self.optimizer = Optimizer(self.optimizer.groups, self.optimizer.exchange)
        self.optimizer.load(state.optimizer)
        self.progress = progress_of(state)
        first, last = state.step + 1 + undone.skipped, self.step_done + undone.skipped
        self.progress.skipped = last - state.step
        self.progress.micro_batch_tokens = undone.micro_batch_tokens
        told = {"from": self.step_done, "to": state.step, "material": [first, last], "reason": reason}
        self.progress.rollbacks = [*undone.rollbacks, told]
        told["rate"] = self.progress.rate
        self.step_done = state.step
        self._save()
        log.undo_after(self.step_done)
        log.write({"step": self.step_done, "rollback": told})
        warn(
            f"back to step {state.step}: the rows of steps {first} to {last} are skipped, the learning rate is "
            f"{self.progress.rate:g} of what was set ({reason})"
        )

    def _end_early(self, log: Journal, used_up: str | None) -> None:
        """Note why training ends before its last step, if it does."""
        patience, number = self.job.step.patience, self.step_done
        if patience is not None and self.progress.looks_without_gain >= patience:
            self.progress.stopped = "patience"
        elif number < self.derived.steps and used_up is not None:
            self._end_within(used_up, log, number)

    def _leave_when_asked(self, stop: Stop) -> None:
        if not self.team.any(stop.signal is not None):
            return
        self._save()
        self.saver.wait()
        raise Interrupted(
            f"stopped by {stop.signal or 'a signal'} after step {self.step_done} of {self.derived.steps}; "
            "the work is saved",
            where=self.draft.path,
            fix="run the same command again to go on",
        )

    def _line(self, done: Step) -> dict[str, Any]:
        spent = self.spent()
        return {
            "step": done.number,
            "loss": finite(done.loss),
            "lr": self.derived.lr * done.rate,
            "tokens": self.progress.tokens,
            "grad_norm": finite(done.grad_norm),
            "seconds": round(spent["seconds"], 3),
            "wh": round(spent["wh"], 5),
            "memory_gb": round(self._peak_gb(), 3),
            **self.pace.step(done.tokens, done.seconds),
        } | ({"left_out": done.left_out} if done.left_out else {})

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
        budget, used, spent = self.job.project.settings.objective.budget, self._used(), self.spent()
        if (limit := limit_passed(budget, used, spent, left)) is not None:
            warn(f"at this pace budget.{limit} ends train {self.job.step.name} before its last step")

    def _show(self, shown: Bar, done: Step) -> None:
        rate = done.tokens / max(done.seconds, 1e-9)
        wh = self.spent()["wh"]
        shown.at(done.number, f"loss {done.loss:.3f}  {rate:,.0f} tokens/s  {wh:.2f} Wh")

    def spent(self) -> dict[str, float]:
        """Seconds, Wh, money and CO2 so far, over all attempts."""
        cost, earlier = self.meter.cost().as_dict(), self.draft.earlier_cost
        return {name: cost[name] + earlier.get(name, 0.0) + self.team.elsewhere.get(name, 0.0) for name in SPENT}

    def _look(self, log: Journal, number: int) -> None:
        """Score the validation rows, if there are any, and keep the weights when they are the best so far."""
        objective, progress = self.job.step.objective, self.progress
        if self.looks is None:
            return
        with self.pace.look():
            figures = self.figures(self.model, self.looks, self.team)
        log.write({"step": number, "val": figures, "look_seconds": round(self.pace.look_seconds, 4)})
        judge = judge_of(self.job.project.settings, self.job.step)
        if is_better(judge, figures, progress.best):
            progress.looks_without_gain = 0
            progress.best, progress.best_step = figures, number
            progress.keep(trainable.state(self.model))
        else:
            progress.looks_without_gain += 1
        if judge.name in figures:
            say(f"  step {number}: val " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        if self.job.on_look is not None:
            rows = partial(row_scores, self.model, objective, self.looks, self.autocast)
            looked = -(-number // self.derived.evaluate_every)
            self.job.on_look(Look(looked, number, figures, self.spent(), rows))

    def figures(self, model: Model, looks: Batches, team: Team) -> dict[str, float]:
        """What the model makes of the validation rows."""
        rows = np.unique(looks.pieces.row)
        return look(
            model,
            self.job.step.objective,
            looks,
            n_bytes=int(self.val.rows["n_bytes"][rows].sum()),
            tag_names=self.val.tag_names,
            autocast=self.autocast,
            team=team,
            preference=self.job.step.preference,
        )

    def _used_up(self) -> str | None:
        """The budget that another step of this run would pass, with those before it; None while there is room."""
        budget = self.job.project.settings.objective.budget
        return self.pace.passed_by_the_next(budget, self._used(), self.spent())

    def _used(self) -> dict[str, float]:
        """What this run and the project's steps before it have taken."""
        before = self.job.spent_before
        return {name: before.get(name, 0.0) + value for name, value in self.spent().items()}

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

    def _save(self) -> None:
        """Begin a checkpoint of the step that is done; what was learned from changed rows is not saved."""
        same_rows.require_same(self.job.tokens.path, self.rows)
        with self.pace.save():
            self.saver.save(self._state())

    def _state(self) -> State:
        """The step that is done, as a checkpoint holds it."""
        best = None if self.progress.best_step == self.step_done else self.progress.best_weights
        return State(
            step=self.step_done,
            model=trainable.state(self.model),
            optimizer=self.optimizer.state(),
            best=best,
            progress=self.progress.saved(),
            spent=self.spent(),
            base=self.frozen,
        )

    def _require_room(self) -> None:
        """Refuse to begin what the disk could not hold."""
        moments = sum(
            p.numel() * (4 if group.rule == "muon" else MOMENT_BYTES[group.rule])
            for group in self.optimizer.groups
            for p in group.parameters.values()
        )
        keep = self.job.step.keep_checkpoints
        needed = checkpoint.room_needed(trainable.state(self.model), moments, keep=keep)
        checkpoint.require_room(self.folder, needed * self.team.parts, step=self.job.step.name)


def progress_of(state: State) -> Progress:
    """The counters of a saved state."""
    progress = Progress(**state.progress)
    progress.best_weights = dict(state.best) if state.best is not None else None
    return progress
