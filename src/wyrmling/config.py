"""Every setting of a project, in pipeline order.

The description under a setting is its help, its row in ``docs/settings.md`` and its text in the JSON schema.
``None`` means "derive it"; ``wyrmling plan`` prints what was derived and why.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wyrmling.core.energy import Meter
from wyrmling.core.errors import BadSetting, UsageError

PROJECT_FILE = "wyrmling.toml"

Task = Literal["complete", "chat", "classify", "tag", "answer", "summarize"]
TrainObjective = Literal["causal", "masked", "sft", "classify", "tag", "preference"]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# TOML has arrays; strict pydantic would refuse them for a tuple.
Strings = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
OneOrMore = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else _tuple(value))
]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, validate_default=True
    )


class Limits(Section):
    hours: float | None = Field(default=None, gt=0)
    """Wall-clock hours that training may take. None: no limit."""
    usd: float | None = Field(default=None, gt=0)
    """Money that one run may cost, in US dollars. None: no limit."""
    kwh: float | None = Field(default=None, gt=0)
    """Energy that one run may use, in kilowatt-hours. None: no limit."""


class Budget(Limits):
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory that training may take, in GB. None: what the machine has."""


class Objective(Section):
    goal: str | None = None
    """The job of the model in one sentence, for the reports."""
    task: Task
    """What the model does: complete, chat, classify, tag, answer or summarize."""
    accept: Strings = ()
    """Conditions that the model must meet on the test rows, such as "macro_f1 >= 0.85" or "recall[refund] >= 0.8"."""
    budget: Budget = Budget()


Format = Literal[
    "txt", "md", "rst", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "html", "pdf", "conll", "docx", "pptx",
    "odt", "rtf", "epub", "xlsx", "xls", "ods", "eml", "mbox", "msg", "ipynb", "xml", "code",
]  # fmt: skip


# What test rows can always be sliced by.
SLICED_BY = ("length", "language", "source", "kind", "near_train", "label")


class Source(Section):
    """One origin of rows. Give `path`, or `url` with `query`."""

    path: str | None = None
    """A file, a folder or a glob, relative to the project folder."""
    url: str | None = None
    """A database as a SQLAlchemy URL; sqlite paths are relative to the project folder."""
    query: str | None = None
    """The SQL query whose rows are read."""
    format: Format | None = None
    """The format of the files; of those in them for archives. None: by content and suffix."""
    text: str | None = None
    """The column that holds the text."""
    label: str | None = None
    """The column that holds the label; a list there, or text with a label_separator, is several labels."""
    label_separator: str | None = Field(default=None, min_length=1)
    """The string between the labels of one row, such as "|". None: a text is one label."""
    prompt: str | None = None
    """The column that holds the prompt or question."""
    response: str | None = None
    """The column that holds the response or answer."""
    messages: str | None = None
    """The column that holds a list of {role, content} messages."""
    chosen: str | None = None
    """The column that holds the better of two answers, as text or as a conversation that ends with it."""
    rejected: str | None = None
    """The column that holds the other answer."""
    rating: str | None = None
    """The column that says whether the answer is good: true or false, 1 or 0, up or down."""
    words: str | None = None
    """The column that holds a list of words, for tagging."""
    tags: str | None = None
    """The column that holds one tag per word."""
    separator: str | None = None
    """The string between two documents of one text file. None: a file is one document."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """The character between two cells of a CSV file. None: found from the file."""
    encoding: str | None = None
    """The text encoding of the files. None: found from each file."""
    split: Literal["train", "val", "test"] | None = None
    """Use all rows of this source for one split, such as an official test file. None: split by `data.split`."""
    keep: Strings = ()
    """Columns kept beside the text, such as ["channel", "product"]: test rows can be sliced by them."""
    licence: str | None = None
    """The licence of the data: on the data card and beside every example."""

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either path, or url and query")
        if (self.url is None) != (self.query is None):
            raise ValueError("url and query belong together")
        if (self.words is None) != (self.tags is None):
            raise ValueError("words and tags belong together")
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("chosen and rejected belong together")
        if (self.prompt is None) != (self.response is None) and self.chosen is None:
            raise ValueError("prompt and response belong together")
        if self.rating is not None and self.response is None and self.messages is None:
            raise ValueError("rating needs the answer that is rated: prompt and response, or messages")
        for name in self.keep:
            if name in SLICED_BY:
                raise ValueError(
                    f"keep can't name {name!r}: test rows are sliced by their own {name}; rename the column"
                )
        return self


class Clean(Section):
    unicode: bool = True
    """Repair mojibake, normalise to NFC, and drop control characters and stray whitespace."""
    profile: Literal["web", "manuals", "code", "chat", "table"] | None = None
    """The set of quality rules for running text. None: no quality rules."""
    pii: Literal["mask", "keep"] = "mask"
    """Replace e-mail addresses, phone, card and account numbers, IP addresses and keys by placeholders, or keep."""
    region: str = "US"
    """The country (ISO code) that phone and identity numbers without a mark of their own belong to."""
    names: str | None = None
    """A function "package.module:function" that finds the names in a text, (start, end) each. None: they stay."""
    min_chars: int = Field(default=1, ge=1)
    """Rows whose text is shorter are dropped, in characters."""
    boilerplate: bool = True
    """Remove the lines that more than 30 % of a source's pages share, such as menus, heads and feet."""
    language: bool = False
    """Name the language of each row in the ledger and on the card; needs `pip install 'wyrmling[language]'`."""
    languages: Strings = ()
    """Keep only rows in these languages (ISO 639-1, such as "en"), and those too short to tell. Empty: all."""
    restore: Strings = ()
    """Rules that drop no row any more, such as "words"; see by_rule on the data card, and `wyrmling data restore`."""


class Dedup(Section):
    exact: bool = True
    """Drop rows whose text, in matching form, was seen before."""
    near: bool = True
    """Drop running text that is nearly the same as a kept one; labelled rows stay but share a split."""
    threshold: float = Field(default=0.75, gt=0, le=1)
    """Jaccard similarity of 5-word shingles from which two texts are near-duplicates."""
    prefer: Strings = ()
    """Sources whose rows survive when others say the same, the best first. Sources not named follow in file order."""


class Split(Section):
    val: float | None = Field(default=None, ge=0, lt=1)
    """Share of rows held out to watch training. None: 10 %, at most 2,000 rows."""
    test: float | None = Field(default=None, ge=0, lt=1)
    """Share of rows held out for the evaluation. None: 10 %, at most 10,000 rows; 0 where a source is the test set."""
    group: str | None = None
    """A column whose equal values stay in one split, such as a customer or thread."""
    date: str | None = None
    """A column with a date: the newest rows are the test rows, those before them val, the oldest train."""
    stratify: bool = False
    """Give every label its share of each split; then new rows may move old ones."""
    decontaminate: bool = True
    """Drop rows to learn from that give away a validation or test row: by 13 words, or by half of its 8-word runs."""


class Labels(Section):
    check: bool = False
    """Rank the labels that are likely wrong in `label_review.csv`; takes a classifier over five folds."""
    review: str | None = None
    """A copy of `label_review.csv` whose column `decision` is filled in; the decisions are applied to the rows."""


class Data(Section):
    sources: dict[str, Source] = Field(min_length=1)
    """The origins of rows, by name."""
    clean: Clean = Clean()
    dedup: Dedup = Dedup()
    split: Split = Split()
    labels: Labels = Labels()

    @model_validator(mode="after")
    def _known_sources(self) -> Data:
        for name in self.dedup.prefer:
            if name not in self.sources:
                raise ValueError(f"dedup.prefer names {name!r}, but sources has {sorted(self.sources)}")
        return self

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns that some source keeps beside its texts."""
        return tuple(dict.fromkeys(name for source in self.sources.values() for name in source.keep))


class Tokenizer(Section):
    vocab_size: int | None = Field(default=None, ge=264, le=262_144)
    """Tokens in the vocabulary, special ones included. None: from the size of the training text."""
    pattern: str | None = Field(default=None, min_length=1)
    """How text is cut into words, which tokens never cross: gpt2, cl100k, llama3, qwen2, o200k, or a regular expression
    of your own. None: cl100k, with two digits to a token up to 32,768 tokens and three above."""
    digits: int | None = Field(default=None, ge=1, le=16)
    """Digits of a number that one token holds at most. None: as the pattern has it."""
    whitespace: Literal["joined", "apart", "single"] = "joined"
    """White space: joined (a space belongs to the word after it), apart (in tokens of its own), or single (each
    character a token)."""
    special_tokens: Strings = ()
    """Tokens of your own, such as "<|ticket|>": one token wherever they stand in a text. The template's are there."""
    extend: int = Field(default=0, ge=0, le=65_536)
    """New tokens that the tokenizer of a base model gets, learned from the training text."""


class RemoteBase(Section):
    """Where `base = "openai:MODEL"` is trained and asked; nothing is sent without --spend."""

    url: str | None = Field(default=None, pattern=r"^https?://")
    """Where the OpenAI-compatible API begins, such as "http://127.0.0.1:8000/v1"."""
    key: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; without it requests carry none."""
    usd_per_million_training: float | None = Field(default=None, ge=0)
    """Price of a million tokens learned from, counted once per epoch, in US dollars. None: 0 on this machine."""
    usd_per_million_input: float | None = Field(default=None, ge=0)
    """Price of a million tokens that the trained model reads. None: 0 on this machine."""
    usd_per_million_output: float | None = Field(default=None, ge=0)
    """Price of a million tokens that it writes. None: 0 on this machine."""
    at_once: int = Field(default=4, ge=1)
    """Test rows asked at the same time."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """A request that takes longer is sent again, three times in all."""


REMOTE = "openai:"


class Model(Section):
    base: str = "scratch"
    """The model to start from: "scratch", a model folder, ORGANISATION/NAME of the Hugging Face hub, a registry name of
    this project, or openai:MODEL, which is trained behind the API of `[model.remote]`."""
    remote: RemoteBase = RemoteBase()
    revision: str | None = Field(default=None, min_length=1)
    """The commit, tag or branch of a base from the hub. None: its main branch as it was first downloaded."""
    preset: Literal["compat", "llama", "palm", "encoder"] | None = None
    """What to build from scratch: compat (Qwen3's blocks), llama, palm (parallel blocks, one key head) or encoder
    (ModernBERT). None: compat when a step learns to write, else encoder."""
    size: str | None = Field(default=None, pattern=r"^[1-9]\d*(\.\d+)?[MB]$")
    """The weights to start with, such as "20M" or "1B"; layers, width and heads follow. None: from the text."""
    layers: int | None = Field(default=None, ge=1)
    """Transformer blocks. None: from the amount of training text and the budget."""
    width: int | None = Field(default=None, ge=16, multiple_of=16)
    """Size of the hidden state. None: 64 per layer, within the budget."""
    heads: int | None = Field(default=None, ge=1)
    """Attention heads. None: width / 64, at least 2."""
    kv_heads: int | None = Field(default=None, ge=1)
    """Key and value heads (grouped-query attention). None: as many as heads."""
    ffn: int | None = Field(default=None, ge=16)
    """Size of the feed-forward layer. None: about 8/3 of the width."""
    context: int | None = Field(default=None, ge=8)
    """The longest text in tokens. None: from the lengths in the training data."""
    tied: bool | None = None
    """The embedding is also the output matrix. None: as preset and size have it."""
    zero_init: bool = True
    """Output matrices of attention and feed-forward layers start at zero, so that each block starts as the identity."""

    @property
    def behind(self) -> str | None:
        """The name of the model that is trained behind an API; None for one that is trained here."""
        return self.base.removeprefix(REMOTE) if self.base.startswith(REMOTE) else None


TrainMethod = Literal["full", "freeze", "probe", "lora", "qlora", "few-shot"]
OptimizerName = Literal["muon", "adamw", "adamw_8bit", "sgd"]


class Freeze(Section):
    """What the method freeze still trains, beside the head and the last norm."""

    layers: int = Field(default=2, ge=0)
    """The last so many blocks are trained; those before them keep their weights."""
    embedding: bool = False
    """Also train the token embedding (with it the output matrix, where they are one)."""


class Lora(Section):
    """The corrections that the methods lora and qlora learn beside frozen weights."""

    rank: int = Field(default=16, ge=1)
    """Rank of each correction B x A."""
    alpha: float | None = Field(default=None, gt=0)
    """Scale of the corrections: alpha / rank, with rslora alpha / sqrt(rank). None: twice the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the inputs that a correction does not see while training."""
    targets: OneOrMore = ("all-linear",)
    """The layers that are corrected: "all-linear" (all of the blocks), or names such as ["q_proj", "v_proj"]."""
    rslora: bool = False
    """Divide alpha by the square root of the rank instead of the rank (rsLoRA)."""
    dora: bool = False
    """Also learn the length of each row of the corrected matrices (DoRA): a little better, slower."""


class FewShot(Section):
    """Which rows the method few-shot shows the model; it trains nothing. They are always rows of the training split."""

    examples: int | None = Field(default=None, ge=0)
    """Rows in each prompt; 0: none, only the names of the labels (zero-shot). An encoder has no prompt: it looks at so
    many nearest rows of each label. None: 16 for a decoder, as far as the context holds them; 3 for an encoder."""
    select: Literal["nearest", "bm25", "balanced", "random"] | None = None
    """How they are chosen for each text: nearest (the model's own text vectors), bm25 (shared words); or once for all
    texts: balanced (as many of each label) or random. None: bm25; an encoder only has nearest."""
    per_label: int | None = Field(default=None, ge=1)
    """Rows of each label to choose from, drawn with the seed: the k of a k-shot trial. None: all."""
    order: Literal["nearest-last", "nearest-first"] = "nearest-last"
    """Where in the prompt the most similar row stands."""
    calibrate: bool | None = None
    """Take off each label what the model gives it for a text that says nothing. None: if validation rows are answered
    better so."""


PreferenceLoss = Literal["dpo", "orpo", "kto"]


class Preference(Section):
    """How the objective preference learns from pairs of answers and rated answers."""

    loss: PreferenceLoss = "dpo"
    """dpo (pairs, against a reference), orpo (pairs, without one: it learns the chosen answers too), or kto (rated
    answers; of a pair one is good, one bad)."""
    beta: float = Field(default=0.1, gt=0)
    """How strictly the model is held to its reference (dpo, kto), or the weight of the preference (orpo)."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """Factor of the loss of answers called good (kto)."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """Factor of the loss of answers called bad (kto)."""


TrackerName = Literal["tensorboard", "mlflow", "wandb"]
Trackers = Annotated[tuple[TrackerName, ...], BeforeValidator(_tuple)]

# Settings that only some objectives use.
_OF_OBJECTIVES: dict[str, tuple[TrainObjective, ...]] = {
    "class_weights": ("classify", "tag"),
    "r_drop": ("classify", "tag"),
    "replay": ("causal", "masked", "sft"),
    "fim_rate": ("causal",),
    "preference": ("preference",),
}


class TrainStep(Section):
    """One training step; each starts from the model of the one before."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """The name of the step, for folders and the command line."""
    objective: TrainObjective
    """What is learned: causal (next token), masked (hidden tokens), sft (answers), classify, tag, or preference (the
    better of two answers, or answers called good)."""
    method: TrainMethod = "full"
    """Which weights move: full (all), freeze (the last blocks), probe (the head), lora, qlora (lora on 4 bits), or
    none: few-shot, which shows rows instead."""
    freeze: Freeze = Freeze()
    lora: Lora = Lora()
    few_shot: FewShot = FewShot()
    preference: Preference = Preference()
    sources: Strings | None = None
    """Names of the sources to learn from. None: every source with rows that fit the objective."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training rows. None: derived from the amount of data."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; wins over epochs. None: from epochs."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per optimizer step. None: derived."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per forward pass; a smaller value needs less memory and gives the same result. None: derived."""
    checkpoint_activations: bool | None = None
    """Keep little for the backward pass and compute it again: less memory, slower. None: where the forecast asks."""
    optimizer: OptimizerName | None = None
    """muon (matrices; AdamW for the rest), adamw, adamw_8bit (moments of a byte; GPU only) or sgd (momentum 0.9). None:
    muon when training from scratch."""
    lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of the matrices; other groups keep their ratio to it. None: derived."""
    embedding_lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of the token embedding. None: in a derived ratio to lr."""
    head_lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of the output matrix. None: in a derived ratio to lr."""
    scalar_lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of norms and biases. None: that of the output matrix; of a ready model, lr."""
    schedule: Literal["wsd", "cosine", "linear", "constant"] = "wsd"
    """How the learning rate falls: wsd (warm up, hold, decay), cosine, linear or constant."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises."""
    decay: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps in which a wsd schedule falls."""
    keep_trunk: bool = False
    """Also keep weights and optimizer as they are before the rate of a wsd schedule falls, to go on from later."""
    trunk: str | None = Field(default=None, min_length=1)
    """Go on from the trunk of an earlier step, by its name, or of a train artifact, by its folder. None: start from the
    step before."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Decoupled weight decay of the matrices. None: derived."""
    clip: float = Field(default=1.0, ge=0)
    """Largest gradient norm for AdamW groups; 0 switches clipping off."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Share of hidden values dropped while training. None: 0.1 for classify and tag, else 0."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target probability spread over all classes, or over all tokens (not for preference)."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Factors of the loss of each label or tag (classify, tag): "balanced" gives all labels the same weight in sum, a
    table names some, the others have 1. None: all rows weigh the same."""
    neftune: float = Field(default=0.0, ge=0)
    """Noise on the embeddings while training (NEFTune's alpha, usually 5 to 15); 0: none."""
    r_drop: float = Field(default=0.0, ge=0)
    """Weight of what two passes over the same rows, with other dropped values, disagree about (R-Drop's alpha, usually
    0.5 to 5; classify, tag); a step then takes twice as long. 0: one pass."""
    isolate: bool = True
    """Documents do not see each other. False: they are laid end to end in rows of one context, and do."""
    replay: dict[str, Annotated[float, Field(gt=0, lt=1)]] = {}
    """Share of each step's tokens that comes from some sources, such as {general = 0.2}, so that what a model could do
    before is not forgotten; epochs are counted over the other sources."""
    fim_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the texts that the causal objective rearranges, to learn to fill in the middle."""
    fim_spm_rate: float = Field(default=0.5, ge=0, le=1)
    """Of these, the share that is shown as suffix, prefix, middle; the others are prefix, suffix, middle."""
    mask_rate: float = Field(default=0.3, gt=0, lt=1)
    """Share of tokens hidden by the masked objective."""
    whole_words: bool = True
    """The masked objective hides whole words, not single tokens of them."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Optimizer steps between two looks at the validation rows. None: about ten looks per run."""
    patience: int | None = Field(default=None, ge=1)
    """Looks without improvement after which training stops early. None: never."""
    spike_sigmas: float = Field(default=6.0, ge=0)
    """A step whose loss or gradient is so many standard deviations above the last 128 is left out; 0: never."""
    rollbacks: int = Field(default=3, ge=0)
    """How often training may go back and skip rows when steps in a row had to be left out, before it gives up."""
    hang_seconds: float = Field(default=60.0, gt=0)
    """A step that takes 5 times the usual and so many seconds more is reported as hanging."""
    save_every_seconds: float | None = Field(default=None, ge=0)
    """Seconds between two checkpoints; 0 saves after every step. None: 60, more where saving takes long."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Resumable checkpoints kept while training, beside one for rollbacks."""
    track: Trackers = ()
    """Also write the figures of steps.jsonl for tensorboard, mlflow or wandb, below `runs/track`; nothing is sent."""

    @property
    def learned_sources(self) -> tuple[str, ...] | None:
        """The sources of `sources` and `replay` together. None: every one."""
        return None if self.sources is None else (*self.sources, *self.replay)

    @model_validator(mode="after")
    def _settings_of_the_objective(self) -> TrainStep:
        for name, objectives in _OF_OBJECTIVES.items():
            if name in self.model_fields_set and getattr(self, name) and self.objective not in objectives:
                raise ValueError(f"{name} is set, but the objective is {self.objective!r}, which does not use it")
        if not self.isolate and self.objective not in ("causal", "masked"):
            raise ValueError(f"isolate = false is for causal and masked, but the objective is {self.objective!r}")
        if self.neftune and self.method == "probe":
            raise ValueError("neftune is set, but the method probe never goes through the embedding")
        if self.r_drop and self.method == "probe":
            raise ValueError("r_drop is set, but the method probe computes the hidden states once, without dropout")
        if self.r_drop and self.dropout == 0:
            raise ValueError("r_drop is set, but without dropout two passes are the same")
        if sum(self.replay.values()) >= 1:
            raise ValueError("the shares of replay leave nothing for the other sources")
        if both := set(self.replay) & set(self.sources or ()):
            raise ValueError(f"{sorted(both)[0]!r} is in sources and in replay")
        return self

    @model_validator(mode="after")
    def _settings_of_the_method(self) -> TrainStep:
        if (self.keep_trunk or self.trunk is not None) and self.method != "full":
            raise ValueError(f"a trunk is made of all weights, but the method is {self.method!r}")
        if self.keep_trunk and (self.schedule != "wsd" or self.decay == 1):
            raise ValueError('keep_trunk needs steps before the rate falls: schedule = "wsd" and decay below 1')
        for section, methods in (
            ("freeze", ("freeze",)), ("lora", ("lora", "qlora")), ("few_shot", ("few-shot",)),
        ):  # fmt: skip
            if section in self.model_fields_set and self.method not in methods:
                raise ValueError(f"{section} is set, but the method is {self.method!r}, which does not use it")
        if self.method == "few-shot" and self.objective not in ("classify", "sft"):
            raise ValueError(f"the method few-shot answers (sft) or sorts (classify); it can't learn {self.objective}")
        return self


class Tune(Section):
    """What `wyrmling tune` searches; `--over` on the command line adds to it."""

    over: dict[str, str] = {}
    """Settings and where to look: "train.tune.lr" = "1e-5..1e-3:log", or values such as "lora,full"."""
    trials: int = Field(default=20, ge=1)
    """Trainings at most, given-up ones included; the one with the settings as they are comes on top."""
    prune: bool = True
    """Give up a trial that falls behind the others, or surely behind the best one on the same validation rows."""
    budget: Limits = Limits()
    """What the whole search may take; None of a limit: as much as its trials need."""


class ChatApi(Section):
    """A model behind an OpenAI-compatible API."""

    url: str | None = Field(default=None, pattern=r"^https?://")
    """Where the API begins, such as "http://127.0.0.1:8000/v1". None: there is none."""
    model: str | None = None
    """The name of the model there."""
    key: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; without it requests carry none."""
    usd_per_million_input: float | None = Field(default=None, ge=0)
    """Price of a million tokens read, in US dollars; 0 for a server of your own."""
    usd_per_million_output: float | None = Field(default=None, ge=0)
    """Price of a million tokens written."""
    at_once: int = Field(default=4, ge=1)
    """Requests at the same time."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """An answer that takes longer is asked for again, three times in all; then there is none."""


class Remote(ChatApi):
    """A model behind an OpenAI-compatible API, as a rung of the ladder; nothing is sent without --spend."""

    examples: int = Field(default=8, ge=0)
    """Training rows in each prompt, those with the same words."""


class Judge(ChatApi):
    """The model that `wyrmling judge` asks. Beyond this machine nothing is sent without --spend."""

    model: str | None = None
    """The name of the model at `url`; without one a model folder or registered name, which is asked here."""
    rubric: str | None = None
    """What good answers are, and what each score from 1 to 5 means. None: a general one."""
    human: str | None = None
    """A JSON Lines file of answers that people judged, to see whether the judge agrees with them; see docs/judge.md."""
    json_form: bool = True
    """Hold the judge's word to JSON by `response_format`; false for a server that does not know it."""
    tokens: int = Field(default=256, ge=16)
    """Tokens of the judge's word at most."""


class Risks(Section):
    """What `wyrmling risks`, and conditions that name its measures, ask with."""

    prompts: int = Field(default=200, ge=1)
    """Rows that each measure asks with at most."""
    canaries: str | None = None
    """The file of planted secrets that is one of the sources; see `wyrmling risks --plant`."""
    general: str | None = None
    """A text file whose paragraphs show what the model has forgotten."""
    base: str | None = None
    """The model to compare with for that. None: `model.base`."""
    words: str | None = None
    """A file of words to look for in what the model writes, one per line. None: a shipped list of insults."""


class Evaluate(Section):
    baselines: bool = True
    """Also fit and score the cheap baselines on the same rows."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples behind each interval."""
    answers: int = Field(default=100, ge=0)
    """Test rows whose answers are written out and compared with the expected ones (answer, summarize); 0: none."""
    answer_tokens: int = Field(default=64, ge=1)
    """Tokens of such an answer at most."""
    overlap: Literal["refuse", "report"] = "refuse"
    """What to do when rows of `--test FILE` are training rows too: refuse the file, or score with and without them."""
    remote: Remote = Remote()
    judge: Judge = Judge()
    risks: Risks = Risks()


Quantize = Literal["int8", "int8-dynamic", "4bit"]


# A site as a browser names it: no path, no wildcard.
Origin = Annotated[str, Field(pattern=r"^https?://[a-z0-9.-]+(:\d{1,5})?$")]


class Serve(Section):
    host: str = "127.0.0.1"
    """Address to listen on; any other than loopback requires an API key."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    max_sequences: int = Field(default=8, ge=1)
    """Answers generated at the same time."""
    max_queue: int = Field(default=64, ge=0)
    """Requests that may wait; more are refused with 503."""
    prefill_tokens: int = Field(default=256, ge=1)
    """Tokens of new prompts read between two tokens of running answers: fewer keep answers even, more start sooner."""
    prefix_cache_mb: int = Field(default=256, ge=0)
    """Memory per model for prompts and answers that were read, whose beginnings are not read again; 0: none."""
    adapters: dict[str, str] = {}
    """LoRA adapters served beside the model on the same weights: the name to ask for, and the folder."""
    engine: str = "wyrmling"
    """What answers: wyrmling itself, llama.cpp (started here on the exported model), or the URL of a server with the
    OpenAI API, up to /v1 (vLLM, OpenVINO Model Server, llama-server, ...), whose key is in WYRMLING_ENGINE_KEY."""
    quantize: Quantize | None = None
    """Round the weights: int8, int8-dynamic (the fastest on a CPU) or 4bit. None: serve them as trained."""
    max_tokens: int = Field(default=256, ge=1)
    """Tokens generated when a request names no limit."""
    log_prompts: bool = False
    """Keep prompts and answers with the usage records."""
    max_models: int = Field(default=3, ge=1)
    """Fine-tuned models in memory at the same time, beside the one that is served."""
    max_jobs: int = Field(default=1, ge=0)
    """Fine-tuning jobs that run at the same time; others wait. 0: none are taken."""
    max_body_bytes: int = Field(default=1_000_000, ge=1000)
    """The largest request, in bytes, except for files."""
    max_upload_bytes: int = Field(default=512_000_000, ge=1000)
    """The largest file that can be uploaded, in bytes."""
    timeout_seconds: float = Field(default=600.0, gt=0)
    """An answer that takes longer is given up with 504."""
    canary: float = Field(default=0.0, ge=0, lt=1)
    """Share of the requests that a challenger answers once the gate of `wyrmling retrain` accepted it. 0: no trial."""
    origins: Annotated[tuple[Origin, ...], BeforeValidator(_tuple)] = ()
    """Sites whose pages may ask from a browser, such as "https://example.com", for the widget. Empty: none."""
    access_log: str | None = None
    """A file that gets one JSON line per request, without prompts, answers or keys; "-" is stderr. None: no log."""


class Feedback(Section):
    keep_days: float | None = Field(default=None, gt=0)
    """Days after which prompts, answers and feedback that was not accepted are erased. None: never."""
    max_per_user: int = Field(default=100, ge=1)
    """Examples that one end user (one API key, where requests name no user) may give the next training at most."""
    regression_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of accepted feedback, chosen by a hash of its text, that is never learned from: every new model is tested
    on it."""
    sketches: bool = True
    """Keep hashed words of each prompt (4,096 places, no text) with its usage, so that a change of topics shows."""
    window: int = Field(default=500, ge=50)
    """Answers in each of the two windows that are compared to find drift: the champion's first, and the newest."""
    false_alarms: float = Field(default=0.01, gt=0, lt=1)
    """Chance that a look at windows without any drift raises an alarm, over all its signals together."""
    webhook: str | None = Field(default=None, pattern=r"^https?://")
    """An address that gets a JSON message by POST when drift is found."""


class Retrain(Section):
    every: str | None = Field(default=None, pattern=r"^[1-9]\d*[hdw]$")
    """Time after which `--when-needed` and `--watch` train again, such as "12h", "7d" or "4w". None: no such reason."""
    min_feedback: int = Field(default=50, ge=1)
    """Accepted feedback that no training has used, from which `--when-needed` and `--watch` train again."""
    start: Literal["champion", "trunk"] | None = None
    """What training starts from: the champion, or the trunk (the model that the champion's last step began with).
    None: the trunk when there is one."""
    margin: float = Field(default=0.02, ge=0)
    """What the challenger may lose against the champion in the main metric, on the same test rows."""
    slice_margin: float = Field(default=0.05, ge=0)
    """What it may lose in any part of the test rows (a label, a length, a source) at most."""
    new_failures: float = Field(default=0.05, ge=0, lt=1)
    """Share of the frozen feedback that the champion gets right and the challenger may get wrong; more only if it newly
    gets more right than that. 0: none, whatever got better."""
    extra_cost: float = Field(default=0.25, ge=0)
    """By what share the challenger may be slower or use more energy per answer."""
    implausible: float = Field(default=0.05, ge=0, le=1)
    """How much more often corrections may be far from the champion's likeliest labels than the right labels of its own
    errors on test rows are; a share."""
    canary_answers: int = Field(default=200, ge=20)
    """Answers of a challenger on trial (`serve.canary`) before it is judged."""


class Machine(Section):
    device: Literal["cpu", "cuda"] | None = None
    """Where to train and serve. None: cuda when there is one."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads. None: the physical cores."""
    workers: int | None = Field(default=None, ge=1)
    """Processes of the data stage. None: as many as threads, 1 for little data."""
    engine: Literal["processes", "ray"] = "processes"
    """What runs them: processes of this machine, or Ray, which also spreads over others (`wyrmling[ray]`)."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Arithmetic of the matrix products. None: bfloat16 where a short probe finds it faster."""
    compile: bool | None = None
    """Compile the model before training (needs a C++ compiler). None: where the run is forecast to take 10 minutes."""
    watts: float | None = Field(default=None, gt=0)
    """Power of the machine under load, in watts, when no meter can be read. None: an estimate from the CPU and GPU."""
    usd_per_hour: float = Field(default=0.0, ge=0)
    """Rent of the machine, in US dollars per hour."""
    usd_per_kwh: float = Field(default=0.15, ge=0)
    """Price of electricity, in US dollars per kWh."""
    country: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    """Country (ISO 3166 alpha-3) whose grid feeds the machine. None: the world average."""
    pue: float = Field(default=1.0, ge=1)
    """Power usage effectiveness of the data centre: total power over computer power."""


class Launch(Section):
    processes: int | None = Field(default=None, ge=1)
    """Processes on each node of `wyrmling launch`. None: one for each GPU, one without."""
    nodes: int = Field(default=1, ge=1)
    """Nodes that train together; the project folder is on a file system that all of them see."""
    rendezvous: str | None = Field(default=None, pattern=r"^[^:\s]+:\d+$")
    """HOST:PORT of the first node, where the nodes find each other; needed for more than one."""
    strategy: Literal["ddp", "fsdp", "hsdp"] | None = None
    """ddp: every process has the whole model; fsdp: each has a part of every tensor; hsdp: parts within a group of
    processes, and copies of the group. None: the first of ddp, hsdp with a node's processes as the group, and fsdp
    that the memory allows."""
    shards: int | None = Field(default=None, ge=1)
    """Processes in a group of hsdp. None: those of a node."""
    tensor: int = Field(default=1, ge=1)
    """Processes that share each matrix of the blocks (tensor parallel), best on one node; the rest is spread by the
    strategy. For models of our own, without adapters."""


class Settings(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The name of the project and of its models in the registry."""
    seed: int = Field(default=0, ge=0)
    """Seed of every random choice."""
    database: str | None = None
    """The project database as a SQLAlchemy URL. None: wyrmling.db in the project folder."""
    objective: Objective
    data: Data
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    train: Annotated[tuple[TrainStep, ...], BeforeValidator(_tuple)] = ()
    """Training steps in order. None given: derived from the task."""
    tune: Tune = Tune()
    evaluate: Evaluate = Evaluate()
    serve: Serve = Serve()
    feedback: Feedback = Feedback()
    retrain: Retrain = Retrain()
    machine: Machine = Machine()
    launch: Launch = Launch()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        names = [step.name for step in self.train]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two train steps are named {name!r}")
        if self.train and self.train[0].method != "full" and self.model.base == "scratch":
            raise ValueError(
                f"train.{self.train[0].name}.method = {self.train[0].method!r} needs a trained model to start from, "
                'but model.base is "scratch"'
            )
        for step in self.train:
            named = [("sources", source) for source in step.sources or ()] + [("replay", s) for s in step.replay]
            for setting, source in named:
                if source not in self.data.sources:
                    known = sorted(self.data.sources)
                    raise ValueError(f"train.{step.name}.{setting} names {source!r}, but data.sources has {known}")
        return self


# The steps of a project that names none, by task.
DEFAULT_STEPS: dict[str, tuple[TrainStep, ...]] = {
    "complete": (TrainStep(name="pretrain", objective="causal"),),
    "chat": (TrainStep(name="pretrain", objective="causal"), TrainStep(name="tune", objective="sft")),
    "answer": (TrainStep(name="pretrain", objective="causal"), TrainStep(name="tune", objective="sft")),
    "summarize": (TrainStep(name="pretrain", objective="causal"), TrainStep(name="tune", objective="sft")),
    "classify": (TrainStep(name="pretrain", objective="masked"), TrainStep(name="tune", objective="classify")),
    "tag": (TrainStep(name="pretrain", objective="masked"), TrainStep(name="tune", objective="tag")),
}


@dataclass(frozen=True)
class Project:
    """A project folder and its settings."""

    root: Path
    settings: Settings

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def steps(self) -> tuple[TrainStep, ...]:
        """The training steps, derived from the task when the file names none."""
        steps = DEFAULT_STEPS[self.settings.objective.task]
        # What is trained behind an API has read its texts.
        return self.settings.train or (steps if self.settings.model.behind is None else steps[-1:])

    def with_settings(self, overrides: Sequence[str]) -> Project:
        """The same project with `section.key=value` overrides applied. Raises UsageError for a bad one."""
        raw = self.settings.model_dump(mode="json", exclude_unset=True)
        return Project(self.root, _overridden(raw, self.settings, overrides))

    def meter(self) -> Meter:
        """A new meter with the prices and power of `[machine]`."""
        machine = self.settings.machine
        return Meter(
            watts=machine.watts,
            usd_per_hour=machine.usd_per_hour,
            usd_per_kwh=machine.usd_per_kwh,
            country=machine.country,
            pue=machine.pue,
        )

    @property
    def database_url(self) -> str:
        return self.settings.database or f"sqlite:///{self.root / 'wyrmling.db'}"


class Home(NamedTuple):
    """Where a command was told to look that may also do without a project: --project and --set."""

    folder: Path | None = None
    overrides: tuple[str, ...] = ()

    def project(self) -> Project:
        """The project named, else the nearest upward. Raises UsageError when there is none; BadSetting as `load`."""
        return load(self.folder or find_project(Path.cwd()), self.overrides)


def find_project(start: Path) -> Path:
    """The nearest folder upward from `start` that holds a project file.

    Raises   UsageError when there is none.
    """
    for folder in (start, *start.parents):
        if (folder / PROJECT_FILE).is_file():
            return folder
    raise UsageError(
        f"no {PROJECT_FILE} in {start} or above it",
        fix="name the project folder with --project DIR, or make one with: wyrmling init DIR",
    )


def load(folder: Path, overrides: list[str] | tuple[str, ...] = ()) -> Project:
    """The project in `folder`, with `section.key=value` overrides applied.

    Raises   UsageError for a missing project file or a bad override; BadSetting for a bad project file.
    """
    root = folder.expanduser().resolve()
    path = root / PROJECT_FILE
    if not path.is_file():
        raise UsageError(f"{path} does not exist", fix=f"make a project with: wyrmling init {folder}")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"not valid TOML: {error}", where=path, fix="mend the line that the message names") from error
    settings = parse(raw, where=PROJECT_FILE)
    return Project(root=root, settings=_overridden(raw, settings, overrides) if overrides else settings)


def _overridden(raw: dict[str, Any], settings: Settings, overrides: Sequence[str]) -> Settings:
    """Validated settings after `section.key=value` overrides. Raises UsageError for a bad one."""
    for override in overrides:
        raw = _override(raw, settings, override)
    try:
        return parse(raw, where="--set")
    except BadSetting as error:
        raise UsageError(error.what, where=error.where, fix=error.fix) from error


def parse(raw: dict[str, Any], *, where: str) -> Settings:
    """Validated settings. Raises BadSetting that names each bad setting and the nearest known one."""
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(problem, raw) for problem in error.errors()]
        raise BadSetting(
            "\n".join(problems),
            where=where,
            fix="the settings are described in docs/settings.md and by: wyrmling schema",
        ) from error


def _explain(problem: Any, raw: dict[str, Any]) -> str:
    location = problem["loc"]
    name = _dotted(location, raw)
    if problem["type"] == "extra_forbidden":
        key = str(location[-1])
        near = difflib.get_close_matches(key, _known_keys(location[:-1]), n=1)
        prefix = name[: -len(key)]
        return f"{name}: unknown setting" + (f", did you mean {prefix}{near[0]}?" if near else "")
    if problem["type"] == "missing":
        return f"{name}: required setting is missing"
    # The two ways of TOML to write several tables are easily taken for each other.
    if problem["type"] == "dict_type" and isinstance(problem["input"], list):
        return f"{name}: one table for each, [{name}.NAME], not [[{name}]]"
    if problem["type"] == "tuple_type" and isinstance(problem["input"], dict):
        return f"{name}: a list of tables, [[{name}]], not [{name}]"
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{name}: {text}" if name else text
    return f"{name} = {json.dumps(problem['input'], default=str)}: {text}"


def _dotted(location: tuple[str | int, ...], raw: Any) -> str:
    """`train.tune.lr` rather than `train.1.lr`: list items are called by their name."""
    parts: list[str] = []
    at = raw
    for part in location:
        try:
            at = at[part]
        except (KeyError, IndexError, TypeError):
            at = None
        named = isinstance(part, int) and isinstance(at, dict) and "name" in at
        parts.append(str(at["name"]) if named else str(part))
    return ".".join(parts)


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    section: type[BaseModel] = Settings
    for part in location:
        # A list's index and a source's name are not fields; the section under them is already found.
        if part in section.model_fields:
            section = _section_of(section.model_fields[str(part)].annotation) or section
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _section_of(inner)) is not None:
            return found
    return None


def _override(raw: dict[str, Any], settings: Settings, text: str) -> dict[str, Any]:
    """`raw` with one `a.b.c=value` applied. Values are TOML; anything else is taken as text."""
    key, equals, value_text = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(
            f"--set {text!r} is not of the form section.key=value", fix="for example --set train.tune.lr=1e-4"
        )
    try:
        value = tomllib.loads(f"value = {value_text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = value_text.strip()
    changed: dict[str, Any] = json.loads(json.dumps(raw, default=str))
    at: Any = changed
    *path, last = key.strip().split(".")
    if path and path[0] == "train" and not changed.get("train"):
        changed["train"] = [s.model_dump(exclude_defaults=True) for s in DEFAULT_STEPS[settings.objective.task]]
    for part in path:
        if isinstance(at, list):
            found = [item for item in at if item.get("name") == part]
            if not found:
                names = [item.get("name") for item in at]
                raise UsageError(f"--set {key}: there is no train step {part!r}", fix=f"the steps are {names}")
            at = found[0]
        else:
            at = at.setdefault(part, {})
            if not isinstance(at, (dict, list)):
                raise UsageError(f"--set {key}: {part!r} is a value, not a section")
    if isinstance(at, list):
        raise UsageError(f"--set {key}: name the train step, as in train.tune.{last}=...")
    at[last] = value
    return changed


def schema() -> dict[str, Any]:
    """The JSON schema of the project file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": PROJECT_FILE,
        **Settings.model_json_schema(),
    }
