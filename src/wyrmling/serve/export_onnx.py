"""A model as an ONNX graph of its forward pass, for onnxruntime and what is built on it. Needs the extra [onnx].

Inputs and outputs have the names and shapes that other exporters use: input_ids and attention_mask, both (batch,
tokens) int64 with padding at the end, to logits (batch, tokens, vocabulary or tags), or (batch, labels) for a
classifier, or embeddings (batch, width). Keys and values are not kept between calls: a graph for scoring, labelling and
embedding; generate with GGUF.

Letters: B batch, T tokens, D width.
"""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wyrmling.core.errors import BadInput, UsageError
from wyrmling.model.attention import Masks, Rule, attention
from wyrmling.model.heads import Model
from wyrmling.model.transformer import Transformer

INPUTS = ("input_ids", "attention_mask")


class Padded(nn.Module):
    """A model behind the interface of a graph: a rectangle of padded texts."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits or embeddings of each text, or of each of its tokens."""
        model, (batch, length) = self.model, input_ids.shape
        place_T = torch.arange(length)
        keep_BT = attention_mask.bool()
        masks = Masks(place_T.expand(batch, length), place_T, keep_BT)

        def attend(_layer: int, rule: Rule, q_PHK: Tensor, k_PGK: Tensor, v_PGK: Tensor) -> Tensor:
            q, k, v = (x.view(batch, length, *x.shape[1:]).transpose(1, 2) for x in (q_PHK, k_PGK, v_PGK))
            out = attention(rule, q, k, v, masks.of(rule, q.shape[1], q.dtype))
            return out.transpose(1, 2).flatten(0, 1)

        x_PD = model.body.layers(input_ids.flatten(), place_T.repeat(batch), attend)
        x_BTD = model.body.final_norm(x_PD).view(batch, length, -1)
        features = model.head(_pooled(x_BTD, keep_BT, model.head.design.pool))
        return features if model.head_name == "embed" else model.project(features)


def _pooled(x_BTD: Tensor, keep_BT: Tensor, how: str | None) -> Tensor:
    """What the head is applied to: every token, or what stands for the text."""
    if how is None:
        return x_BTD
    if how == "first":
        return x_BTD[:, 0]
    counts_B1 = keep_BT.sum(1, keepdim=True)
    if how == "mean":
        return (x_BTD * keep_BT[..., None]).sum(1) / counts_B1
    return x_BTD.gather(1, (counts_B1 - 1)[..., None].expand(-1, -1, x_BTD.shape[-1])).squeeze(1)


def write(model: Model, file: Path, quantize: str | None) -> None:
    """Write the graph.

    quantize   None: float32; int8-dynamic: weights and inputs of the matrix products in int8
    Raises     UsageError for another quantisation; BadInput for a model that is not native here
    """
    if quantize not in (None, "int8-dynamic"):
        raise UsageError(
            f"there is no ONNX graph with --quantize {quantize}", fix="choose int8-dynamic, or leave it out"
        )
    if not isinstance(model.body, Transformer):
        raise BadInput(
            "a model that runs through transformers is not written as a graph here",
            fix="use transformers' own exporter, optimum-cli export onnx",
        )
    onnxruntime = library()
    # Two of each: a size of one would be taken for a constant. onnxruntime optimises the graph when it reads it.
    example = (torch.ones(2, 2, dtype=torch.int64), torch.ones(2, 2, dtype=torch.int64))
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=model.config.context)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Padded(model.eval()), example, input_names=INPUTS, output_names=[_output(model)], dynamo=True,
            dynamic_shapes=dict.fromkeys(INPUTS, free), verbose=False, optimize=False,
        )  # fmt: skip
        assert program is not None
        program.save(file, external_data=False)
    if quantize is not None:
        whole = file.with_suffix(".whole")
        file.rename(whole)
        onnxruntime.quantization.quantize_dynamic(whole, file, weight_type=onnxruntime.quantization.QuantType.QInt8)
        whole.unlink()


class Graph:
    """A written graph in onnxruntime."""

    def __init__(self, file: Path) -> None:
        self._session = library().InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def answer(self, ids: list[int]) -> Tensor:
        """What it says to one text: (T, V), or (1, C) for a classifier."""
        tokens = torch.tensor([ids]).numpy()
        given: Any = self._session.run(None, {INPUTS[0]: tokens, INPUTS[1]: tokens * 0 + 1})[0]
        found = torch.from_numpy(given)
        return found[0] if found.dim() == 3 else found


def library() -> Any:
    """onnxruntime, with what torch needs to write graphs. Raises UsageError naming the extra when one is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxruntime.quantization
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"ONNX needs the package {error.name}", fix='pip install "wyrmling[onnx]"') from error
    return onnxruntime


def _output(model: Model) -> str:
    return "embeddings" if model.head_name == "embed" else "logits"
