"""What config.json files of all families have in common: activations, rotary positions, sliding windows, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from wyrmling.core.log import warn
from wyrmling.model.design import FAMILIES, Activation, Design, FamilyName
from wyrmling.model.positions import Scaling, ScalingType, longrope_magnitude
from wyrmling.model.transformer import Local, ModelConfig

Raw = Mapping[str, Any]

ACTIVATION_NAMES: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
SCALING_NAMES = {"su": "longrope", "linear": "linear", "llama3": "llama3", "yarn": "yarn", "longrope": "longrope"}

ORIGINAL = "original_max_position_embeddings"
SCALING_KEYS: dict[ScalingType, tuple[str, ...]] = {
    "linear": ("rope_type", "factor"),
    "llama3": ("rope_type", "factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "yarn": (
        "rope_type", "factor", ORIGINAL, "beta_fast", "beta_slow", "truncate", "attention_factor", "mscale",
        "mscale_all_dim",
    ),
    "longrope": ("rope_type", "factor", ORIGINAL, "attention_factor", "short_factor", "long_factor"),
}  # fmt: skip


class Unsupported(Exception):
    """A setting of config.json whose arithmetic is not implemented; read_config adds the file's name."""

    def __init__(self, key: str, value: object) -> None:
        super().__init__(f"{key} = {value!r}")


def require(raw: Raw, **wanted: object) -> None:
    """Raise Unsupported when a key is there with another value."""
    for key, value in wanted.items():
        if key in raw and raw[key] != value:
            raise Unsupported(key, raw[key])


def first(raw: Raw, *keys: str) -> Any:
    """The value of the first of these keys that is there and not null. Raises KeyError with the first name."""
    for key in keys:
        if raw.get(key) is not None:
            return raw[key]
    raise KeyError(keys[0])


def activation(raw: Raw, key: str, default: str) -> Activation:
    name = raw.get(key) or default
    if name not in ACTIVATION_NAMES:
        raise Unsupported(key, name)
    return ACTIVATION_NAMES[name]


def activation_name(config: ModelConfig) -> str:
    """The name that config.json has for the model's activation."""
    name = config.switches.activation
    return "gelu_pytorch_tanh" if name == "gelu_tanh" else name


def designed(family: FamilyName, **switches: Any) -> Design | None:
    """The family's design with these switches; None when that is the family's own."""
    design = replace(FAMILIES[family], **switches)
    return None if design == FAMILIES[family] else design


def rope_settings(raw: Raw, *, theta: float = 10_000.0, fraction: float = 1.0) -> dict[str, Any]:
    """The fields of ModelConfig about rotary positions; the context, too, as longrope is kept within the original one.

    New files have everything in rope_parameters, older ones the base beside rope_scaling.
    """
    found = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    context = int(raw["max_position_embeddings"])
    base = found.get("rope_theta") or raw.get("rope_theta") or raw.get("rotary_emb_base") or theta
    share = found.get("partial_rotary_factor")
    for key in ("partial_rotary_factor", "rotary_pct"):
        share = raw.get(key) if share is None else share
    scaling = read_scaling(found, raw, context)
    if scaling is not None and scaling.rope_type == "longrope":
        if context > scaling.original_max_position_embeddings:
            warn(
                f"longrope beyond {scaling.original_max_position_embeddings:,} tokens is not implemented: "
                f"the context is that instead of {context:,}"
            )
        context = min(context, scaling.original_max_position_embeddings)
    return {
        "context": context,
        "rope_theta": float(base),
        "rope_fraction": float(fraction if share is None else share),
        "rope_scaling": scaling,
    }


def read_scaling(found: Raw, raw: Raw, context: int) -> Scaling | None:
    """The scaling that rope parameters ask for. Raises Unsupported for a type that is not implemented."""
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind == "default":
        return None
    if kind == "yarn" and found.get("short_factor"):
        kind = "longrope"
    if kind not in SCALING_NAMES:
        raise Unsupported("rope_type", kind)
    original = raw.get(ORIGINAL) or found.get(ORIGINAL) or context
    names = {f.name for f in fields(Scaling)}
    given = {key: value for key, value in found.items() if key in names and value is not None}
    for key in ("short_factor", "long_factor"):
        given[key] = tuple(given.get(key, ()))
    given |= {"rope_type": SCALING_NAMES[kind], ORIGINAL: original}
    scaling = Scaling(**({"factor": context / original} | given))
    if scaling.rope_type == "longrope":
        # Spelled out, because readers derive it from max_position_embeddings, which we shorten.
        scaling = replace(scaling, attention_factor=longrope_magnitude(scaling))
    return scaling


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """Rotary positions under the names of new and of older readers."""
    scaling: dict[str, Any] = {}
    if config.rope_scaling is not None:
        default = Scaling("linear", 1.0)
        scaling = {
            f.name: value
            for f in fields(Scaling)
            if (value := getattr(config.rope_scaling, f.name)) != getattr(default, f.name)
            or f.name in ("rope_type", "factor")
        }
        if config.rope_scaling.rope_type == "longrope":
            scaling["attention_factor"] = longrope_magnitude(config.rope_scaling)
            scaling |= {key: list(scaling[key]) for key in ("short_factor", "long_factor")}
        if config.rope_scaling.rope_type == "llama3":
            scaling |= {
                "low_freq_factor": config.rope_scaling.low_freq_factor,
                "high_freq_factor": config.rope_scaling.high_freq_factor,
            }
    parameters = {"rope_type": "default", "rope_theta": config.rope_theta} | scaling
    if config.rope_fraction != 1.0:
        parameters["partial_rotary_factor"] = config.rope_fraction
    return {"rope_parameters": parameters, "rope_theta": config.rope_theta, "rope_scaling": scaling or None}


def local(window: int | None, layers: tuple[bool, ...], theta: float | None = None) -> Local | None:
    """Sliding layers of a decoder; a file counts a token itself as part of its window."""
    return Local(window - 1, layers, theta) if window and any(layers) else None


def sliding(raw: Raw, otherwise: list[bool]) -> tuple[bool, ...]:
    """Which layers slide: as layer_types says, or else as given."""
    kinds = raw.get("layer_types")
    return tuple(kind == "sliding_attention" for kind in kinds) if kinds else tuple(otherwise)


def layer_types(config: ModelConfig) -> list[str]:
    return ["sliding_attention" if config.is_local(i) else "full_attention" for i in range(config.layers)]
