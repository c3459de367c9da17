"""What a finished step leaves: the model folder with its probes and, of lora and qlora, the adapter beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from wyrmling.model import adapter_folder, folder, probes
from wyrmling.model.adapter import Adapters
from wyrmling.model.heads import Model
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore
from wyrmling.train import trainable
from wyrmling.train.assemble import Job, model_for, with_dropout
from wyrmling.train.batches import Batches
from wyrmling.train.sizing import Facts

MODEL, ADAPTER = "model", "adapter"
PROBES = 4


def write(
    job: Job, out: Path, trained: Model, facts: Facts, store: TokenStore, tokenizer: Tokenizer, batches: Batches
) -> tuple[Model, dict[str, Any]]:
    """Write the model folder of a step in `out`; the model as it was written, and figures of its merge if it had one.

    An adapter is merged into the base model's own float32 weights, also after qlora. The probes are recorded before,
    and replayed on the merged folder.
    Raises   GateRefused when the merged model answers differently from the corrected one
    """
    for name in (MODEL, ADAPTER):
        shutil.rmtree(out / name, ignore_errors=True)
    path, texts = out / MODEL, _probe_texts(store, tokenizer, batches)
    if job.step.method not in ("lora", "qlora"):
        model = with_dropout(trained, 0.0).to("cpu").eval()
        folder.save(model, path, job.tokens.path, _about(job, model, store))
        probes.record(folder.load(path), tokenizer, texts, path)
        return model, {}
    adapters = _corrected(job, trained, facts, store)
    adapter_folder.write(adapters, trainable.ADAPTER, out / ADAPTER, base=_base(job))
    path.mkdir(parents=True)
    probes.record(adapters.model.eval(), tokenizer, texts, path)
    model = adapters.merge(trainable.ADAPTER)
    folder.save(model, path, job.tokens.path, _about(job, model, store))
    difference = probes.replay(path, tokenizer=tokenizer)
    return model, {"merge": {"max_abs": difference.max_abs, "probes": difference.probes}}


def _corrected(job: Job, trained: Model, facts: Facts, store: TokenStore) -> Adapters:
    """The trained adapter on the base model's float32 weights, on the CPU."""
    values = {name: value.to("cpu") for name, value in trainable.state(trained).items()}
    plain, _ = model_for(job, facts, store)
    adapters = trainable.correct(plain, job.step, seed=job.project.settings.seed)
    trainable.restore(plain, values)
    return adapters


def _base(job: Job) -> adapter_folder.Base:
    """The base as the settings name it; of a later step by its path from the project folder, which may be moved."""
    assert job.base is not None
    settings, root = job.project.settings, job.project.root
    name = settings.model.base if job.first else job.base.relative_to(root).as_posix()
    return adapter_folder.base_of(job.base, name=name)


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
        several=head == "classes" and store.several,
        chat=job.step.objective in ("sft", "preference"),
    )


def _probe_texts(store: TokenStore, tokenizer: Tokenizer, batches: Batches) -> list[str]:
    """The beginnings of the first rows that were learned."""
    texts = (tokenizer.decode(store.tokens(int(row))).strip()[:200] for row in np.unique(batches.pieces.row)[:PROBES])
    return [text for text in texts if text] or ["wyrmling"]
