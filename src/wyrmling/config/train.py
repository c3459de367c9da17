"""`[[train]]`: the training steps, in order."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from wyrmling.config.section import OneOrMore, Section, Strings, as_tuple

TrainObjective = Literal["causal", "masked", "sft", "classify", "tag", "preference"]


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
Trackers = Annotated[tuple[TrackerName, ...], BeforeValidator(as_tuple)]

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
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)
    """Share of the target probability spread over all classes, or over all tokens (of preferences only dpo). None: 0.1
    where a ready model learns ten labels or more, else 0."""
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
    replay: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(default={})
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
        if self.label_smoothing and self.objective == "preference" and self.preference.loss != "dpo":
            raise ValueError(f"label_smoothing is set, but the loss {self.preference.loss} does not use it")
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
