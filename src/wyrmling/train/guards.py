"""Before step 1: what will be learned is counted, shown and checked. It never trains on nothing.

A row that cannot be learned from is left out and named; what would make the whole run pointless is an error with rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from wyrmling.config import TrainStep
from wyrmling.core.errors import BadSetting, NothingToLearn
from wyrmling.tokenizer.show import text_of
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import TokenStore
from wyrmling.train.batches import IGNORED, Batch
from wyrmling.train.choices import spans
from wyrmling.train.order import Array
from wyrmling.train.sizing import WRITING, kinds_of

# Answers cut off by the context: a few rows are left out with a warning, more than this share is an error.
MAX_CUT_SHARE = 0.05
SHOWN_ROWS = 5
PREVIEW_TOKENS = 60


@dataclass
class Material:
    """The rows of one split that a step learns from.

    rows      indices into the store
    warnings  sentences about rows left out or read in part, with row ids
    """

    rows: Array
    warnings: list[str] = field(default_factory=list)


def material(store: TokenStore, tokenizer: Tokenizer, step: TrainStep, *, context: int) -> Material:
    """The training rows of `step` after all checks.

    context  tokens that the model reads at once
    Raises   NothingToLearn with row ids where training would learn nothing or something false; BadSetting when the
             tokenizer can't do what the objective needs
    """
    rows = _fitting_rows(store, step)
    found = Material(rows)
    _check_replay(store, step, rows)
    if step.objective == "preference":
        _check_choices(store, tokenizer, step, found, context)
    elif step.objective in WRITING:
        _check_text(store, tokenizer, step, found, context)
    elif step.objective == "masked":
        _check_masked(store, tokenizer, found)
    elif step.objective == "classify":
        _check_labels(store, found, context)
    else:
        _check_tags(store, found)
    return found


def validation_rows(store: TokenStore, step: TrainStep, *, context: int) -> Array:
    """The validation rows of `step`; may be none. Conversations that do not fit into the context are left out.

    Those of its replay are left out too: what is judged is what it is there to learn.
    """
    rows = _candidates(store, step)
    rows = rows[~np.isin(store.rows["source"][rows], list(step.replay))]
    if step.objective == "sft":
        rows = rows[[_learned_length(store, row) <= context for row in rows]] if len(rows) else rows
    if step.objective == "preference":
        rows = rows[[0 < _longest_answer(store, row) <= context for row in rows]] if len(rows) else rows
    return rows


def shared_with(train: TokenStore, rows: Array, held_out: TokenStore) -> list[str]:
    """Ids of training rows whose tokens are exactly those of a held-out row."""
    held = {held_out.tokens(row).tobytes() for row in range(len(held_out))}
    return [_id(train, row) for row in rows if train.tokens(row).tobytes() in held]


def preview(store: TokenStore, tokenizer: Tokenizer, step: TrainStep, batch: Batch, *, rows: int = 2) -> list[str]:
    """The first rows of a real batch as text; what is learned stands between ⟦ and ⟧."""
    ends = np.cumsum(batch.lengths)
    lines = []
    for number in range(min(rows, len(batch.lengths))):
        span = slice(int(ends[number]) - batch.lengths[number], int(ends[number]))
        row_id = _id(store, int(batch.rows[number]))
        tokens = batch.tokens[span].tolist()
        targets = batch.targets[number] if step.objective == "classify" else batch.targets[span]
        lines.append(f"{row_id}: {_marked(store, tokenizer, step, tokens, targets.flatten().tolist())}")
    return lines


def _marked(store: TokenStore, tokenizer: Tokenizer, step: TrainStep, tokens: list[int], targets: list[int]) -> str:
    if step.objective == "classify":
        chosen = [number for number, has in enumerate(targets) if has] if store.several else targets
        names = ", ".join(store.labels[number] for number in chosen)
        return f"{_shown(tokenizer, tokens[:PREVIEW_TOKENS])} → ⟦{names}⟧"
    causal = step.objective in WRITING
    parts, learning = [_shown(tokenizer, tokens[:1])] if causal else [], False
    start = max(0, next((i for i, target in enumerate(targets) if target != IGNORED), 0) - PREVIEW_TOKENS // 3)
    if start:
        parts.append(" … ")
    for at in range(start, min(len(tokens), start + PREVIEW_TOKENS)):
        learned = targets[at] != IGNORED
        before = tokens[at - 1] if at > start else -1
        if causal:
            following = targets[at] if learned else tokens[at + 1] if at + 1 < len(tokens) else -1
            text = _shown(tokenizer, [following], tokens[at])
        elif step.objective == "tag":
            marked = f"⟦{store.tag_names[targets[at]]}⟧" if learned else ""
            text = _shown(tokenizer, tokens[at : at + 1], before) + marked
            learned = False
        else:
            text = _shown(tokenizer, [targets[at] if learned else tokens[at]], before)
        if learned != learning:
            parts.append("⟦" if learned else "⟧")
            learning = learned
        parts.append(text)
    return "".join(parts) + ("⟧" if learning else "") + (" …" if start + PREVIEW_TOKENS < len(tokens) else "")


def _shown(tokenizer: Tokenizer, ids: list[int], before: int = -1) -> str:
    return text_of(tokenizer, [id_ for id_ in ids if id_ >= 0], before).replace("\n", "↵")


def _candidates(store: TokenStore, step: TrainStep) -> Array:
    keep = np.isin(store.rows["kind"], kinds_of(step))
    if step.learned_sources is not None:
        keep &= np.isin(store.rows["source"], step.learned_sources)
    return np.flatnonzero(keep & (store.rows["length"] > 0))


def _fitting_rows(store: TokenStore, step: TrainStep) -> Array:
    rows = _candidates(store, step)
    if len(rows) == 0:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(store.rows["kind"]).items())) or "none"
        raise NothingToLearn(
            f"no training row fits the objective {step.objective}, which learns from rows of kind "
            f"{' or '.join(kinds_of(step))}; the rows are: {kinds}",
            where=f"train.{step.name}",
            fix="name the columns of the sources (text, label, prompt, response, words, tags), or another objective",
        )
    return rows


def _check_text(store: TokenStore, tokenizer: Tokenizer, step: TrainStep, found: Material, context: int) -> None:
    where = f"train.{step.name}"
    empty = np.array([not store.learn(row).any() for row in found.rows])
    _leave_out(store, found, empty, "have nothing to learn", where)
    ends = set(tokenizer.end_ids)
    endless = [row for row in found.rows if _last_target(store, row) not in ends]
    # A row of running text may be a stretch of a longer one; an answer without its end would never stop.
    if endless and (step.objective == "sft" or len(endless) == len(found.rows)):
        raise NothingToLearn(
            f"{len(endless)} rows do not end with an end-of-text token, so the model would never learn to stop: "
            + _ids(store, endless),
            where=where,
            fix="make the tokenizer artifact again; a base model's chat template must close each answer",
        )
    if step.objective == "sft":
        long = np.array([_learned_length(store, row) > context for row in found.rows])
        _leave_out_long(store, found, long, context, where, _learned_length)


def _leave_out_long(
    store: TokenStore, found: Material, long: Array, context: int, where: str, length: Callable[[TokenStore, int], int]
) -> None:
    """Remove the rows that are too long, with a warning. Raises NothingToLearn when they are more than a few."""
    if long.mean() > MAX_CUT_SHARE:
        longest = max(length(store, row) for row in found.rows[long])
        raise NothingToLearn(
            f"{long.sum()} of {len(long)} conversations are longer than the context of {context} tokens, so their "
            f"answers would be cut off: {_ids(store, found.rows[long])}",
            where=where,
            fix=f"set model.context to {longest} or more when training from scratch, or shorten these rows",
        )
    _leave_out(store, found, long, f"are longer than the context of {context} tokens", where)


def _check_choices(store: TokenStore, tokenizer: Tokenizer, step: TrainStep, found: Material, context: int) -> None:
    where = f"train.{step.name}"
    empty = np.array([_longest_answer(store, row) == 0 for row in found.rows])
    _leave_out(store, found, empty, "have an answer with nothing to learn", where)
    ends = set(tokenizer.end_ids)
    endless = [
        row for row in found.rows if any(int(store.tokens(row)[end - 1]) not in ends for *_, end in spans(store, row))
    ]
    if endless:
        raise NothingToLearn(
            f"{len(endless)} answers do not end with an end-of-text token: {_ids(store, endless)}",
            where=where,
            fix="make the tokenizer artifact again; a base model's chat template must close each answer",
        )
    long = np.array([_longest_answer(store, row) > context for row in found.rows])
    _leave_out_long(store, found, long, context, where, _longest_answer)
    if step.preference.loss == "kto":
        _check_ratings(store, found, where)


def _check_ratings(store: TokenStore, found: Material, where: str) -> None:
    kinds, ratings = store.rows["kind"][found.rows], store.rows["label"][found.rows]
    one_sided = bool((kinds == "rating").all()) and len(set(ratings.tolist())) < 2
    if one_sided or len(found.rows) < 2:
        raise NothingToLearn(
            f"kto compares good answers with bad ones, and the {len(found.rows)} rows have only one kind: "
            + _ids(store, found.rows),
            where=where,
            fix="add rows with other ratings, or pairs",
        )


def _longest_answer(store: TokenStore, row: int) -> int:
    """Inputs needed for the last target of the longer of a row's conversations; 0 when one has none."""
    lengths = [end - start - 1 for start, _, end in spans(store, row)]
    return 0 if min(lengths) < 1 else max(lengths)


def _check_replay(store: TokenStore, step: TrainStep, rows: Array) -> None:
    present = set(store.rows["source"][rows].tolist())
    missing = [name for name in step.replay if name not in present]
    if missing or (step.replay and present <= set(step.replay)):
        what = f"replay names {missing[0]!r}, which has" if missing else "beside those of replay no source has"
        raise NothingToLearn(
            f"{what} no training row for the objective {step.objective}",
            where=f"train.{step.name}.replay",
            fix="look at the columns that its source names, or name another source",
        )


def _check_masked(store: TokenStore, tokenizer: Tokenizer, found: Material) -> None:
    if tokenizer.mask_id is None:
        raise BadSetting(
            "the tokenizer of the base model has no mask token, which the masked objective needs",
            where="model.base",
            fix='use the objective "causal", or another base model',
        )
    special = list(tokenizer.special_ids.values())
    empty = np.array([bool(np.isin(store.tokens(row), special).all()) for row in found.rows])
    _leave_out(store, found, empty, "have no word that could be hidden", "the masked objective")


def _check_labels(store: TokenStore, found: Material, context: int) -> None:
    if store.several:
        counts = Counter(number for labels in store.rows["labels"][found.rows] for number in labels.tolist())
    else:
        _leave_out(store, found, store.rows["label"][found.rows] < 0, "have no label", "the classify objective")
        counts = Counter(store.rows["label"][found.rows].tolist())
    if len(counts) < 2:
        only = store.labels[next(iter(counts))] if counts else ""
        raise NothingToLearn(
            f"all {len(found.rows)} training rows have the same label {only!r}; there is nothing to tell apart: "
            + _ids(store, found.rows),
            where="the classify objective",
            fix="add rows with other labels, or check the column named by `label`",
        )
    rare = {number for number, count in counts.items() if count == 1}
    once = [int(row) for row in found.rows if rare & set(_labels(store, int(row)))]
    if once:
        found.warnings.append(f"{len(once)} labels have a single training row: {_ids(store, once)}")
    unseen = [name for index, name in enumerate(store.labels) if index not in counts]
    if unseen:
        found.warnings.append(f"{len(unseen)} labels have no training row and will not be learned: {_few(unseen)}")
    long = found.rows[store.rows["length"][found.rows] > context]
    if len(long):
        found.warnings.append(
            f"{len(long)} texts are longer than the context of {context} tokens; only their beginning is read: "
            + _ids(store, long)
        )


def _labels(store: TokenStore, row: int) -> list[int]:
    """The numbers of a row's labels."""
    several: list[int] = store.rows["labels"][row].tolist()
    return several if store.several else [int(store.rows["label"][row])]


def _check_tags(store: TokenStore, found: Material) -> None:
    tags = [store.tags(row) for row in found.rows]
    empty = np.array([bool((row_tags == IGNORED).all()) for row_tags in tags])
    _leave_out(store, found, empty, "have no tagged word", "the tag objective")
    counts = Counter(tag for row_tags in tags for tag in row_tags.tolist() if tag != IGNORED)
    if len(counts) < 2:
        only = store.tag_names[next(iter(counts))]
        raise NothingToLearn(
            f"all words of the {len(found.rows)} training rows have the same tag {only!r}: {_ids(store, found.rows)}",
            where="the tag objective",
            fix="add rows with other tags, or check the column named by `tags`",
        )
    unseen = [name for index, name in enumerate(store.tag_names) if index not in counts]
    if unseen:
        found.warnings.append(f"{len(unseen)} tags have no training word and will not be learned: {_few(unseen)}")


def _leave_out(store: TokenStore, found: Material, bad: Array, what: str, where: str) -> None:
    """Remove the rows where `bad`, with a warning. Raises NothingToLearn when none would be left."""
    if not bad.any():
        return
    if bad.all():
        raise NothingToLearn(
            f"all {len(bad)} rows {what}: {_ids(store, found.rows)}",
            where=where,
            fix="look at these rows in examples.parquet of the data artifact, and at the columns that its source names",
        )
    found.warnings.append(f"{bad.sum()} rows {what} and are left out: {_ids(store, found.rows[bad])}")
    found.rows = found.rows[~bad]


def _learned_length(store: TokenStore, row: int) -> int:
    """Inputs needed for the last target of a row."""
    learned = np.flatnonzero(store.learn(row))
    return int(learned[-1]) if len(learned) else 0


def _last_target(store: TokenStore, row: int) -> int:
    return int(store.tokens(row)[_learned_length(store, row)])


def _id(store: TokenStore, row: int) -> str:
    return f"{store.rows['row_id'][row]} ({store.rows['origin'][row]})"


def _ids(store: TokenStore, rows: Array | list[int]) -> str:
    return _few([_id(store, int(row)) for row in rows])


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_ROWS} more" if len(names) > SHOWN_ROWS else ""
    return ", ".join(names[:SHOWN_ROWS]) + more
