"""Models of kinds that wyrmling does not know, run through `transformers` behind the interface of `heads.Model`.

Everything works that needs features and logits: training of all weights or of the head, evaluating, answering. It is
slower: documents of different lengths are computed one after the other, and so are answers. No remote code, no pickles.

Letters: N tokens, S documents, R wanted rows, D width, B documents of equal length, T their tokens.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from wyrmling.core.errors import BadInput, BadSetting, UsageError
from wyrmling.core.log import say
from wyrmling.model.attention import Segments
from wyrmling.model.design import FAMILIES, Design, FamilyName
from wyrmling.model.heads import HeadDesign, HeadName, Model, Output
from wyrmling.model.tensor_files import read_folder
from wyrmling.model.transformer import ModelConfig

# The loaders of transformers, and the ends of the class names that they make.
LOADERS: dict[HeadName, tuple[str, tuple[str, ...]]] = {
    "next": ("AutoModelForCausalLM", ("ForCausalLM", "LMHeadModel")),
    "masked": ("AutoModelForMaskedLM", ("ForMaskedLM",)),
    "classes": ("AutoModelForSequenceClassification", ("ForSequenceClassification",)),
    "tags": ("AutoModelForTokenClassification", ("ForTokenClassification",)),
}
# Its own output layer must give the network's logits; float32 rounding stays far below.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class ForeignConfig(ModelConfig):
    """The sizes of a network that transformers computes; what else shapes it is in its own settings."""

    decoder: bool = True

    def __post_init__(self) -> None:
        """Nothing has to fit together here: transformers knows what does."""

    @property
    def causal(self) -> bool:
        return self.decoder

    @property
    def switches(self) -> Design:
        """Of a plain transformer: only forecasts ask, and that is their assumption."""
        return FAMILIES["gpt2" if self.decoder else "bert"]


class ForeignBody(nn.Module):
    """The network up to its last matrix."""

    def __init__(self, network: nn.Module, *, per_document: bool) -> None:
        super().__init__()
        self.network = network
        self._per_document = per_document

    @property
    def embedding(self) -> nn.Embedding:
        found: nn.Embedding = cast(Any, self.network).get_input_embeddings()
        return found

    def forward(self, tokens_N: Tensor, segments: Segments, rows_R: Tensor | None = None) -> Tensor:
        """What the output matrix is applied to, (R, D): of tokens, or of documents for a classifier.

        Documents of equal length are computed together, so there is no padding to leave out.
        """
        starts = segments.starts_S().tolist()
        by_length: dict[int, list[int]] = {}
        for document, length in enumerate(segments.lengths):
            by_length.setdefault(length, []).append(document)
        wheres, founds = [], []
        for length, documents in by_length.items():
            place_BT = torch.tensor([starts[i] for i in documents])[:, None] + torch.arange(length)
            place_BT = place_BT.to(tokens_N.device)
            found = self._compute(tokens_N[place_BT])
            founds.append(found if self._per_document else found.flatten(0, 1))
            wheres.append(torch.tensor(documents, device=tokens_N.device) if self._per_document else place_BT.flatten())
        order = torch.cat(wheres).argsort()
        features = torch.cat(founds)[order]
        return features if rows_R is None else features[rows_R]

    def _compute(self, tokens_BT: Tensor) -> Tensor:
        out = self.network(tokens_BT, attention_mask=torch.ones_like(tokens_BT), **self._without_cache)
        features: Tensor = out.logits
        return features

    @property
    def _without_cache(self) -> dict[str, bool]:
        return {} if self._per_document or not hasattr(self.network.config, "use_cache") else {"use_cache": False}


class Passing(nn.Module):
    """Stands where the last matrix was, and passes on what would have gone into it."""

    def __init__(self, last: nn.Linear) -> None:
        super().__init__()
        self._last = [last]  # In a list: not a submodule.

    @property
    def weight(self) -> Tensor:
        """Some networks look at the type of their last matrix."""
        return self._last[0].weight

    def forward(self, features: Tensor) -> Tensor:
        return features


class ForeignHead(nn.Module):
    """The network's last matrix, unless that is its embedding; and its bias."""

    def __init__(self, name: HeadName, last: nn.Linear, network: nn.Module) -> None:
        super().__init__()
        self.name, self.design = name, HeadDesign()
        shared = {id(parameter) for parameter in network.parameters()}
        self.weight = None if id(last.weight) in shared else last.weight
        # The bias of a language model's head may be a parameter of the network under another name.
        self.bias = None if last.bias is None or id(last.bias) in shared else last.bias


class Foreign(Model):
    """A network of transformers with its last matrix taken out. Made by `load` and `with_head`."""

    def __init__(self, config: ForeignConfig, head: HeadName, network: nn.Module) -> None:
        nn.Module.__init__(self)
        self.config = config
        tokens_1T = torch.arange(min(8, config.vocab_size))[None]
        network.eval()
        with torch.no_grad():
            expected = network(tokens_1T).logits
            self._path, last = _last_matrix(network, expected.shape[-1])
            _replace(network, self._path, Passing(last))
            features = network(tokens_1T).logits
        if features.shape[-1] != last.in_features or not torch.allclose(
            last(features), expected, rtol=TOLERANCE, atol=TOLERANCE
        ):
            raise BadInput(
                f"the output layer of {type(network).__name__} is more than one matrix, so it can't be used here",
                fix="use a model of another kind",
            )
        self._last = [last]  # In a list: not a submodule, its parameters are those of head and body.
        self.body = ForeignBody(network, per_document=head == "classes")  # type: ignore[assignment]
        self.head = ForeignHead(head, last, network)  # type: ignore[assignment]
        self.packed_output = None

    @property
    def output(self) -> Output:
        return Output(self._last[0].weight, self._last[0].bias)

    @property
    def logit_cap(self) -> float | None:
        return None

    def features(self, tokens_N: Tensor, segments: Segments, rows_R: Tensor | None = None) -> Tensor:
        features: Tensor = self.body(tokens_N, segments, rows_R)
        return features

    hidden = features

    def with_head(self, head: HeadName, n_classes: int, *, seed: int) -> Foreign:
        """The same network with a new head of its own kind."""
        network = _network(self.body)
        settings = type(network.config).from_dict(network.config.to_dict() | {"num_labels": max(n_classes, 2)})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            new = _class(head, settings)(settings)
        _base(new).load_state_dict(_base(network).state_dict())
        return Foreign(cast(ForeignConfig, self.config), head, new.float())

    def with_dropout(self, dropout: float) -> Foreign:
        """This model with another share of dropped values, wherever the network drops any."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        return self

    def cache(self) -> ForeignCache:
        return ForeignCache(self)

    def files(self, labels: Sequence[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """config.json and the tensors, as transformers writes them. labels: names of classes or tags, by index."""
        from wyrmling.model.json_files import read_json

        network = _network(self.body)
        if labels:
            network.config.id2label = dict(enumerate(labels))
            network.config.label2id = {label: i for i, label in enumerate(labels)}
        _replace(network, self._path, self._last[0])
        try:
            with tempfile.TemporaryDirectory() as folder:
                network.save_pretrained(folder, max_shard_size="1000GB")
                raw, tensors = read_json(Path(folder) / "config.json"), read_folder(Path(folder))
        finally:
            _replace(network, self._path, Passing(self._last[0]))
        return raw, tensors


class ForeignCache:
    """What the network has read of each answer in the making, one answer at a time; or, without a cache of the
    network's own, the tokens themselves."""

    def __init__(self, model: Foreign) -> None:
        self._model = model
        self._ids: list[list[int]] = []
        self._past: list[Any] = []

    def take_in(self, first_slot: int, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V) after new prompts, which get the slots from `first_slot` on."""
        del self._ids[first_slot:], self._past[first_slot:]
        self._ids += [[] for _ in prompts]
        self._past += [None] * len(prompts)
        return torch.stack([self._read(first_slot + i, list(prompt)) for i, prompt in enumerate(prompts)])

    def after(self, ids: Sequence[int]) -> Tensor:
        """Logits (B, V) after one more token of the answer in each slot."""
        return torch.stack([self._read(slot, [id]) for slot, id in enumerate(ids)])

    def move(self, source: int, target: int) -> None:
        """Give the sequence in slot `source` the slot `target`."""
        self._ids[target], self._past[target] = self._ids[source], self._past[source]

    def _read(self, slot: int, new: list[int]) -> Tensor:
        self._ids[slot] += new
        past, model = self._past[slot], self._model
        device = model.output.weight_VD.device
        given = torch.tensor([new if past is not None else self._ids[slot]], device=device)
        whole = torch.ones(1, len(self._ids[slot]), dtype=torch.int64, device=device)
        out = _network(model.body)(given, attention_mask=whole, past_key_values=past, use_cache=True)
        self._past[slot] = getattr(out, "past_key_values", None)
        return model.project(out.logits[0, -1])


def describe(folder: Path, raw: Mapping[str, Any]) -> ForeignConfig:
    """The sizes that a config.json means to transformers.

    Raises   UsageError without transformers; BadInput for remote code and for kinds that can't be used
    """
    return _described(folder, raw)[0]


def load(folder: Path, raw: Mapping[str, Any]) -> Foreign:
    """The model in a folder, float32, on the CPU. Says that it is slower.

    Raises   as `describe`; BadInput naming tensors that are missing or left over; CorruptArtifact for broken files
    """
    config, head, settings = _described(folder, raw)
    tensors = read_folder(folder)
    network, found = _class(head, settings).from_pretrained(
        None,
        config=settings,
        state_dict=tensors,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )
    shapes = [
        f"{name} has shape {list(is_)}, config.json wants {list(want)}" for name, is_, want in found["mismatched_keys"]
    ]
    wrong = [f"{what} tensor {name}" for what in ("missing", "unexpected") for name in found[f"{what}_keys"]]
    if problems := sorted([*shapes, *wrong]):
        raise BadInput(
            "; ".join(problems[:5]) + (f" and {len(problems) - 5} more" if len(problems) > 5 else ""),
            where=folder,
            fix="the weights and config.json are of different models; get the model folder again from its origin",
        )
    say(
        f"{type(network).__name__} is not one of wyrmling's own kinds: transformers computes it. That is slower: texts "
        "of different lengths are computed one after the other, and so are answers"
    )
    return Foreign(config, head, network)


def _described(folder: Path, raw: Mapping[str, Any]) -> tuple[ForeignConfig, HeadName, Any]:
    if "auto_map" in raw:
        raise BadInput(
            "config.json has auto_map: the model needs its own Python code, which is never run",
            where=folder,
            fix="use a model that transformers knows without trust_remote_code",
        )
    architecture = str((raw.get("architectures") or [""])[0])
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(
            f"{architecture or raw.get('model_type')} is not one of wyrmling's own kinds; it needs an extra",
            where=folder,
            fix='pip install "wyrmling[hf]"',
        )
    head = next((name for name, (_, ends) in LOADERS.items() if architecture.endswith(ends)), None)
    settings = _settings(folder)
    if head is None or settings is None or getattr(settings, "is_encoder_decoder", False):
        raise BadInput(
            f"model_type {raw.get('model_type')!r} with architectures {raw.get('architectures')} is not supported",
            where=folder,
            fix="use a decoder (…ForCausalLM) or an encoder (…ForMaskedLM, …ForSequenceClassification, "
            "…ForTokenClassification) that transformers knows",
        )
    return _config(settings, decoder=head == "next"), head, settings


def _settings(folder: Path) -> Any:
    """The folder's settings as transformers reads them; None for a kind that it does not know."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError):
        return None


def _config(settings: Any, *, decoder: bool) -> ForeignConfig:
    """The sizes, by the names that most settings have; a size that is not among them is only used for forecasts."""
    width = settings.hidden_size
    heads = getattr(settings, "num_attention_heads", None) or 1
    return ForeignConfig(
        family=cast(FamilyName, settings.model_type),
        vocab_size=settings.vocab_size,
        width=width,
        layers=settings.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(settings, "num_key_value_heads", None) or heads,
        head_dim=getattr(settings, "head_dim", None) or width // heads,
        ffn=getattr(settings, "intermediate_size", None) or getattr(settings, "ffn_dim", None) or 4 * width,
        context=getattr(settings, "max_position_embeddings", None) or 2048,
        tied=bool(getattr(settings, "tie_word_embeddings", False)),
        design=Design(causal=decoder),
        decoder=decoder,
    )


def _class(head: HeadName, settings: Any) -> Any:
    """The class of transformers for these settings and this head. Raises BadSetting when there is none."""
    import transformers

    voice: Any = transformers.utils.logging
    voice.set_verbosity_error()
    voice.disable_progress_bar()
    classes = getattr(transformers, LOADERS[head][0])._model_mapping if head in LOADERS else {}
    if type(settings) not in classes:
        raise BadSetting(
            f"transformers has no {settings.model_type} model with the head {head!r}",
            fix="use an objective that fits the base: causal or sft for decoders, masked for encoders",
        )
    found = classes[type(settings)]
    return found[0] if isinstance(found, tuple) else found


def _last_matrix(network: nn.Module, n_out: int) -> tuple[str, nn.Linear]:
    """Where the network's last matrix is, by name; it has as many rows as there are logits."""
    found = [(path, m) for path, m in network.named_modules() if isinstance(m, nn.Linear) and m.out_features == n_out]
    if not found:
        raise BadInput(f"{type(network).__name__} has no output matrix", fix="use a model of another kind")
    return found[-1]


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _network(body: nn.Module) -> Any:
    return body.network


def _base(network: Any) -> nn.Module:
    """The part that models of one kind have in common, whatever their head."""
    base: nn.Module = network.base_model
    return base
