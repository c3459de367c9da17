"""The method few-shot: nothing is trained. Rows to show are chosen and tried on validation rows.

They are kept beside a copy of the base model, which makes a model folder like any other.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wyrmling.config import FewShot as Settings
from wyrmling.core import hardware
from wyrmling.core.artifact import Artifact, Draft, digest, file_digest
from wyrmling.core.errors import BadSetting, NothingToLearn
from wyrmling.core.log import say, warn
from wyrmling.evaluate import calibration, tasks
from wyrmling.evaluate.statistics import Floats, Ints
from wyrmling.model import few_shot, folder, probes, retrieval
from wyrmling.model.embed import embed
from wyrmling.model.few_shot import FewShot, Kind, Row, Select
from wyrmling.model.foreign import Foreign
from wyrmling.model.heads import Model
from wyrmling.model.shown import Shown, write_vectors
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore
from wyrmling.train import sizing
from wyrmling.train.assemble import BASE_REASON, Job
from wyrmling.train.outcome import MODEL, PROBES

# Of the base's folder: what is the base's own and would be wrong beside the rows.
_NOT_COPIED = (probes.PROBES, probes.LOGITS, folder.ABOUT, "manifest.json")
PROMPT_EXAMPLES, VECTOR_EXAMPLES, TURNS = 16, 3, 4
# More rows to choose from help little and make the folder large; what is left out is said.
MOST_ROWS = 50_000
# A row, and the names of the labels before all rows, may take this share of the context.
ROW_SHARE = 4
# Validation rows that calibration and temperature are judged by: a decoder takes its time.
MOST_TRIED = {"prompt": 200, "vectors": 5000}
# Texts that say nothing. Source: Zhao et al. 2021 (arXiv 2102.09690), "Calibrate Before Use".
SAYS_NOTHING = ("N/A", "[MASK]", "")
TEMPLATE = "{text}\nLabel: {label}\n\n"


@dataclass(frozen=True)
class _Parts:
    """What the steps below need of a job."""

    job: Job
    tokenizer: Tokenizer
    base: Model
    kind: Kind
    asked: Settings


def fit(job: Job, data: Artifact, draft: Draft) -> None:
    """Choose the rows, write the model folder in `draft.path`, and fill in the figures.

    Raises   BadSetting for a base that can't do it; NothingToLearn without rows to choose from
    """
    assert job.base is not None
    if few_shot.is_few_shot(job.base):
        raise BadSetting(
            "the base is a few-shot model already", where=f"train.{job.step.name}", fix="start from a trained model"
        )
    out = draft.path / MODEL
    shutil.rmtree(out, ignore_errors=True)
    base = folder.load(job.base, device=hardware.device(job.project.settings.machine.device))
    parts = _Parts(job, Tokenizer.load(job.tokens.path), base, _kind(job, base), job.step.few_shot)
    rows = tasks.read_split(data, "classify" if parts.kind != "turns" else "answer", "train", job.step.sources)
    if not rows:
        raise NothingToLearn("there are no rows to choose from", where=f"train.{job.step.name}.sources")
    about = _turns(parts, rows) if parts.kind == "turns" else _labelled(parts, rows, _labels(job))
    shutil.copytree(job.base, out, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    for name in folder.TOKENIZER_FILES:
        if (job.tokens.path / name).is_file():
            shutil.copyfile(job.tokens.path / name, out / name)
    folder.write_json(out / folder.ABOUT, asdict(_about(job, base, about)))
    about, figures = _tried(parts, about, data, out)
    about.write(out)
    texts = [tasks.text_of(row)[:200] for row in rows[:PROBES]]
    probes.record(folder.load(out), parts.tokenizer, [text for text in texts if text.strip()], out)
    say(f"few-shot {job.step.name}: {_said(about)}")
    draft.figures = _figures(base, about, figures)


def _kind(job: Job, base: Model) -> Kind:
    """What this base can be shown. Raises BadSetting when it is nothing, or not what was asked for."""
    asked, where = job.step.few_shot, f"train.{job.step.name}.few_shot"
    if job.step.objective == "sft":
        if base.head_name != "next":
            raise BadSetting(
                f"a model with the head {base.head_name!r} writes no answers", where=where, fix="name a decoder as base"
            )
        if asked.select not in (None, "bm25", "random") or asked.calibrate or asked.per_label:
            raise BadSetting(
                "for answers rows are chosen by bm25 or at random, and there are no labels to calibrate",
                where=where,
                fix='leave calibrate and per_label out, and set select to "bm25" or "random"',
            )
        if Tokenizer.load(job.tokens.path).chat_template is None:
            raise BadSetting("the base has no chat template to show turns in", where=where, fix="name another base")
        return "turns"
    if base.head_name == "next":
        return "prompt"
    if asked.select not in (None, "nearest"):
        raise BadSetting(
            f"an encoder reads no prompt: it compares vectors, so select = {asked.select!r} means nothing to it",
            where=where,
            fix='leave it out, or use select = "nearest"; per_label limits the rows',
        )
    if isinstance(base, Foreign) and base.config.causal:
        raise BadSetting("this base gives no text vectors", where=where, fix="choose another base")
    return "vectors"


def _labels(job: Job) -> list[str]:
    """Raises BadSetting where a text may have several: rows that are shown vote for one."""
    store = TokenStore.open(job.tokens.path, "train")
    if store.several:
        raise BadSetting(
            "rows may have several labels, and a few-shot model gives every text exactly one",
            where=f"train.{job.step.name}.method",
            fix='set method = "probe", "lora" or "full"',
        )
    return store.labels


# ---- texts with labels ----


def _labelled(parts: _Parts, rows: Sequence[tasks.Example], labels: list[str]) -> FewShot:
    asked, vectors = parts.asked, parts.kind == "vectors"
    default = VECTOR_EXAMPLES if vectors else PROMPT_EXAMPLES
    examples = default if asked.examples is None else asked.examples
    select: Select = asked.select or ("nearest" if vectors else "bm25")
    if not examples:
        chosen = [Row(f"label:{name}", readable(name), label=i) for i, name in enumerate(labels)] if vectors else []
    else:
        chosen = _pool(parts, rows, labels, select, examples)
    tokenizer = parts.tokenizer
    begin, ask, end, around, context = _frame(tokenizer, parts.base, labels)
    names = [tokenizer.encode(f" {readable(name)}", opening=False) for name in labels]
    if vectors:
        context = parts.base.config.context
        chosen = [replace(row, ids=tokenizer.document(row.text)[:context]) for row in chosen]
    else:
        most = parts.base.config.context // ROW_SHARE
        chosen = [replace(row, ids=tokenizer.encode(row.text)[:most]) for row in chosen]
        context = context - max(len(ids) for ids in names)
    return FewShot(
        kind=parts.kind,
        examples=examples,
        select=select,
        nearest_last=asked.order == "nearest-last",
        rows=[row for row in chosen if row.ids],
        context=context,
        labels=labels,
        names=names,
        begin=begin,
        ask=ask,
        end=end,
        around=around,
        template="" if vectors else TEMPLATE,
        rows_sha256=digest([row.row_id for row in chosen]),
    )


def readable(label: str) -> str:
    """A label as words: lost_or_stolen_card is "lost or stolen card"."""
    return " ".join(label.replace("_", " ").split()) or label


def _pool(parts: _Parts, rows: Sequence[tasks.Example], labels: list[str], select: Select, examples: int) -> list[Row]:
    """The rows to choose from; with balanced and random those that are shown, in a random order."""
    index, seed = {label: i for i, label in enumerate(labels)}, parts.job.project.settings.seed
    label_N: Ints = np.array([index[row["label"]] for row in rows], dtype=np.int64)
    kept = retrieval.per_label(label_N, parts.asked.per_label, seed=seed)
    if len(kept) > MOST_ROWS:
        warn(f"few-shot: {MOST_ROWS:,} of {len(kept):,} rows, drawn at random, are kept to choose from")
        kept = np.sort(np.random.default_rng(seed).permutation(kept)[:MOST_ROWS])
    if select in ("balanced", "random"):
        order_N = np.random.default_rng(seed).permutation(kept)
        ranks_N: Floats = -np.arange(len(order_N), dtype=np.float64)
        some_N = retrieval.best_by_label(ranks_N, label_N[order_N], examples) if select == "balanced" else None
        kept = order_N[:examples] if some_N is None else np.random.default_rng(seed).permutation(order_N[some_N])
    return [Row(rows[i]["row_id"], rows[i]["text"], label=int(label_N[i])) for i in kept.tolist()]


def _frame(
    tokenizer: Tokenizer, base: Model, labels: list[str]
) -> tuple[list[int], list[int], list[int], list[int], int]:
    """Ids before the first row, between text and label, after a label, around a document; and the room for a text."""
    opening = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    told = tokenizer.encode(f"Label each text with one of: {', '.join(readable(name) for name in labels)}.\n\n")
    begin = opening + (told if len(told) * ROW_SHARE <= base.config.context else [])
    ask, end = (tokenizer.encode(text, opening=False) for text in ("\nLabel:", "\n\n"))
    around = [id for id in (tokenizer.bos_id, tokenizer.eos_id) if id is not None]
    return begin, ask, end, around, base.config.context - len(begin) - len(ask)


# ---- questions with answers ----


def _turns(parts: _Parts, rows: Sequence[tasks.Example]) -> FewShot:
    asked, seed = parts.asked, parts.job.project.settings.seed
    pairs = [row for row in rows if [m["role"] for m in row["messages"][-2:]] == ["user", "assistant"]]
    if not pairs:
        raise NothingToLearn("no row ends in a question and its answer", where=f"train.{parts.job.step.name}.sources")
    order = np.random.default_rng(seed).permutation(len(pairs))[:MOST_ROWS].tolist()
    examples = TURNS if asked.examples is None else asked.examples
    if asked.select == "random":
        order = order[:examples]
    chosen = [
        Row(pairs[i]["row_id"], pairs[i]["messages"][-2]["content"], answer=pairs[i]["messages"][-1]["content"])
        for i in order
    ]
    return FewShot(
        kind="turns",
        examples=examples,
        select="random" if asked.select == "random" else "bm25",
        nearest_last=asked.order == "nearest-last",
        rows=chosen,
        context=parts.base.config.context,
        rows_sha256=digest([row.row_id for row in chosen]),
    )


# ---- the folder, and what it can do ----


def _about(job: Job, base: Model, about: FewShot) -> folder.About:
    known = folder.about(job.base) if job.base is not None else None
    return folder.About(
        task=job.project.settings.objective.task,
        head="next" if about.kind == "turns" else "classes",
        context=about.context,
        objective=job.step.objective,
        labels=about.labels,
        tokenizer_sha256="" if known is None else known.tokenizer_sha256,
        data_id=job.data_id,
        run_id=job.run_id,
        chat=about.kind == "turns",
        tokens=base.config.tokens,
    )


def _tried(parts: _Parts, about: FewShot, data: Artifact, out: Path) -> tuple[FewShot, dict[str, float]]:
    """The same, calibrated as validation rows show, with its vectors in the folder; and what it makes of those rows."""
    if about.kind == "turns":
        return about, {}
    if about.kind == "vectors" or about.select == "nearest":
        say(f"few-shot: vectors of {len(about.rows):,} rows")
        write_vectors(out, embed(parts.base, [row.ids for row in about.rows]))
        about = replace(about, vectors_sha256=file_digest(out / few_shot.VECTORS))
    about.write(out)
    model = folder.load(out, device=hardware.device(parts.job.project.settings.machine.device))
    assert isinstance(model, Shown)
    tokenizer, index = parts.tokenizer, {label: i for i, label in enumerate(about.labels)}
    val = tasks.read_split(data, "classify", "val", parts.job.step.sources)
    val = [row for row in val if row["label"] in index][: MOST_TRIED[about.kind]]
    nothing = [ids for text in SAYS_NOTHING if (ids := tokenizer.document(text))]
    offset_C = model.raw(nothing).mean(0)
    if not val:
        wanted = bool(parts.asked.calibrate)
        return replace(about, calibration=offset_C.tolist() if wanted else None), {}
    gold_N: Ints = np.array([index[row["label"]] for row in val], dtype=np.int64)
    raw_NC = model.raw([tokenizer.document(row["text"])[: about.context] for row in val])
    plain, moved = (_right(logits, gold_N) for logits in (raw_NC, raw_NC - offset_C))
    wanted = moved > plain if parts.asked.calibrate is None else parts.asked.calibrate
    logits_NC = raw_NC - offset_C if wanted else raw_NC
    probabilities = logits_NC.double().softmax(-1).numpy()
    temperature = calibration.temperature(gold_N, probabilities)
    losses = calibration.log_losses(gold_N, calibration.sharpened(probabilities, temperature))
    figures = {"accuracy": moved if wanted else plain, "loss": float(losses.mean())}
    return replace(about, calibration=offset_C.tolist() if wanted else None, temperature=temperature), figures


def _right(logits_NC: Tensor, gold_N: Ints) -> float:
    return float((logits_NC.argmax(-1).numpy() == gold_N).mean())


def _said(about: FewShot) -> str:
    if about.kind == "vectors" and not about.examples:
        return f"the names of {len(about.labels)} labels"
    how = {"nearest": "the nearest", "bm25": "those with the same words", "balanced": "of each label", "random": "any"}
    each = " of each label" if about.kind == "vectors" else ""
    return f"{about.examples} rows{each} of {len(about.rows):,}, {how[about.select]}"


def _figures(base: Model, about: FewShot, val: dict[str, float]) -> dict[str, Any]:
    """In the names that every training step has; nothing moved."""
    shape = sizing.shape_of(base.config, BASE_REASON)
    return {
        "steps": 0,
        "tokens": 0,
        "targets": 0,
        "loss": val.get("loss"),
        "val": val,
        "best_step": 0,
        "parameters": sum(p.numel() for p in base.parameters()),
        "trained_parameters": 0,
        "left_out_steps": 0,
        "stopped": None,
        "dtype": "float32",
        "derived": {"model": asdict(shape)},
        "few_shot": {
            "kind": about.kind,
            "examples": about.examples,
            "select": about.select,
            "rows": len(about.rows),
            "calibrated": about.calibration is not None,
            "temperature": about.temperature,
        },
    }
