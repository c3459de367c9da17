"""Decoding speed of quantised models beside float32 and `transformers`.

    python benchmarks/quantize.py [--tokens 32] [--prompt 128] [--batch 1 8] [--layers 30] [--rounds 3]

The model is random, in the shape of SmolLM2-135M: 30 layers of width 576, 9 heads and 3 key/value heads of width 64,
feed-forward width 1,536, vocabulary 49,152, tied; greedy. Tokens per second count the decoding of
`--tokens` tokens over the batch, without the prompt: the time of a run with them less that of a run with one token.
One thread and its processor time, so that other programs on the machine disturb little. Ways alternate, round by round;
medians are printed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import transformers

from wyrmling.model.generate import generate
from wyrmling.model.heads import Model
from wyrmling.model.quantize import METHODS, quantize
from wyrmling.model.sampling import Sampling
from wyrmling.model.transformer import ModelConfig

WIDTH, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB, CONTEXT = 576, 9, 3, 64, 1536, 49152, 2048


def ours(layers: int) -> Model:
    config = ModelConfig("llama", VOCAB, WIDTH, layers, HEADS, KV_HEADS, HEAD_DIM, FFN, CONTEXT, tied=True)
    model = Model(config, "next", seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.02, generator=generator)
    return model.eval()


def theirs(layers: int) -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, intermediate_size=FFN, max_position_embeddings=CONTEXT,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def decode_seconds(answer: Callable[[int], None], tokens: int) -> float:
    """Seconds of the processor for `tokens` tokens after the first."""
    times = []
    for count in (1, tokens + 1):
        started = time.process_time()
        answer(count)
        times.append(time.process_time() - started)
    return times[1] - times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["transformers", "float32", *METHODS])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    judge, plain = theirs(asked.layers), ours(asked.layers)
    models = {"float32": plain}
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    for method in METHODS:
        if method in asked.ways:
            models[method] = copy.deepcopy(plain)
            print(method, quantize(models[method], method))
    for batch in asked.batch:
        prompts_BT = torch.randint(0, VOCAB, (batch, asked.prompt), generator=torch.Generator().manual_seed(1))

        def by_transformers(count: int, prompts_BT: torch.Tensor = prompts_BT) -> None:
            judge.generate(prompts_BT, max_new_tokens=count, min_new_tokens=count, do_sample=False)

        def by(model: Model, prompts_BT: torch.Tensor = prompts_BT) -> Callable[[int], None]:
            return lambda count: (
                generate(model, prompts_BT.tolist(), Sampling(max_tokens=count, temperature=0)) and None
            )

        ways = {"transformers": by_transformers} | {name: by(model) for name, model in models.items()}
        ways = {name: way for name, way in ways.items() if name in asked.ways}
        for way in ways.values():
            way(2)
        seconds = {name: [] for name in ways}
        for _ in range(asked.rounds):
            for name, way in ways.items():
                seconds[name].append(decode_seconds(way, asked.tokens))
        for name in ways:
            speed = batch * asked.tokens / statistics.median(seconds[name])
            ratio = statistics.median(t / s for t, s in zip(seconds[asked.ways[0]], seconds[name], strict=True))
            print(f"batch {batch}  {name:<14} {speed:>8.1f} tokens/s   {ratio:.2f} x {asked.ways[0]}")


if __name__ == "__main__":
    main()
