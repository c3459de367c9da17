"""One training step from start to finish: model, rows, checks, loop, looks, checkpoints, the model folder.

Reads top to bottom. Everything that decides the result is a function of settings, rows and the step number, so a run
that was killed goes on from its last checkpoint to the same bits.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from functools import partial

import numpy as np

from wyrmling.core import hardware
from wyrmling.core.artifact import Draft, write_durably
from wyrmling.core.energy import Meter
from wyrmling.core.log import say
from wyrmling.model.adapter_folder import base_of
from wyrmling.model.heads import Model
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore
from wyrmling.train import compiling, features, forecast, guards, outcome, shards, trainable, trunk
from wyrmling.train.assemble import (
    Job,
    batches_for,
    exact,
    loss_for,
    numerics_for,
    optimizer_for,
    recompute,
    refer,
    start,
)
from wyrmling.train.batches import Batches
from wyrmling.train.checkpoint import State
from wyrmling.train.course import CHECKPOINTS, Course, progress_of
from wyrmling.train.facts import facts_of
from wyrmling.train.objectives import OBJECTIVES
from wyrmling.train.optim import Optimizer
from wyrmling.train.pace import Pace
from wyrmling.train.progress import Progress
from wyrmling.train.signals import watch
from wyrmling.train.sizing import Derived, Facts, Shape
from wyrmling.train.team import ALONE, Team, join
from wyrmling.train.workload import room_gb, work_of

FINISHED, FEATURES = "finished.json", "features.f32"


def fit(job: Job, draft: Draft, meter: Meter) -> None:
    """Train one step in the work folder `draft.path` and fill in its figures; goes on from a checkpoint found there.

    Raises   NothingToLearn or BadSetting before the first step; Interrupted after a signal, with the work saved
    """
    settings, step, device = job.project.settings, job.step, hardware.device(job.project.settings.machine.device)
    team = join(device)
    if team.same(_finished_before(draft)):
        return
    train, val = (TokenStore.open(job.tokens.path, split) for split in ("train", "val"))
    tokenizer = Tokenizer.load(job.tokens.path)
    facts = facts_of(job.project, train)
    frozen = "" if job.base is None or step.method == "full" else base_of(job.base).digest
    state = shards.load_newest(draft.path / CHECKPOINTS, team, base=frozen)
    numerics = team.same(numerics_for(job.project, facts, state))

    with exact(numerics, device), watch() as stop:
        model, shape, derived = team.build(partial(start, job, facts, train), settings.launch, method=step.method)
        total = sum(p.numel() for p in model.parameters())
        adapters = trainable.prepare(model, step, seed=settings.seed, dtype=numerics.dtype)
        batches, looks = batches_for(job, train, val, tokenizer, derived, model)
        autocast = partial(numerics.autocast, device)
        share = replace(derived, batch_tokens=max(1, derived.batch_tokens // team.data_ranks))
        room, looked_at = room_gb(settings, facts.device), 0 if looks is None else int(looks.pieces.length.sum())
        work = work_of(step, shape, share, facts, dtype=numerics.dtype, validation_tokens=looked_at, room_gb=room)
        draft.forecast = forecast.step_forecast(work, forecast.Pricing.of(job.project)).manifest()
        if state is None:
            _announce(job, shape, derived, total, model, batches, train, tokenizer)
        team.place(model, numerics.dtype)
        refer(model, step, batches, looks, draft.path / CHECKPOINTS, autocast, team)
        optimizer = optimizer_for(model, derived, adapters, team)
        choice = team.same(compiling.choice_for(job.project, model, work, draft.forecast, cut=team.cut))
        if state is not None:
            progress, first = _taken_up(job, draft, state, model, optimizer, team), state.step + 1
        else:
            progress, first = Progress(threads=numerics.threads, dtype=numerics.dtype, compiled=choice.on), 1
            if job.trunk is not None:
                trunk.go_on(job.trunk, model, optimizer, step, team, tokenizer_sha256=train.tokenizer_sha256)
        progress.threads, progress.dtype, progress.processes = numerics.threads, numerics.dtype, team.world
        if progress.compiled and not team.cut:
            say(f"  compiling the model: {choice.why}")
            with autocast():
                compiling.switch_on(model, work)
        else:
            recompute(model, work)

        learner: Model = model
        dealt = team.deal(batches)
        if team.world == 1 and not team.cut and features.can_store(model, step):
            learner, dealt, looks = features.store(model, batches, looks, draft.path / FEATURES, autocast)
        course = Course(
            job,
            draft,
            meter,
            learner,
            optimizer,
            derived,
            progress,
            numerics,
            looks,
            val,
            frozen,
            Pace(work),
            loss_for(step, train, np.unique(batches.pieces.row), label_smoothing=derived.label_smoothing),
            team,
        )
        # They would be held until the end: the saved state, and the moments, which the course drops when it is done.
        del state, optimizer
        course.train(dealt, first=first, stop=stop)
        _finish(course, model, facts, tokenizer, train, shape, batches)


def _taken_up(job: Job, draft: Draft, state: State, model: Model, optimizer: Optimizer, team: Team) -> Progress:
    """Give the model and the optimizer the state of an interrupted run; its counters."""
    say(f"train {job.step.name}: going on after step {state.step}")
    state = shards.localised(state, team)
    trainable.restore(model, state.model)
    optimizer.load(state.optimizer)
    draft.earlier_cost = dict(state.spent)
    return progress_of(state)


def _finish(
    course: Course,
    trained: Model,
    facts: Facts,
    tokenizer: Tokenizer,
    train: TokenStore,
    shape: Shape,
    batches: Batches,
) -> None:
    """Choose the best weights, write the model folder and its probes, and remove the checkpoints.

    trained   the whole model: while probing, only its head is in the loop
    """
    job, draft, progress = course.job, course.draft, course.progress
    if progress.best_weights is not None:
        trainable.restore(course.model, progress.best_weights)
    learned = course.team.whole(trainable.state(trained))
    # The moments are not needed any more, and writing the model takes memory too.
    course.optimizer = Optimizer([])
    if not course.team.first:
        return
    if course.team.cut:
        # Whole again, for the one process that writes.
        trained, _, _ = start(job, facts, train)
        trainable.prepare(trained, job.step, seed=job.project.settings.seed, dtype=course.numerics.dtype)
        trainable.restore(trained, learned)
    for name, value in course.team.elsewhere.items():
        draft.earlier_cost[name] = draft.earlier_cost.get(name, 0.0) + value
    model, merged = outcome.write(job, draft.path, trained, facts, train, tokenizer, batches)
    if job.step.method == "qlora" and course.looks is not None:
        # Learned beside 4 bits, merged into the whole weights: not quite the same model.
        device = next(trained.parameters()).device
        merged["val_merged"] = course.figures(model.to(device), course.looks, ALONE)
    draft.figures = {
        "steps": course.step_done,
        "tokens": progress.tokens,
        "targets": progress.targets,
        "loss": progress.loss,
        "val": progress.best or {},
        "best_step": progress.best_step or course.step_done,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(value.numel() for value in learned.values()),
        "left_out_steps": progress.left_out,
        "rollbacks": progress.rollbacks,
        "wh_per_1k_tokens": 1000 * course.spent()["wh"] / max(progress.tokens, 1),
        "stopped": progress.stopped,
        "threads": progress.threads,
        "processes": progress.processes,
        "dtype": progress.dtype,
        "compiled": progress.compiled,
        "micro_batch_tokens": progress.micro_batch_tokens or course.derived.micro_batch_tokens,
        "derived": {"model": asdict(shape), "step": asdict(course.derived)},
    } | merged
    finished = {"figures": draft.figures, "forecast": draft.forecast}
    write_durably(draft.path / FINISHED, json.dumps(finished, indent=1).encode())
    _tidy(draft)


def _finished_before(draft: Draft) -> bool:
    """True when an earlier attempt wrote everything but the manifest."""
    path = draft.path / FINISHED
    if not path.is_file():
        return False
    finished = json.loads(path.read_text())
    draft.figures, draft.forecast = finished["figures"], finished["forecast"]
    _tidy(draft)
    return True


def _tidy(draft: Draft) -> None:
    """Remove what only an unfinished step needs."""
    shutil.rmtree(draft.path / CHECKPOINTS, ignore_errors=True)
    (draft.path / FEATURES).unlink(missing_ok=True)


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
