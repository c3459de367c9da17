"""Training speed of the model code beside `transformers`, same architecture, same sizes, same rows, in one process.

    python benchmarks/throughput.py [--rounds 5]

encoder  ModernBERT shape, short messages of the support-desk example (about 13 tokens): forward and backward of a
         masked-word step. transformers gets each batch padded to its longest row, as its collator does.
decoder  Qwen3 shape, 8 documents of 256 tokens: forward and backward of a next-token step.

Prints real tokens (no padding counted) per second for both and the median of the ratios, taken round by round.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import ModernBertConfig, ModernBertForMaskedLM, Qwen3Config, Qwen3ForCausalLM

from wyrmling.model.attention import Segments
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig

EXAMPLE = Path(__file__).parent.parent / "examples" / "support-desk" / "data" / "train.csv"
VOCAB, WIDTH, LAYERS, HEADS, FFN = 2304, 192, 4, 3, 512


def seconds(step: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    step().backward()
    return time.perf_counter() - started


def compare(
    name: str, tokens: int, ours: Callable[[], torch.Tensor], theirs: Callable[[], torch.Tensor], n: int
) -> None:
    for step in (ours, theirs):
        seconds(step)
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(n)]
    speed = [tokens / statistics.median(p[i] for p in pairs) for i in (0, 1)]
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    print(
        f"{name:<8} wyrmling {speed[0]:>8,.0f} tokens/s   transformers {speed[1]:>8,.0f} tokens/s   ratio {ratio:.2f}"
    )


def encoder(rounds: int) -> None:
    with EXAMPLE.open(newline="", encoding="utf-8") as handle:
        lengths = [max(3, len(row["text"]) // 4) for row in csv.DictReader(handle)][:300]
    torch.manual_seed(0)
    rows = [torch.randint(0, VOCAB, (n,)) for n in lengths]
    flat, learned = torch.cat(rows), torch.rand(sum(lengths)) < 0.3
    model = Model(ModelConfig("modernbert", VOCAB, WIDTH, LAYERS, HEADS, HEADS, WIDTH // HEADS, FFN, 512), "masked")
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(n, dtype=torch.long) for n in lengths], batch_first=True)
    targets = torch.nn.utils.rnn.pad_sequence(
        [torch.where(keep, row, -100) for row, keep in zip(rows, learned.split(lengths), strict=True)], True, -100
    )
    peer = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            intermediate_size=FFN,
            max_position_embeddings=512, global_attn_every_n_layers=1,
            pad_token_id=0, bos_token_id=1, eos_token_id=1, cls_token_id=1, sep_token_id=1, attn_implementation="sdpa",
        )
    )  # fmt: skip
    index = learned.nonzero().squeeze(1)

    def ours() -> torch.Tensor:
        return F.cross_entropy(model.logits(flat, Segments(lengths), index), flat[index])

    compare("encoder", sum(lengths), ours, lambda: peer(padded, attention_mask=mask, labels=targets).loss, rounds)


def decoder(rounds: int) -> None:
    count, length = 8, 256
    torch.manual_seed(0)
    batch = torch.randint(0, VOCAB, (count, length))
    model = Model(ModelConfig("qwen3", VOCAB, WIDTH, LAYERS, HEADS, HEADS, WIDTH // HEADS, FFN, 512), "next")
    peer = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            intermediate_size=FFN,
            num_key_value_heads=HEADS, head_dim=WIDTH // HEADS, max_position_embeddings=512, attn_implementation="sdpa",
        )
    )  # fmt: skip
    flat = batch.flatten()
    rows = torch.arange(len(flat)).view(count, length)[:, :-1].flatten()

    def ours() -> torch.Tensor:
        return F.cross_entropy(model.logits(flat, Segments([length] * count), rows), flat[rows + 1])

    compare("decoder", count * length, ours, lambda: peer(batch, labels=batch).loss, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {LAYERS} layers of width {WIDTH}")
    encoder(options.rounds)
    decoder(options.rounds)


if __name__ == "__main__":
    main()
