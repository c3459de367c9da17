"""The parts of a training step, put together: model, optimizer, batches, and the arithmetic they run in."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch.utils import deterministic

from wyrmling.config import Project, TrainStep
from wyrmling.core import hardware, ranks
from wyrmling.core.artifact import Artifact
from wyrmling.core.errors import BadSetting
from wyrmling.core.log import say, warn
from wyrmling.model import folder, sanity, vocabulary
from wyrmling.model.adapter import Adapters
from wyrmling.model.design import FamilyName
from wyrmling.model.foreign import Foreign
from wyrmling.model.heads import Model, stacked_parts, with_head
from wyrmling.model.memory import keep_freed_memory
from wyrmling.model.transformer import ModelConfig, padded_vocab
from wyrmling.tokenizer.extend import EXTENSION_FILE
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore
from wyrmling.train import guards, reference, sizing
from wyrmling.train.batches import Batches, Noise
from wyrmling.train.checkpoint import State
from wyrmling.train.choices import PreferenceBatches
from wyrmling.train.infill import infill_for
from wyrmling.train.objectives import OBJECTIVES, LossFunction, class_weights, loss_function
from wyrmling.train.optim import Optimizer, parameter_groups
from wyrmling.train.order import Array
from wyrmling.train.rivals import RowScores
from wyrmling.train.sizing import Derived, Facts, Shape
from wyrmling.train.team import ALONE, Team
from wyrmling.train.workload import Work, memory_gb

# Tokens of one forward pass over the validation rows; it keeps nothing for a backward pass. On a CPU 8,192 take as
# long in all, and let the memory of a small run grow by a tenth.
VALIDATION_TOKENS: dict[hardware.Device, int] = {"cpu": 2048, "cuda": 8192}
BASE_REASON = "the sizes of the model that training starts from"


@dataclass(frozen=True)
class Look:
    """A look at the validation rows, as it is told.

    number   counts the looks from 1
    spent    seconds, wh, usd and kg_co2 of the run so far
    rows     gives the scores of each validation row; takes about as long as the look did
    """

    number: int
    step: int
    figures: Mapping[str, float]
    spent: Mapping[str, float]
    rows: Callable[[], RowScores]


@dataclass(frozen=True)
class Job:
    """What to train.

    base          the model folder to start from; None: random weights
    first         True for the first step of a project
    spent_before  seconds, wh, usd and kg_co2 of the steps before it, which count against the budget
    on_look       is told of each look at the validation rows, and may end the run by raising
    trunk         the train artifact whose trunk it goes on from; `base` is the model beside it
    """

    project: Project
    step: TrainStep
    data_id: str
    tokens: Artifact
    base: Path | None
    first: bool
    run_id: str
    spent_before: Mapping[str, float] = field(default_factory=dict)
    on_look: Callable[[Look], None] | None = None
    trunk: Path | None = None


@dataclass(frozen=True)
class Numerics:
    """What the arithmetic depends on; a run that goes on in as many processes keeps those it started with."""

    threads: int
    dtype: Literal["float32", "bfloat16"]

    def autocast(self, device: str) -> AbstractContextManager[Any]:
        return torch.autocast(device, dtype=torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()


def numerics_for(project: Project, facts: Facts, state: State | None) -> Numerics:
    if state is not None and state.progress.get("processes", 1) == ranks.world():
        return Numerics(threads=state.progress["threads"], dtype=state.progress["dtype"])
    return Numerics(threads=facts.threads, dtype=hardware.dtype(facts.device, project.settings.machine.dtype))


@contextlib.contextmanager
def exact(numerics: Numerics, device: str) -> Iterator[None]:
    """Fixed threads and deterministic kernels for the length of the block."""
    # cuBLAS is only deterministic with this; it is read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Nothing here reads memory that it did not write; filling it first costs time.
    filling: Any = deterministic
    threads, fill = torch.get_num_threads(), filling.fill_uninitialized_memory
    was = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(numerics.threads)
    keep_freed_memory()
    # torch.use_deterministic_algorithms would do the same after importing the compiler, which takes as long as torch.
    torch._C._set_deterministic_algorithms(True, warn_only=device == "cuda")
    filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        filling.fill_uninitialized_memory = fill
        torch._C._set_deterministic_algorithms(was)
        torch.set_num_threads(threads)


def model_for(job: Job, facts: Facts, store: TokenStore) -> tuple[Model, Shape]:
    """The model with the head that the step trains, and its sizes."""
    settings, objective = job.project.settings, job.step.objective
    head = OBJECTIVES[objective].head
    names = {"classes": store.labels, "tags": store.tag_names}.get(head, [])
    if job.base is None:
        shape = sizing.derive_model(settings, job.project.steps, facts)
        made = Model(
            config_of(shape, tokens=store.vocab_size),
            head,
            len(names),
            seed=settings.seed,
            zero_init=settings.model.zero_init,
        )
        return made, shape
    base = _with_new_tokens(folder.load(job.base), job, store)
    if base.config.vocab_size < store.vocab_size:
        raise BadSetting(
            f"the base model knows {base.config.vocab_size} tokens, its tokenizer {store.vocab_size}",
            where=job.base,
            fix="restore the base model's own tokenizer files",
        )
    about = folder.about(job.base)
    if about is None and base.head_name == "next":
        # Somebody else's model: its files fit together, but do its weights read?
        sanity.check(base, [store.tokens(row).tolist() for row in range(min(len(store), 64))], where=job.base)
    same_names = about is not None and (about.labels if head == "classes" else about.tags) == names
    if base.head_name == head and (head in ("next", "masked") or same_names):
        return base, sizing.shape_of(base.config, BASE_REASON)
    if isinstance(base, Foreign):
        return base.with_head(head, len(names), seed=settings.seed), sizing.shape_of(base.config, BASE_REASON)
    return with_head(base, head, len(names), seed=settings.seed), sizing.shape_of(base.config, BASE_REASON)


def start(job: Job, facts: Facts, store: TokenStore) -> tuple[Model, Shape, Derived]:
    """The model as training begins, its sizes, and the numbers of the step."""
    settings = job.project.settings
    model, shape = model_for(job, facts, store)
    scratch = settings.model.base == "scratch"
    derived = sizing.derive_step(settings, job.step, shape, facts, scratch=scratch, first=job.first)
    return with_dropout(model, derived.dropout), shape, derived


def _with_new_tokens(base: Model, job: Job, store: TokenStore) -> Model:
    """The base with rows for the tokens that its tokenizer was given; in the first step only, later ones have them."""
    record = job.tokens.path / EXTENSION_FILE
    if not job.first or not record.is_file():
        return base
    if job.step.method not in ("full", "freeze") or (job.step.method == "freeze" and not job.step.freeze.embedding):
        raise BadSetting(
            f"the tokenizer has new tokens, whose rows the method {job.step.method!r} would not train",
            where=f"train.{job.step.name}.method",
            fix='begin with a step that trains the embedding: method = "full", or "freeze" with embedding = true',
        )
    if isinstance(base, Foreign):
        raise BadSetting(
            f"a {base.config.family} model, which transformers computes, can't be given new tokens",
            where="tokenizer.extend",
            fix="leave tokenizer.extend and tokenizer.special_tokens out, or choose a base of another kind",
        )
    new = {token["id"]: token["pieces"] for token in json.loads(record.read_text())["new"]}
    return vocabulary.extend(base, new, tokens=store.vocab_size)


def config_of(shape: Shape, *, tokens: int | None = None, dropout: float = 0.0) -> ModelConfig:
    """The description of a model of these sizes. tokens: ids the tokenizer knows; None: every row of the embedding."""
    return ModelConfig(
        family=cast(FamilyName, shape.family),
        vocab_size=padded_vocab(shape.vocab_size),
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        ffn=shape.ffn,
        context=shape.context,
        tied=shape.tied,
        tokens=tokens,
        dropout=dropout,
    )


def with_dropout(model: Model, dropout: float) -> Model:
    """The same weights with another share of dropped values."""
    if isinstance(model, Foreign):
        return model.with_dropout(dropout)
    if model.config.dropout == dropout:
        return model
    n_classes = model.n_out if model.head_name in ("classes", "tags") else 0
    new = Model(replace(model.config, dropout=dropout), model.head_name, n_classes, seed=None)
    new.load_state_dict(model.state_dict(), assign=True)
    return new


def recompute(model: Model, work: Work) -> None:
    """Let the blocks keep little for the backward pass, where the step asks for it or the memory does."""
    if not work.effort.recompute or isinstance(model, Foreign):
        return
    model.body.recompute = True
    say(f"  what is cheap is computed again in the backward pass: about {memory_gb(work):.2g} GB are needed")


def optimizer_for(model: Model, derived: Derived, adapters: Adapters | None, team: Team = ALONE) -> Optimizer:
    """The optimizer of the parameters that are trained; it holds nothing about the others.

    team   has placed the model, and knows what this process holds of it
    Raises   BadSetting for moments that can't be cut as the model is
    """
    if team.cut and derived.optimizer == "adamw_8bit":
        raise BadSetting(
            "the optimizer adamw_8bit keeps its moments in blocks that can't be cut over processes",
            where="launch.strategy",
            fix='set launch.strategy = "ddp", or another optimizer',
        )
    groups = parameter_groups(
        team.parameters or dict(model.named_parameters()),
        rule=derived.optimizer,
        lr=derived.lr,
        embedding_lr=derived.embedding_lr,
        head_lr=derived.head_lr,
        scalar_lr=derived.scalar_lr,
        weight_decay=derived.weight_decay,
        parts=stacked_parts(model) if adapters is None else adapters.stacked_parts(),
    )
    return Optimizer(groups, team.exchange)


def batches_for(
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
        joints=np.array(tokenizer.joints) if step.objective == "masked" and step.whole_words else None,
    )

    hides = noise if derived.token_noise and tokenizer.mask_id is not None else None
    several = len(train.labels) if train.several and step.objective == "classify" else 0

    def make(store: TokenStore, rows: Array, batch: int, micro_batch: int, **training: Any) -> Batches:
        shared: dict[str, Any] = {"context": context, "batch_tokens": batch, "micro_batch_tokens": micro_batch}
        shared |= {"data_hash": job.tokens.id, "seed": job.project.settings.seed}
        if step.objective == "preference":
            return PreferenceBatches(store, step.preference.loss, rows, **shared)
        return Batches(store, step.objective, rows, **shared, noise=hides, several=several, **training)

    batches = make(
        train,
        found.rows,
        derived.batch_tokens,
        derived.micro_batch_tokens,
        infill=infill_for(step, tokenizer),
        isolate=step.isolate,
        replay=step.replay,
    )
    rows = guards.validation_rows(val, step, context=context)
    at_once = VALIDATION_TOKENS[hardware.device(job.project.settings.machine.device)]
    return batches, make(val, rows, at_once, at_once) if len(rows) else None


def refer(
    model: Model,
    step: TrainStep,
    batches: Batches,
    looks: Batches | None,
    folder: Path,
    autocast: Callable[[], AbstractContextManager[Any]],
    team: Team,
) -> None:
    """Give the material of a step what the untrained model says of its answers, where the loss compares with that."""
    if step.objective != "preference" or step.preference.loss == "orpo":
        return
    parts = {name: part for name, part in (("train", batches), ("val", looks)) if isinstance(part, PreferenceBatches)}
    reference.fill(model, parts, folder, autocast, team)


def loss_for(step: TrainStep, store: TokenStore, rows: Array, *, label_smoothing: float) -> LossFunction:
    """The objective's function for these rows of the store."""
    weights = None
    if step.class_weights is not None:
        names = store.labels if step.objective == "classify" else store.tag_names
        several = step.objective == "classify" and store.several
        learned = [store.tags(int(row)) for row in rows] if step.objective == "tag" else [store.rows["label"][rows]]
        targets = np.concatenate(list(store.rows["labels"][rows]) if several else learned)
        counts = np.bincount(targets[targets >= 0], minlength=len(names)).tolist()
        weights = class_weights(step, names, counts, rows=len(rows) if several else None)
    return loss_function(
        step.objective,
        label_smoothing=label_smoothing,
        weights=weights,
        neftune=step.neftune,
        r_drop=step.r_drop,
        preference=step.preference,
    )
