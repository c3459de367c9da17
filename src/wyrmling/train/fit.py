"""One training step from start to finish: model, rows, checks, loop, looks, checkpoints, the model folder.

Reads top to bottom. Everything that decides the result is a function of settings, rows and the step number, so a run
that was killed goes on from its last checkpoint to the same bits.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils import deterministic

from wyrmling.config import Project, TrainStep
from wyrmling.core import hardware
from wyrmling.core.artifact import Artifact, Draft, write_durably
from wyrmling.core.energy import Meter
from wyrmling.core.errors import BadSetting, Interrupted
from wyrmling.core.log import say, warn
from wyrmling.core.progress import Bar, bar
from wyrmling.model import folder, probes
from wyrmling.model.heads import Model, stacked_parts, with_head
from wyrmling.model.memory import keep_freed_memory
from wyrmling.model.transformer import ModelConfig, padded_vocab
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore
from wyrmling.train import checkpoint, forecast, guards, sizing
from wyrmling.train.batches import Batches, Noise
from wyrmling.train.checkpoint import State
from wyrmling.train.facts import facts_of
from wyrmling.train.look import JUDGES, is_better, look
from wyrmling.train.loop import Step, step_seed, steps
from wyrmling.train.objectives import OBJECTIVES, loss_function
from wyrmling.train.optim import SCHEDULES, Optimizer, parameter_groups
from wyrmling.train.signals import Stop, watch
from wyrmling.train.sizing import Derived, Facts, Shape
from wyrmling.train.workload import work_of

CHECKPOINTS, STEPS_FILE, FINISHED = "checkpoints", "steps.jsonl", "finished.json"
# The training loss in the figures is the mean of the last so many steps.
RECENT_STEPS = 20
VALIDATION_TOKENS = 8192
PROBES = 4


@dataclass(frozen=True)
class Job:
    """What to train.

    base          the model folder to start from; None: random weights
    first         True for the first step of a project
    seconds_left  of the time budget; None: no limit
    """

    project: Project
    step: TrainStep
    data_id: str
    tokens: Artifact
    base: Path | None
    first: bool
    run_id: str
    seconds_left: float | None = None


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
    state = checkpoint.load_newest(draft.path / CHECKPOINTS)
    numerics = _numerics(job.project, facts, state)

    with _exact(numerics, device), watch() as stop:
        model, shape = _model(job, facts, train)
        scratch = settings.model.base == "scratch"
        derived = sizing.derive_step(settings, step, shape, facts, scratch=scratch, first=job.first)
        model = _with_dropout(model, derived.dropout).to(device)
        if step.method == "probe":
            model.body.requires_grad_(False)
        optimizer = _optimizer(model, derived)
        batches, looks = _batches(job, train, val, tokenizer, derived, model)
        work = work_of(step, shape, derived, facts, dtype=numerics.dtype, validation_tokens=_tokens_of(looks))
        draft.forecast = forecast.step_forecast(work, forecast.Pricing.of(job.project)).manifest()
        progress = Progress(threads=numerics.threads, dtype=numerics.dtype)
        if state is None:
            _announce(job, shape, derived, model, batches, train, tokenizer)
        else:
            say(f"train {step.name}: going on after step {state.step}")
            model.load_state_dict(dict(state.model))
            optimizer.load(state.optimizer)
            progress = Progress(**state.progress)
            progress.best_weights = dict(state.best) if state.best is not None else None
            draft.earlier_cost = {"seconds": state.seconds, "wh": state.wh}

        run = _Run(job, draft, meter, model, optimizer, derived, progress, numerics, looks, val)
        run.train(batches, first=1 if state is None else state.step + 1, stop=stop)
        run.finish(tokenizer, train, shape, batches)


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


@dataclass(frozen=True)
class Numerics:
    """What the arithmetic depends on; a resumed run keeps those it started with."""

    threads: int
    dtype: Literal["float32", "bfloat16"]

    def autocast(self, device: str) -> AbstractContextManager[Any]:
        return torch.autocast(device, dtype=torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()


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
    ) -> None:
        self.job, self.draft, self.meter = job, draft, meter
        self.model, self.optimizer, self.derived = model, optimizer, derived
        self.progress, self.looks, self.val = progress, looks, val
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
        log = _open_log(self.draft.path / STEPS_FILE, self.step_done)
        stepping = steps(
            self.model,
            self.optimizer,
            loss_function(step.objective, label_smoothing=step.label_smoothing),
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
                _write_line(log, self._line(done))
                self._show(shown, done)
                if done.number % derived.evaluate_every == 0 or done.number == total:
                    self._look(log, done.number)
                if self._patience_is_over():
                    self.progress.stopped = "patience"
                elif self._time_is_over() and done.number < total:
                    self.progress.stopped = "budget"
                    warn(f"the time budget is used up after step {done.number} of {total}: learning ended early")
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

    def finish(self, tokenizer: Tokenizer, train: TokenStore, shape: Shape, batches: Batches) -> None:
        """Choose the best weights, write the model folder and its probes, and remove the checkpoints."""
        job, progress = self.job, self.progress
        if progress.best_weights is not None:
            self.model.load_state_dict(progress.best_weights)
        model = _with_dropout(self.model, 0.0).to("cpu").eval()
        path = self.draft.path / "model"
        shutil.rmtree(path, ignore_errors=True)
        folder.save(model, path, job.tokens.path, _about(job, model, train))
        probes.record(folder.load(path), tokenizer, _probe_texts(train, tokenizer, batches), path)
        recent = progress.recent or []
        self.draft.figures = {
            "steps": self.step_done,
            "tokens": progress.tokens,
            "targets": progress.targets,
            "loss": sum(recent) / len(recent) if recent else None,
            "val": progress.best or {},
            "best_step": progress.best_step or self.step_done,
            "parameters": sum(p.numel() for p in model.parameters()),
            "left_out_steps": progress.left_out,
            "stopped": progress.stopped,
            "threads": progress.threads,
            "dtype": progress.dtype,
            "derived": {"model": asdict(shape), "step": asdict(self.derived)},
        }
        finished = {"figures": self.draft.figures, "forecast": self.draft.forecast}
        write_durably(self.draft.path / FINISHED, json.dumps(finished, indent=1).encode())
        shutil.rmtree(self.draft.path / CHECKPOINTS, ignore_errors=True)

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
        seconds, wh = self._spent()
        return {
            "step": done.number,
            "loss": done.loss if math.isfinite(done.loss) else None,
            "lr": self.derived.lr * done.rate,
            "tokens": self.progress.tokens,
            "grad_norm": done.grad_norm if math.isfinite(done.grad_norm) else None,
            "seconds": round(seconds, 3),
            "wh": round(wh, 5),
        } | ({"left_out": True} if done.left_out else {})

    def _show(self, shown: Bar, done: Step) -> None:
        rate = done.tokens / max(done.seconds, 1e-9)
        shown.at(done.number, f"loss {done.loss:.3f}  {rate:,.0f} tokens/s  {self._spent()[1]:.2f} Wh")

    def _spent(self) -> tuple[float, float]:
        """Seconds and Wh so far, over all attempts."""
        cost, earlier = self.meter.cost(), self.draft.earlier_cost
        return cost.seconds + earlier.get("seconds", 0.0), cost.wh + earlier.get("wh", 0.0)

    def _look(self, log: Any, number: int) -> None:
        """Score the validation rows, if there are any, and keep the weights when they are the best so far."""
        objective, progress = self.job.step.objective, self.progress
        if self.looks is None:
            return
        rows = np.unique(self.looks.pieces.row)
        figures = look(
            self.model,
            objective,
            self.looks,
            n_bytes=int(self.val.rows["n_bytes"][rows].sum()),
            tag_names=self.val.tag_names,
            autocast=self.autocast,
        )
        _write_line(log, {"step": number, "val": figures})
        if is_better(objective, figures, progress.best):
            progress.looks_without_gain = 0
            progress.best, progress.best_step = figures, number
            progress.best_weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        else:
            progress.looks_without_gain += 1
        judge = JUDGES[objective].name
        if judge in figures:
            say(f"  step {number}: val " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))

    def _patience_is_over(self) -> bool:
        patience = self.job.step.patience
        return patience is not None and self.progress.looks_without_gain >= patience

    def _time_is_over(self) -> bool:
        return self.job.seconds_left is not None and self._spent()[0] >= self.job.seconds_left

    def _save(self, number: int) -> None:
        seconds, wh = self._spent()
        best = None if self.progress.best_step == number else self.progress.best_weights
        state = State(
            step=number,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state(),
            best=best,
            progress=self.progress.saved(),
            seconds=seconds,
            wh=wh,
        )
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
    return True


def _numerics(project: Project, facts: Facts, state: State | None) -> Numerics:
    if state is not None:
        return Numerics(threads=state.progress["threads"], dtype=state.progress["dtype"])
    return Numerics(threads=facts.threads, dtype=hardware.dtype(facts.device, project.settings.machine.dtype))


@contextlib.contextmanager
def _exact(numerics: Numerics, device: str) -> Iterator[None]:
    """Fixed threads and deterministic kernels for the length of the block."""
    # cuBLAS is only deterministic with this; it is read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Nothing here reads memory that it did not write; filling it first costs time.
    filling: Any = deterministic
    threads, fill = torch.get_num_threads(), filling.fill_uninitialized_memory
    was = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(numerics.threads)
    keep_freed_memory()
    torch.use_deterministic_algorithms(True, warn_only=device == "cuda")
    filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        filling.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(was)
        torch.set_num_threads(threads)


def _model(job: Job, facts: Facts, store: TokenStore) -> tuple[Model, Shape]:
    """The model with the head that the step trains, and its sizes."""
    settings, objective = job.project.settings, job.step.objective
    head = OBJECTIVES[objective].head
    names = {"classes": store.labels, "tags": store.tag_names}.get(head, [])
    if job.base is None:
        shape = sizing.derive_model(settings, job.project.steps, facts)
        return Model(_config(shape, store), head, len(names), seed=settings.seed), shape
    base = folder.load(job.base)
    if base.config.vocab_size < store.vocab_size:
        raise BadSetting(
            f"the base model knows {base.config.vocab_size} tokens, its tokenizer {store.vocab_size}",
            where=job.base,
            fix="restore the base model's own tokenizer files",
        )
    about = folder.about(job.base)
    same_names = about is not None and (about.labels if head == "classes" else about.tags) == names
    if base.head_name == head and (head in ("next", "masked") or same_names):
        return base, _shape_of(base)
    return with_head(base, head, len(names), seed=settings.seed), _shape_of(base)


def _config(shape: Shape, store: TokenStore) -> ModelConfig:
    return ModelConfig(
        family=shape.family,
        vocab_size=padded_vocab(shape.vocab_size),
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        ffn=shape.ffn,
        context=shape.context,
        tied=shape.tied,
        tokens=store.vocab_size,
    )


def _shape_of(model: Model) -> Shape:
    config = model.config
    return Shape(
        family="qwen3" if config.causal else "modernbert",
        vocab_size=config.vocab_size,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        ffn=config.ffn,
        context=config.context,
        tied=config.tied,
        reasons={"base": "the sizes of the model that training starts from"},
    )


def _with_dropout(model: Model, dropout: float) -> Model:
    """The same weights with another share of dropped values."""
    if model.config.dropout == dropout:
        return model
    n_classes = model.n_out if model.head_name in ("classes", "tags") else 0
    new = Model(replace(model.config, dropout=dropout), model.head_name, n_classes, seed=None)
    new.load_state_dict(model.state_dict(), assign=True)
    return new


def _optimizer(model: Model, derived: Derived) -> Optimizer:
    groups = parameter_groups(
        dict(model.named_parameters()),
        rule=derived.optimizer,
        lr=derived.lr,
        embedding_lr=derived.embedding_lr,
        head_lr=derived.head_lr,
        weight_decay=derived.weight_decay,
        parts=stacked_parts(model),
    )
    return Optimizer(groups)


def _batches(
    job: Job, train: TokenStore, val: TokenStore, tokenizer: Tokenizer, derived: Derived, model: Model
) -> tuple[Batches, Batches | None]:
    """The training material, checked, and that of the looks; None when there are no validation rows."""
    step, context = job.step, model.config.context
    found = guards.material(train, tokenizer, step, context=context)
    for text in found.warnings:
        warn(f"train {step.name}: {text}")
    for split, held_out in (("validation", val), ("test", TokenStore.open(job.tokens.path, "test"))):
        if shared := guards.shared_with(train, found.rows, held_out):
            names = ", ".join(shared[: guards.SHOWN_ROWS])
            warn(f"train {step.name}: {len(shared)} training rows have the text of a {split} row: {names}")
    noise = Noise(
        rate=derived.token_noise,
        mask_id=-1 if tokenizer.mask_id is None else tokenizer.mask_id,
        special_ids=tuple(tokenizer.special_ids.values()),
        vocab_size=train.vocab_size,
    )
    make: Callable[..., Batches] = partial(
        Batches,
        context=context,
        data_hash=job.tokens.id,
        seed=job.project.settings.seed,
        noise=noise if derived.token_noise and tokenizer.mask_id is not None else None,
    )
    sizes = {"batch_tokens": derived.batch_tokens, "micro_batch_tokens": derived.micro_batch_tokens}
    batches = make(train, step.objective, found.rows, **sizes)
    rows = guards.validation_rows(val, step, context=context)
    if len(rows) == 0:
        return batches, None
    sizes = {"batch_tokens": VALIDATION_TOKENS, "micro_batch_tokens": VALIDATION_TOKENS}
    return batches, make(val, step.objective, rows, **sizes)


def _tokens_of(looks: Batches | None) -> int:
    return 0 if looks is None else int(looks.pieces.length.sum())


def _announce(
    job: Job, shape: Shape, derived: Derived, model: Model, batches: Batches, train: TokenStore, tokenizer: Tokenizer
) -> None:
    """Say what will be learned, with two real rows of step 1."""
    step, target = job.step, OBJECTIVES[job.step.objective].target
    parameters = sum(p.numel() for p in model.parameters())
    pieces, first = batches.pieces, batches.step(1)
    targets = sum(int((batch.targets >= 0).sum()) for batch in first)
    say(
        f"train {step.name}: {step.objective}, {shape.layers} layers of width {shape.width}, "
        f"{parameters:,} parameters, {derived.optimizer} at {derived.lr:g}"
    )
    say(
        f"  {len(np.unique(pieces.row)):,} rows, {int(pieces.length.sum()):,} tokens per pass; {derived.steps:,} steps "
        f"of {derived.batch_tokens:,} tokens; step 1 learns {targets:,} {target}"
    )
    for line in guards.preview(train, tokenizer, step, first[0]):
        say(f"  {line}")


def _about(job: Job, model: Model, store: TokenStore) -> folder.About:
    head = model.head_name
    return folder.About(
        task=job.project.settings.objective.task,
        head=head,
        context=model.config.context,
        objective=job.step.objective,
        labels=list(store.labels) if head == "classes" else [],
        tags=list(store.tag_names) if head == "tags" else [],
        tokenizer_sha256=store.tokenizer_sha256,
        data_id=job.data_id,
        run_id=job.run_id,
        chat=job.step.objective == "sft",
    )


def _probe_texts(store: TokenStore, tokenizer: Tokenizer, batches: Batches) -> list[str]:
    """The beginnings of the first rows that were learned."""
    texts = (tokenizer.decode(store.tokens(int(row))).strip()[:200] for row in np.unique(batches.pieces.row)[:PROBES])
    return [text for text in texts if text] or ["wyrmling"]


def _open_log(path: Path, step_done: int) -> Any:
    """steps.jsonl for appending, without the lines of steps that are done again."""
    kept = []
    if path.is_file() and step_done:
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step_done:
                    kept.append(line + "\n")
    path.write_text("".join(kept))
    return path.open("a")


def _write_line(log: Any, line: dict[str, Any]) -> None:
    log.write(json.dumps(line) + "\n")
    log.flush()
