"""Runs a model over test rows: flat tokens, batches of similar length, nothing padded. The only file here with torch.

Letters: N tokens, R wanted rows, V vocabulary, C classes or tags.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wyrmling.config import Quantize
from wyrmling.core.errors import BadInput
from wyrmling.core.progress import bar
from wyrmling.evaluate.metrics import Bools
from wyrmling.evaluate.statistics import Floats, Ints
from wyrmling.evaluate.tasks import Example
from wyrmling.model import folder
from wyrmling.model.attention import Segments
from wyrmling.model.few_shot import Turns, turns_of
from wyrmling.model.generate import Decoder
from wyrmling.model.heads import Model
from wyrmling.model.quantize import quantize_checked
from wyrmling.model.sampling import Sampling
from wyrmling.tokenizer import chat
from wyrmling.tokenizer.tokenizer import Tokenizer
from wyrmling.tokenizer.tokens import row_pieces

# Large enough to keep the cores busy, small enough for a laptop's memory. Not measured beyond width 256.
BATCH_TOKENS = 4096
# Logits held at once: 16 million floats are 64 MB.
LOGITS_AT_ONCE = 16_000_000
# The length of a timed answer in running text.
ANSWER_TOKENS = 32


@dataclass(frozen=True)
class Scorer:
    """A model folder ready to answer. Made by `load`."""

    model: Model
    tokenizer: Tokenizer
    labels: list[str]
    tags: list[str]
    device: str
    turns: Turns | None = None
    """What a few-shot model reads before each conversation."""
    several: bool = False
    """A text may have several of the labels."""

    @property
    def context(self) -> int:
        return self.model.config.context


class Stretch(NamedTuple):
    """One forward pass's share of a row: `ids` go in, the model is asked at `wanted` positions of them.

    targets   the token that follows each wanted position; empty for classes and tags
    """

    row: int
    ids: Ints
    wanted: Ints
    targets: Ints


NONE = np.empty(0, dtype=np.int64)


class TextScores(NamedTuple):
    """Per row: nats and number of all targets; nats and UTF-8 bytes of those that are text; targets guessed right."""

    nll_N: Floats
    targets_N: Floats
    text_nll_N: Floats
    bytes_N: Floats
    right_N: Floats


def load(
    path: Path, *, device: str | None = None, threads: int | None = None, quantize: Quantize | None = None
) -> Scorer:
    """The model in a folder, in float32.

    device    None: cuda when there is one
    threads   of the processor. None: as torch chooses
    quantize  how the weights are rounded. None: not
    Raises   BadInput for a folder that does not say what its model was trained for
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    about = folder.about(path)
    model = folder.load(path, device=device, dtype=torch.float32)
    if about is None and model.head_name in ("classes", "tags"):
        raise BadInput(
            f"{path} has no {folder.ABOUT}, so its labels are not known",
            where=path,
            fix="evaluate a model folder that wyrmling trained",
        )
    if quantize is not None:
        quantize_checked(folder.locate(path), model, quantize)
    labels, tags = ([], []) if about is None else (about.labels, about.tags)
    several = about is not None and about.several
    return Scorer(model, Tokenizer.load(path), labels, tags, device, turns_of(folder.locate(path)), several)


# ---- classify and tag ----


def classify(scorer: Scorer, rows: Sequence[Example]) -> tuple[Floats, int]:
    """Probabilities (N, C) of each row's text, and how many texts were longer than the context and cut at its end.

    Those of a row add up to 1, but for a model by which a text may have several labels: there each is for itself.
    """
    ids = _documents(scorer.tokenizer, [row["text"] for row in rows])
    stretches = [Stretch(i, row[: scorer.context], NONE, NONE) for i, row in enumerate(ids)]
    out = np.empty((len(rows), scorer.model.n_out))
    for chosen, tokens_N, segments in _batches(scorer, stretches, "classify"):
        with torch.inference_mode():
            logits = scorer.model.logits(tokens_N, segments)
        out[chosen] = (logits.double().sigmoid() if scorer.several else logits.double().softmax(-1)).cpu().numpy()
    return out, sum(len(row) > scorer.context for row in ids)


def tag(scorer: Scorer, rows: Sequence[Example]) -> list[list[str]]:
    """One tag per word: that of the word's first piece. A longer sentence is read in stretches of one context."""
    stretches = []
    for i, row in enumerate(rows):
        ids, firsts = _sentence(scorer.tokenizer, row["words"])
        for start in range(0, len(ids), scorer.context):
            inside = firsts[(firsts >= start) & (firsts < start + scorer.context)] - start
            if len(inside):
                stretches.append(Stretch(i, ids[start : start + scorer.context], inside, NONE))
    found: list[Ints] = [NONE] * len(stretches)
    for chosen, tokens_N, segments in _batches(scorer, stretches, "tag"):
        batch = [stretches[i] for i in chosen]
        with torch.inference_mode():
            best_R = scorer.model.logits(tokens_N, segments, _wanted(batch, scorer.device)).argmax(-1).cpu().numpy()
        parts = np.split(best_R, np.cumsum([len(s.wanted) for s in batch])[:-1])
        for i, part in zip(chosen, parts, strict=True):
            found[i] = part
    tags: list[list[str]] = [[] for _ in rows]
    for stretch, part in zip(stretches, found, strict=True):
        tags[stretch.row] += [scorer.tags[index] for index in part]
    return tags


def _documents(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Ints]:
    head = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    tail = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    return [np.array(head + ids + tail, dtype=np.int64) for ids in tokenizer.encode_batch(texts)]


def _sentence(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[Ints, Ints]:
    ids, firsts = tokenizer.encode_words(words)
    head = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    tail = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    return np.array(head + ids + tail, dtype=np.int64), np.array(firsts, dtype=np.int64) + len(head)


# ---- running text ----


def text(scorer: Scorer, rows: Sequence[Example]) -> TextScores:
    """Nats of every learned token, each scored once; a row longer than the context is scored in windows (`windows`)."""
    scores = TextScores(*(np.zeros(len(rows)) for _ in TextScores._fields))
    special = np.array(sorted(scorer.tokenizer.special_ids.values()), dtype=np.int64)
    token_bytes = np.array([len(scorer.tokenizer.token_bytes(i)) for i in range(scorer.tokenizer.vocab_size)])
    stretches = []
    for i, row in enumerate(rows):
        ids, learn = _shown_and_encoded(scorer, row)
        for start, first, last in windows(len(ids), scorer.context):
            learned = np.arange(first, last)[learn[first:last]]
            if len(learned):
                stretches.append(Stretch(i, ids[start : last - 1], learned - 1 - start, ids[learned]))
    for chosen, tokens_N, segments in _batches(scorer, stretches, "score"):
        batch = [stretches[i] for i in chosen]
        targets_R = np.concatenate([s.targets for s in batch])
        nll_R, right_R = _token_losses(scorer, tokens_N, segments, _wanted(batch, scorer.device), targets_R)
        row_R = np.repeat([s.row for s in batch], [len(s.wanted) for s in batch])
        is_text = ~np.isin(targets_R, special)
        np.add.at(scores.nll_N, row_R, nll_R)
        np.add.at(scores.targets_N, row_R, 1.0)
        np.add.at(scores.right_N, row_R, right_R)
        np.add.at(scores.text_nll_N, row_R, nll_R * is_text)
        np.add.at(scores.bytes_N, row_R, token_bytes[targets_R] * is_text)
    return scores


def encode(tokenizer: Tokenizer, row: Example) -> tuple[Ints, Bools]:
    """A row as training sees it: ids, and which are learned. The first never is: nothing stands before it."""
    ids: list[int] = []
    learn: list[bool] = []
    for piece in row_pieces(tokenizer, row):
        new = tokenizer.encode(piece.text) if piece.token is None else [piece.token]
        ids += new
        learn += [piece.learn] * len(new)
    learn[:1] = [False] * min(1, len(learn))
    return np.array(ids, dtype=np.int64), np.array(learn, dtype=np.bool_)


def shown(scorer: Scorer, messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """A conversation with what a few-shot model is shown before it, in half of the context at most; else as it is."""
    before, own = _shown(scorer, messages)
    return [*before, *own]


def _shown(
    scorer: Scorer, messages: Sequence[Mapping[str, str]]
) -> tuple[list[Mapping[str, str]], list[Mapping[str, str]]]:
    if scorer.turns is None:
        return [], list(messages)

    def length(some: Sequence[Mapping[str, str]]) -> int:
        return len(chat.render(scorer.tokenizer, some, add_generation_prompt=True)[0])

    return scorer.turns.shown(messages, length, scorer.context // 2)


def _shown_and_encoded(scorer: Scorer, row: Example) -> tuple[Ints, Bools]:
    """A row as `encode` has it, behind what a few-shot model is shown, none of which is scored."""
    if scorer.turns is None or row["kind"] != "conversation":
        return encode(scorer.tokenizer, row)
    before, own = _shown(scorer, row["messages"][:-1])
    ids, learn = encode(scorer.tokenizer, row | {"messages": [*before, *own, row["messages"][-1]]})
    unscored = sum(chat.render(scorer.tokenizer, before)[1]) if before else 0
    learn[np.flatnonzero(learn)[:unscored]] = False
    return ids, learn


def windows(n_tokens: int, context: int) -> Iterator[tuple[int, int, int]]:
    """(start, first, last): tokens `first` to `last` - 1 are targets, predicted from tokens `start` to `last` - 2.

    Every token but the first is a target exactly once. The last window reaches back to a full context.
    Source   rolling log-likelihood of lm-evaluation-harness
    """
    first = 1
    while first < n_tokens:
        last = min(first + context, n_tokens)
        yield max(0, last - 1 - context), first, last
        first = last


def _token_losses(
    scorer: Scorer, tokens_N: Tensor, segments: Segments, rows_R: Tensor, targets_R: Ints
) -> tuple[Floats, Floats]:
    """Nats of each target, and 1 where it was the most probable token; logits are made a chunk of rows at a time."""
    chunk = max(1, LOGITS_AT_ONCE // scorer.model.n_out)
    nll, right = [], []
    with torch.inference_mode():
        features_RD = scorer.model.features(tokens_N, segments, rows_R)
        targets = torch.from_numpy(targets_R).to(scorer.device)
        for part_RD, part_R in zip(torch.split(features_RD, chunk), torch.split(targets, chunk), strict=True):
            logits_RV = scorer.model.project(part_RD).float()
            nll.append(F.cross_entropy(logits_RV, part_R, reduction="none").double())
            right.append((logits_RV.argmax(-1) == part_R).double())
    return torch.cat(nll).cpu().numpy(), torch.cat(right).cpu().numpy()


# ---- batches and time ----


def _batches(scorer: Scorer, stretches: Sequence[Stretch], title: str) -> Iterator[tuple[list[int], Tensor, Segments]]:
    """Stretches of similar length together, each batch as (indices of stretches, tokens_N, segments)."""
    order = sorted(range(len(stretches)), key=lambda i: -len(stretches[i].ids))
    start = 0
    # A bar for a single answer would cost more than the answer.
    with bar(title, sum(len(s.ids) for s in stretches)) if len(stretches) > 1 else nullcontext() as progress:
        while start < len(order):
            chosen = order[start : start + max(1, BATCH_TOKENS // len(stretches[order[start]].ids))]
            start += len(chosen)
            lengths = [len(stretches[i].ids) for i in chosen]
            tokens_N = torch.from_numpy(np.concatenate([stretches[i].ids for i in chosen])).to(scorer.device)
            yield chosen, tokens_N, Segments(lengths)
            if progress is not None:
                progress.advance(sum(lengths))


def _wanted(batch: Sequence[Stretch], device: str) -> Tensor:
    """Index among the batch's tokens of every wanted position."""
    starts = np.cumsum([0] + [len(s.ids) for s in batch[:-1]])
    return torch.from_numpy(np.concatenate([s.wanted + start for s, start in zip(batch, starts, strict=True)])).to(
        device
    )


def latencies(scorer: Scorer, task: str, rows: Sequence[Example], *, most: int, budget_seconds: float) -> Floats:
    """Seconds of one answer at a time, from text to result, after a few to warm up.

    most             rows timed, chosen at random with a fixed seed
    budget_seconds   no further row is begun after this, so that slow models don't take hours; at least 3 are timed
    """
    chosen = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:most]]
    for row in chosen[:3]:
        _answer(scorer, task, row)
    seconds: list[float] = []
    while len(seconds) < len(chosen) and (len(seconds) < 3 or sum(seconds) < budget_seconds):
        started = time.perf_counter()
        _answer(scorer, task, chosen[len(seconds)])
        seconds.append(time.perf_counter() - started)
    return np.array(seconds)


def answer_is(task: str) -> str:
    """What one timed answer consists of, for signatures."""
    return "answer:one row" if task in ("classify", "tag") else f"answer:{ANSWER_TOKENS} tokens"


def _answer(scorer: Scorer, task: str, row: Example) -> None:
    if task == "classify":
        classify(scorer, [row])
    elif task == "tag":
        tag(scorer, [row])
    else:
        _continue(scorer, row)


def _continue(scorer: Scorer, row: Example) -> None:
    """The next tokens after the first half of a document, or the answer to all but the last turn of a conversation."""
    if row["kind"] == "conversation":
        asked = shown(scorer, row["messages"][:-1])
        prompt, _ = chat.render(scorer.tokenizer, asked, add_generation_prompt=True)
    else:
        prompt = scorer.tokenizer.prompt(row["text"][: len(row["text"]) // 2])
    room = max(1, scorer.context - ANSWER_TOKENS)
    decoder = Decoder(scorer.model)
    decoder.add(prompt[-room:] or [0], Sampling(max_tokens=ANSWER_TOKENS, temperature=0))
    while decoder.running:
        decoder.step()
