"""A model: the transformer body and a head that turns hidden states into answers.

Every head ends in one matrix. `features` gives what goes into it, for the wanted rows only, so that tokens nobody asks
about never reach the vocabulary; `output` gives the matrix, for losses that work through it in chunks.

Letters: N tokens, S documents, R wanted rows, D width, V vocabulary, C classes or tags.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wyrmling.core.errors import BadSetting
from wyrmling.model.attention import Segments
from wyrmling.model.design import Activation
from wyrmling.model.feed_forward import ACTIVATIONS, Experts, FeedForward, GatedFeedForward, Stacked
from wyrmling.model.kernels import on_even_rows
from wyrmling.model.transformer import Attention, ModelConfig, Norm, Transformer

HeadName = Literal["next", "masked", "classes", "tags", "embed"]
Pooling = Literal["first", "mean", "last"]

# Spread of the token embedding and of an untied output matrix at the start, and of an embedding that is both.
# Sources: nanochat's base_train for untied; for tied, the customary 0.02 (GPT-2, ModernBERT).
EMBEDDING_STD, OUTPUT_STD, TIED_STD = 0.8, 0.001, 0.02
# Relative spread of the first feed-forward matrix (nanochat), and the sharpening of normed queries and keys.
FFN_SCALE, QK_SCALE = 0.4, 1.2


class Output(NamedTuple):
    """The last matrix of a model and its bias: logits = features @ weight.T + bias."""

    weight_VD: Tensor
    bias_V: Tensor | None


@dataclass(frozen=True)
class HeadDesign:
    """What a head does before its matrix: take one vector per document, a dense layer, a norm."""

    pool: Pooling | None = None
    """What stands for the document. None: every token for itself."""
    dense: Activation | Literal["tanh"] | None = None
    """Activation of the dense layer; None: no such layer."""
    dense_bias: bool = True
    norm: bool = False
    bias: bool = False
    """The output matrix has a bias."""


MODERN = HeadDesign(dense="gelu", dense_bias=False, norm=True, bias=True)


def head_design(config: ModelConfig, head: HeadName) -> HeadDesign:
    """The head as the family's published models have it.

    Raises   BadSetting when the family and the head do not fit
    """
    if config.causal != (head == "next") and head in ("next", "masked"):
        raise BadSetting(
            f"a {config.family} model can't have the head {head!r}",
            fix="decoders predict the next token, encoders (modernbert, bert) predict masked tokens",
        )
    if head == "embed":
        return HeadDesign(pool=config.pooling or "mean", dense="tanh" if config.pooler else None)
    if config.causal:
        pool = (config.pooling or "last") if head == "classes" else None
        return HeadDesign(pool=pool, bias=head == "tags")
    if config.family == "modernbert":
        return replace(MODERN, pool=(config.pooling or "mean") if head == "classes" else None)
    if head == "masked":
        return HeadDesign(dense=config.switches.activation, norm=True, bias=True)
    if head == "tags":
        return HeadDesign(bias=True)
    return HeadDesign(
        pool=config.pooling or "first", dense="relu" if config.family == "distilbert" else "tanh", bias=True
    )


class Head(nn.Module):
    """What goes into the output matrix, and that matrix unless it is the body's embedding."""

    def __init__(self, config: ModelConfig, name: HeadName, n_out: int) -> None:
        super().__init__()
        self.name, self.design = name, head_design(config, name)
        width = config.width
        self.dense = nn.Linear(width, width, bias=self.design.dense_bias) if self.design.dense else None
        self.norm = Norm(width, config) if self.design.norm else None
        of_body = name == "embed" or (name in ("next", "masked") and config.tied)
        self.weight = None if of_body else nn.Parameter(torch.empty(n_out, width))
        self.bias = nn.Parameter(torch.zeros(n_out)) if self.design.bias else None
        self.dropout = config.dropout if name in ("classes", "tags") and not config.causal else 0.0

    def forward(self, hidden_RD: Tensor) -> Tensor:
        if self.name == "embed":
            return F.normalize(hidden_RD, dim=-1)
        if self.dense is not None:
            activation = torch.tanh if self.design.dense == "tanh" else ACTIVATIONS[self.design.dense or "gelu"]
            hidden_RD = activation(on_even_rows(self.dense, hidden_RD))
        if self.norm is not None:
            hidden_RD = self.norm(hidden_RD)
        return F.dropout(hidden_RD, self.dropout) if self.training and self.dropout else hidden_RD


class Model(nn.Module):
    """A transformer with one head, ready after construction.

    head       next | masked | classes | tags | embed
    n_classes  classes or tags; not used by the other heads
    seed       of the starting weights. None leaves them as allocated, for weights that are loaded next
    zero_init  every block starts as the identity
    Raises     BadSetting when the family and the head do not fit
    """

    def __init__(
        self, config: ModelConfig, head: HeadName, n_classes: int = 0, *, seed: int | None = 0, zero_init: bool = True
    ) -> None:
        super().__init__()
        if head in ("classes", "tags") and n_classes < 2:
            raise BadSetting(f"the head {head!r} needs at least 2 classes, not {n_classes}")
        self.config = config
        self.body = Transformer(config)
        n_out = config.vocab_size if head in ("next", "masked") else n_classes
        self.head = Head(config, head, n_out)
        # The output matrix of a model that was quantised for inference, see quantize.py.
        self.packed_output: nn.Module | None = None
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            _start_body(self.body, generator, zero_init=zero_init)
            _start_head(self, generator)

    @property
    def head_name(self) -> HeadName:
        return self.head.name

    @property
    def n_out(self) -> int:
        """Values per row: embedding rows, classes, tags, or the width of a text embedding."""
        return self.config.width if self.head_name == "embed" else len(self.output.weight_VD)

    @property
    def output(self) -> Output:
        """Raises BadSetting for a model that gives text embeddings: it has no such matrix."""
        if self.head_name == "embed":
            raise BadSetting(
                "a model without a head gives text embeddings, not predictions",
                fix="train it first, for example with the objective classify or tag",
            )
        weight = self.body.embedding.weight if self.head.weight is None else self.head.weight
        return Output(weight, self.head.bias)

    def features(self, tokens_N: Tensor, segments: Segments, rows_R: Tensor | None = None) -> Tensor:
        """What the output matrix is applied to, (R, D); for the head embed the text embeddings, of length 1.

        rows_R   int64 indices of the wanted tokens (for classes and embed: of the wanted documents). None: all of them
        """
        features: Tensor = self.head(self.hidden(tokens_N, segments, rows_R))
        return features

    def hidden(self, tokens_N: Tensor, segments: Segments, rows_R: Tensor | None = None) -> Tensor:
        """What the head is applied to, (R, D): the body's hidden states of the wanted tokens or documents."""
        if self.head.design.pool is not None:
            return pool(self.body, tokens_N, segments, self.head.design.pool, rows_R)
        hidden: Tensor = self.body(tokens_N, segments, rows_R)
        return hidden

    def project(self, features_RD: Tensor) -> Tensor:
        """Logits of features, (R, V) or (R, C)."""
        packed = self.packed_output
        logits = on_even_rows(self._logits, features_RD) if packed is None else packed(features_RD)
        cap = self.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _logits(self, features_RD: Tensor) -> Tensor:
        return F.linear(features_RD, *self.output)

    @property
    def logit_cap(self) -> float | None:
        """Next-token logits stay below this; None: as they come."""
        return self.config.logit_cap if self.head_name == "next" else None

    def logits(self, tokens_N: Tensor, segments: Segments, rows_R: Tensor | None = None) -> Tensor:
        """(R, V) per token for next and masked; (R, C) per token for tags; (R, C) per document for classes.

        For embed (R, D) per document: the text embeddings.
        """
        features = self.features(tokens_N, segments, rows_R)
        return features if self.head_name == "embed" else self.project(features)

    forward = logits


def pool(
    body: nn.Module, tokens_N: Tensor, segments: Segments, pooling: Pooling, rows_R: Tensor | None = None
) -> Tensor:
    """One hidden state per document, (R, D): of its first or last token, or the mean of all.

    rows_R   int64 indices of the wanted documents. None: all
    """
    if pooling == "mean":
        mean_SD = mean_pool(body(tokens_N, segments), segments)
        return mean_SD if rows_R is None else mean_SD[rows_R]
    where_S = segments.starts_S(tokens_N.device)
    if pooling == "last":
        where_S = where_S + torch.tensor(segments.lengths, device=tokens_N.device) - 1
    hidden: Tensor = body(tokens_N, segments, where_S if rows_R is None else where_S[rows_R])
    return hidden


def mean_pool(hidden_ND: Tensor, segments: Segments) -> Tensor:
    """The mean hidden state of each document, (S, D)."""
    segment_N = segments.segment_N(hidden_ND.device)
    lengths_S1 = torch.tensor(segments.lengths, device=hidden_ND.device)[:, None]
    sums_SD = hidden_ND.new_zeros(len(segments), hidden_ND.shape[1]).index_add(0, segment_N, hidden_ND)
    return sums_SD / lengths_S1


def with_head(
    model: Model, head: HeadName, n_classes: int = 0, *, config: ModelConfig | None = None, seed: int = 0
) -> Model:
    """A model with the same body weights (shared, not copied) and a new head; what the heads have in common is kept.

    config   other training settings such as dropout. None: the model's own
    """
    new = Model(replace(config or model.config, pooler=False, pooling=None), head, n_classes, seed=seed)
    new.body.load_state_dict(model.body.state_dict(), assign=True)
    ours, theirs = new.head, model.head
    if (ours.design.dense, ours.design.norm) == (theirs.design.dense, theirs.design.norm):
        # What the dense layer and norm learned for the other head is a better start than random weights.
        for mine, learned in ((ours.dense, theirs.dense), (ours.norm, theirs.norm)):
            if mine is not None and learned is not None:
                mine.load_state_dict(learned.state_dict())
    return new


@torch.no_grad()
def _start_body(body: Transformer, generator: torch.Generator, *, zero_init: bool) -> None:
    """Uniform input matrices and zero output matrices, so that every block starts as the identity.

    Without `zero_init` output matrices have the usual small spread (GPT-2): less, the more of them add up.
    """
    config = body.config

    def start_output(weight: Tensor) -> None:
        weight.zero_()
        if not zero_init:
            weight.normal_(0.0, TIED_STD * (2 * config.layers) ** -0.5, generator=generator)

    for module in body.modules():
        if isinstance(module, Attention):
            _uniform(module.qkv.weight, config.width**-0.5, generator)
            start_output(module.out.weight)
            for norm in (module.q_norm, module.k_norm):
                if isinstance(norm, Norm):
                    norm.weight.fill_(QK_SCALE - 1 if norm.offset else QK_SCALE)
        elif isinstance(module, GatedFeedForward | FeedForward):
            first = module.gate_up if isinstance(module, GatedFeedForward) else module.up
            _uniform(first.weight, FFN_SCALE * config.width**-0.5, generator)
            start_output(module.down.weight)
        elif isinstance(module, Experts):
            _uniform(module.router.weight, config.width**-0.5, generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
    for table in (body.positions, body.token_types):
        if table is not None:
            table.weight.normal_(0.0, TIED_STD, generator=generator)
    body.embedding.weight.normal_(0.0, TIED_STD if config.tied else EMBEDDING_STD, generator=generator)


@torch.no_grad()
def _start_head(model: Model, generator: torch.Generator) -> None:
    head = model.head
    if head.dense is not None:
        _uniform(head.dense.weight, model.config.width**-0.5, generator)
        if head.dense.bias is not None:
            head.dense.bias.zero_()
    if head.weight is not None:
        head.weight.normal_(0.0, OUTPUT_STD if head.name in ("next", "masked") else TIED_STD, generator=generator)


def _uniform(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """A uniform distribution with this standard deviation: its half-width is sqrt(3) times as large."""
    weight.uniform_(-(3**0.5) * std, 3**0.5 * std, generator=generator)


def stacked_parts(model: Model) -> dict[str, tuple[int, ...]]:
    """For each parameter that holds several matrices above each other: its name and their row counts.

    Optimisers that treat a matrix as a whole (Muon) should treat each part on its own.
    """
    return {f"{name}.weight": module.parts for name, module in model.named_modules() if isinstance(module, Stacked)}
