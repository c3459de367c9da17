"""LoRA here and in peft on the same random Llama, and the methods of training beside each other.

    python benchmarks/lora.py [--rounds 5]

peft      6 layers of width 256, 8 documents of 256 tokens, rank 16 on all linear layers, float32: forward and backward
          of a next-token step, with and without DoRA and dropout. Speeds are taken in turns; read the ratio.
methods   an encoder of the same size with 77 labels, 256 short texts: forward and backward by method.

"kept" is what the forward pass holds for the backward pass, beside parameters, counted by hooks: it does not depend on
how busy the machine is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import peft
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from wyrmling.config import TrainStep
from wyrmling.model.adapter import Adapters, Design
from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig
from wyrmling.train import trainable
from wyrmling.train.features import Probe

VOCAB, WIDTH, LAYERS, HEADS, FFN, RANK = 2048, 256, 6, 4, 688, 16
DOCUMENTS, LENGTH = 8, 256
Loss = Callable[[], torch.Tensor]


def seconds(loss: Loss) -> float:
    started = time.perf_counter()
    loss().backward()
    return time.perf_counter() - started


def kept_mb(loss: Loss, model: torch.nn.Module) -> float:
    """Megabytes that one forward pass keeps, each storage once, parameters and buffers left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = loss()
    del kept
    return sum(found.values()) / 1e6


def llama() -> Model:
    return Model(ModelConfig("llama", VOCAB, WIDTH, LAYERS, HEADS, HEADS, WIDTH // HEADS, FFN, 512), "next")


def peer(**settings: Any) -> peft.PeftModel:
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            intermediate_size=FFN, max_position_embeddings=512, attn_implementation="sdpa",
        )
    )  # fmt: skip
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, use_rslora=True, target_modules="all-linear", **settings)
    return peft.get_peft_model(base, config).train()


def beside_peft(rounds: int) -> None:
    batch = torch.randint(0, VOCAB, (DOCUMENTS, LENGTH))
    flat = batch.flatten()
    rows = torch.arange(len(flat)).view(DOCUMENTS, LENGTH)[:, :-1].flatten()
    print("| adapter | wyrmling, tokens/s | peft, tokens/s | ratio | kept, wyrmling | kept, peft |")
    print("|---|---|---|---|---|---|")
    for name, dora, dropout in (("LoRA", False, 0.0), ("LoRA, dropout 0.05", False, 0.05), ("DoRA", True, 0.0)):
        model, other = llama().train(), peer(use_dora=dora, lora_dropout=dropout)
        Adapters(model).add("a", Design(rank=RANK, alpha=RANK, dora=dora, dropout=dropout), seed=0, head=False)

        def ours(model: Model = model) -> torch.Tensor:
            return F.cross_entropy(model.logits(flat, Segments([LENGTH] * DOCUMENTS), rows), flat[rows + 1])

        def theirs(other: peft.PeftModel = other) -> torch.Tensor:
            loss: torch.Tensor = other(input_ids=batch, labels=batch).loss
            return loss

        seconds(ours), seconds(theirs)
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
        speed = [DOCUMENTS * LENGTH / statistics.median(pair[i] for pair in pairs) for i in (0, 1)]
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        kept = f"{kept_mb(ours, model):,.0f} MB | {kept_mb(theirs, other):,.0f} MB"
        print(f"| {name} | {speed[0]:,.0f} | {speed[1]:,.0f} | {ratio:.2f} | {kept} |")


def methods(rounds: int) -> None:
    lengths = [8 + index % 16 for index in range(256)]
    tokens, segments = torch.randint(0, VOCAB, (sum(lengths),)), Segments(lengths)
    labels = torch.randint(0, 77, (len(lengths),))
    print("\n| method | weights that move | texts/s | kept |\n|---|---|---|---|")
    asked: dict[str, Mapping[str, Any]] = {"full": {}, "freeze": {"layers": 2}, "probe": {}, "lora": {}, "qlora": {}}
    for method, settings in asked.items():
        config = ModelConfig("modernbert", VOCAB, WIDTH, LAYERS, HEADS, HEADS, WIDTH // HEADS, FFN, 64, tied=True)
        model = Model(config, "classes", 77).train()
        raw = {"name": "s", "objective": "classify", "method": method} | ({method: settings} if settings else {})
        trainable.prepare(model, TrainStep.model_validate(raw), seed=0, dtype="float32")
        places = tokens
        if method == "probe":
            with torch.no_grad():
                model = Probe(model, model.hidden(tokens, segments))
            places = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))

        def loss(model: Model = model, places: torch.Tensor = places) -> torch.Tensor:
            return F.cross_entropy(model.logits(places, segments), labels)

        seconds(loss)
        rate = len(lengths) / statistics.median(seconds(loss) for _ in range(rounds))
        moved = sum(value.numel() for value in trainable.state(model).values())
        print(f"| {method} | {moved:,} | {rate:,.0f} | {kept_mb(loss, model):,.1f} MB |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, peft {peft.__version__}, {torch.get_num_threads()} threads\n")
    beside_peft(options.rounds)
    methods(options.rounds)


if __name__ == "__main__":
    main()
