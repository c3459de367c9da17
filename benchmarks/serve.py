"""What the server adds to its model, and what batching gains, asked over HTTP.

    python benchmarks/serve.py [classify] [streams] [start] [overhead] [--clients 32] [--seconds 10]

All models have random weights. Server and clients are processes of one machine and share its cores.

classify   an encoder in the shape of the support-desk example (2 layers of width 256, 77 labels), messages of 6 to 30
           words: requests per second by clients that ask one after the other, and the p95 at 100 a
           second and at half of that load, sent evenly
streams    a decoder of 10M weights: tokens per second of streaming clients at once, against one after the other, and
           the longest wait for a first token
start      seconds from the command to the first ready answer, for the decoder
overhead   median milliseconds of a classification over HTTP, less those that the model worked on it
"""

from __future__ import annotations

import argparse
import asyncio
import http.client as http_client
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2
import torch

from wyrmling.model import probes
from wyrmling.model.folder import About, save
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig, padded_vocab
from wyrmling.tokenizer import bpe
from wyrmling.tokenizer import folder as tokenizer_folder
from wyrmling.tokenizer.tokenizer import Tokenizer

TALK = "my card was not accepted when i tried to pay for the transfer please help me now why is it still pending"
WORDS = TALK.split()
SHAPES = {
    "desk": {"family": "modernbert", "width": 256, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 64, "ffn": 684},
    "teller": {"family": "qwen3", "width": 320, "layers": 8, "heads": 5, "kv_heads": 5, "head_dim": 64, "ffn": 853},
}
TOKENS = 48


def made(work: Path, name: str) -> Path:
    """A model folder with random weights and a vocabulary of a few thousand tokens."""
    draw = random.Random(0)
    texts = ["".join(draw.choice("etaoinshrdlu ") for _ in range(400)) for _ in range(400)] + [TALK] * 50
    tokenizer = work / f"{name}-tokenizer"
    tokenizer.mkdir()
    tokenizer_folder.write(tokenizer, bpe.train(texts, 4096), ends=name == "desk")
    known = Tokenizer.load(tokenizer).vocab_size
    config = ModelConfig(**SHAPES[name], vocab_size=padded_vocab(known), context=2048, tied=True, tokens=known)
    labels = [f"label {i}" for i in range(77)] if name == "desk" else []
    model = Model(config, "classes" if labels else "next", len(labels), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.05, generator=generator)
    about = About("test", model.head_name, 2048, "test", labels=labels, chat=name == "talker")
    save(model.eval(), work / name, tokenizer, about)
    probes.record(model, Tokenizer.load(work / name), ["my card"], work / name)
    print(f"{name}: {sum(p.numel() for p in model.parameters()):,} weights, {known} tokens")
    return work / name


class Served:
    """`wyrmling serve` of a folder as a process of its own. `seconds`: from the command to ready."""

    def __init__(self, folder: Path, *more: str) -> None:
        started = time.perf_counter()
        command = [sys.executable, "-m", "wyrmling", "serve", "--model", str(folder), "--port", "0", *more]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[1].partition("/v1")[0]
        assert httpx2.get(f"{self.url}/readyz").status_code == 200
        self.seconds = time.perf_counter() - started

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def message(number: int) -> str:
    draw = random.Random(number)
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(6, 30)))


async def at_once(clients: int, seconds: float, ask: Callable[[int], Awaitable[object]]) -> float:
    """Requests per second of clients that ask one after the other."""
    end, done = time.perf_counter() + seconds, 0

    async def client(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await ask(done * clients + number)
            done += 1

    await asyncio.gather(*(client(number) for number in range(clients)))
    return done / seconds


async def evenly(rate: float, seconds: float, ask: Callable[[int], Awaitable[object]]) -> list[float]:
    """Seconds of each request when they are sent at a steady rate, whatever becomes of the others."""
    times: list[float] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number / rate)
        started = time.perf_counter()
        await ask(number)
        times.append(time.perf_counter() - started)

    await asyncio.gather(*(one(number) for number in range(int(rate * seconds))))
    return times


async def classification(url: str, clients: int, seconds: float) -> None:
    async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=2 * clients), timeout=60) as http:

        async def ask(number: int) -> None:
            answer = await http.post(f"{url}/v1/classify", json={"model": "desk", "input": message(number)})
            answer.raise_for_status()

        await at_once(clients, 1, ask)
        rate = await at_once(clients, seconds, ask)
        alone = await at_once(1, seconds / 2, ask)
        print(f"classify: {rate:.0f} requests/s by {clients} clients, {alone:.0f} by one")
        for load in (100.0, rate / 2):
            times = await evenly(load, seconds, ask)
            p50 = 1e3 * statistics.median(times)
            print(f"classify: at {load:.0f} requests/s p50 {p50:.1f} ms, p95 {p95(times):.1f} ms")


def p95(times: list[float]) -> float:
    """In milliseconds."""
    return 1e3 * sorted(times)[int(0.95 * len(times))]


async def streams(url: str, clients: int) -> None:
    async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=clients), timeout=600) as http:

        async def ask(number: int) -> float:
            body = {"model": "teller", "prompt": message(number), "max_tokens": TOKENS, "stream": True, "seed": number}
            started, first = time.perf_counter(), 0.0
            async with http.stream("POST", f"{url}/v1/completions", json=body) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: {") and not first:
                        first = time.perf_counter() - started
            return first

        await ask(0)
        started = time.perf_counter()
        few = max(4, clients // 4)
        for number in range(few):
            await ask(number)
        alone = few * TOKENS / (time.perf_counter() - started)
        started = time.perf_counter()
        firsts = await asyncio.gather(*(ask(number) for number in range(clients)))
        together = clients * TOKENS / (time.perf_counter() - started)
    print(
        f"streams: {together:.0f} tokens/s by {clients} at once, {alone:.0f} one by one: {together / alone:.2f} times"
    )
    print(f"streams: first token after {statistics.median(firsts):.2f} s in the median, {max(firsts):.2f} s at most")


def overhead(url: str, requests: int = 1000) -> None:
    """Requests one after the other; the server says how long its model worked on each."""
    whole, own = [], []
    # The leanest client there is: its own part is counted too.
    http = http_client.HTTPConnection(url.removeprefix("http://"))
    for number in range(requests):
        body = json.dumps({"model": "desk", "input": message(number)})
        started = time.perf_counter()
        http.request("POST", "/v1/classify", body, {"content-type": "application/json"})
        answer = http.getresponse()
        answer.read()
        whole.append(1e3 * (time.perf_counter() - started))
        assert answer.status == 200
        own.append(float(answer.headers["server-timing"].partition("model;dur=")[2]))
    http.close()
    beside = statistics.median(all_of_it - model for all_of_it, model in zip(whole, own, strict=True))
    print(
        f"overhead: {beside:.2f} ms: {statistics.median(whole):.2f} over HTTP, {statistics.median(own):.2f} the model's"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["classify", "streams", "start", "overhead"])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if {"classify", "overhead"} & {*asked.what}:
            folder = made(work, "desk")
            with Served(folder) as server:
                if "overhead" in asked.what:
                    overhead(server.url)
                if "classify" in asked.what:
                    asyncio.run(classification(server.url, asked.clients, asked.seconds))
        if {"streams", "start"} & {*asked.what}:
            folder = made(work, "teller")
            if "start" in asked.what:
                times = []
                for _ in range(3):
                    with Served(folder) as server:
                        times.append(server.seconds)
                print(f"start: {statistics.median(times):.2f} s to ready")
            if "streams" in asked.what:
                for quantize in ([], ["--quantize", "int8-dynamic"]):
                    with Served(folder, *quantize) as server:
                        print(*quantize)
                        asyncio.run(streams(server.url, asked.clients))


if __name__ == "__main__":
    main()
