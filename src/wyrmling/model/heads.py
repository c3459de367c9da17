"""A model: the transformer body and a head that turns hidden states into answers.

Every head ends in one matrix. `features` gives what goes into it, for the wanted rows only, so that tokens nobody asks
about never reach the vocabulary; `output` gives the matrix, for losses that work through it in chunks.

Letters: N tokens, S documents, R wanted rows, D width, V vocabulary, C classes or tags.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wyrmling.core.errors import BadSetting
from wyrmling.model.attention import Segments
from wyrmling.model.transformer import Attention, FeedForward, ModelConfig, Norm, Stacked, Transformer

HeadName = Literal["next", "masked", "classes", "tags"]

# Spread of the token embedding and of an untied output matrix at the start, and of an embedding that is both.
# Sources: nanochat's base_train for untied; for tied, the customary 0.02 (GPT-2, ModernBERT).
EMBEDDING_STD, OUTPUT_STD, TIED_STD = 0.8, 0.001, 0.02
# Relative spread of the first feed-forward matrix (nanochat), and the sharpening of normed queries and keys.
FFN_SCALE, QK_SCALE = 0.4, 1.2


class Output(NamedTuple):
    """The last matrix of a model and its bias: logits = features @ weight.T + bias."""

    weight_VD: Tensor
    bias_V: Tensor | None


class NextToken(nn.Module):
    """The token after each token. The matrix is the body's embedding when tied."""

    name: HeadName = "next"

    def __init__(self, config: ModelConfig, n_out: int) -> None:
        super().__init__()
        self.weight = None if config.tied else nn.Parameter(torch.empty(n_out, config.width))
        self.bias = None

    def forward(self, hidden_RD: Tensor) -> Tensor:
        return hidden_RD


class Prediction(nn.Module):
    """A dense layer with GELU and a norm before the matrix, as in ModernBERT, for masked tokens, classes and tags."""

    def __init__(self, config: ModelConfig, n_out: int, name: HeadName) -> None:
        super().__init__()
        self.name = name
        self.dense = nn.Linear(config.width, config.width, bias=False)
        self.norm = Norm(config.width, config)
        tied = name == "masked" and config.tied
        self.weight = None if tied else nn.Parameter(torch.empty(n_out, config.width))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.dropout = config.dropout if name != "masked" else 0.0

    def forward(self, hidden_RD: Tensor) -> Tensor:
        out_RD: Tensor = self.norm(F.gelu(self.dense(hidden_RD)))
        return F.dropout(out_RD, self.dropout) if self.training and self.dropout else out_RD


class Model(nn.Module):
    """A transformer with one head, ready after construction.

    head       next | masked | classes | tags
    n_classes  classes or tags; not used by the two token heads
    seed       of the starting weights. None leaves them as allocated, for weights that are loaded next
    Raises     BadSetting when the family and the head do not fit
    """

    def __init__(self, config: ModelConfig, head: HeadName, n_classes: int = 0, *, seed: int | None = 0) -> None:
        super().__init__()
        if config.causal != (head == "next"):
            raise BadSetting(
                f"a {config.family} model can't have the head {head!r}",
                fix="decoders (qwen3, llama) predict the next token; encoders (modernbert) predict masked tokens, "
                "classes and tags",
            )
        if head in ("classes", "tags") and n_classes < 2:
            raise BadSetting(f"the head {head!r} needs at least 2 classes, not {n_classes}")
        self.config = config
        self.body = Transformer(config)
        n_out = config.vocab_size if head in ("next", "masked") else n_classes
        self.head = NextToken(config, n_out) if head == "next" else Prediction(config, n_out, head)
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            _start_body(self.body, generator)
            _start_head(self, generator)

    @property
    def head_name(self) -> HeadName:
        return self.head.name

    @property
    def n_out(self) -> int:
        """Logits per row: embedding rows, classes or tags."""
        return len(self.output.weight_VD)

    @property
    def output(self) -> Output:
        weight = self.body.embedding.weight if self.head.weight is None else self.head.weight
        return Output(weight, self.head.bias)

    def features(self, tokens_N: Tensor, segments: Segments, rows_R: Tensor | None = None) -> Tensor:
        """What the output matrix is applied to, (R, D).

        rows_R   int64 indices of the wanted tokens (for classes: of the wanted documents). None: all of them
        """
        if self.head_name == "classes":
            hidden = mean_pool(self.body(tokens_N, segments), segments)
            hidden = hidden if rows_R is None else hidden[rows_R]
        else:
            hidden = self.body(tokens_N, segments, rows_R)
        features: Tensor = self.head(hidden)
        return features

    def logits(self, tokens_N: Tensor, segments: Segments, rows_R: Tensor | None = None) -> Tensor:
        """(R, V) per token for next and masked; (R, C) per token for tags; (R, C) per document for classes."""
        return F.linear(self.features(tokens_N, segments, rows_R), *self.output)

    forward = logits


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
    new = Model(config or model.config, head, n_classes, seed=seed)
    new.body.load_state_dict(model.body.state_dict(), assign=True)
    if isinstance(new.head, Prediction) and isinstance(model.head, Prediction):
        # The dense layer and norm learned for masked tokens are a better start than random ones.
        new.head.dense.load_state_dict(model.head.dense.state_dict())
        new.head.norm.load_state_dict(model.head.norm.state_dict())
    return new


@torch.no_grad()
def _start_body(body: Transformer, generator: torch.Generator) -> None:
    """Uniform input matrices, zero output matrices: every block starts as the identity."""
    config = body.config
    for module in body.modules():
        if isinstance(module, Attention):
            _uniform(module.qkv.weight, config.width**-0.5, generator)
            module.out.weight.zero_()
            for norm in (module.q_norm, module.k_norm):
                if isinstance(norm, Norm):
                    norm.weight.fill_(QK_SCALE)
        elif isinstance(module, FeedForward):
            _uniform(module.gate_up.weight, FFN_SCALE * config.width**-0.5, generator)
            module.down.weight.zero_()
    body.embedding.weight.normal_(0.0, TIED_STD if config.tied else EMBEDDING_STD, generator=generator)


@torch.no_grad()
def _start_head(model: Model, generator: torch.Generator) -> None:
    head = model.head
    if isinstance(head, Prediction):
        _uniform(head.dense.weight, model.config.width**-0.5, generator)
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
