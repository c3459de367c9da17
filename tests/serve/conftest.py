"""Tiny real model folders with random weights, and real servers around them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import openai
import pytest
import torch

from wyrmling.config import Project, Serve
from wyrmling.core.store import Store
from wyrmling.model import probes
from wyrmling.model.folder import About, save
from wyrmling.model.heads import Model
from wyrmling.model.transformer import ModelConfig, padded_vocab
from wyrmling.serve import run, threads
from wyrmling.serve.access import AccessLog
from wyrmling.serve.loaded import Found, find
from wyrmling.serve.metrics import Metrics
from wyrmling.serve.recorder import Recorder
from wyrmling.serve.service import Service
from wyrmling.serve.tracing import Tracing
from wyrmling.serve.workshop import Workshop
from wyrmling.tokenizer import bpe
from wyrmling.tokenizer import folder as tokenizer_folder
from wyrmling.tokenizer.tokenizer import Tokenizer

TEXT = (
    "Once upon a time there was a little dragon who lived under a hill. She liked tea, naïve jokes and 日本語. "
    "One day she flew to Dr. Oğuz, who said: you're welcome! 🐉 The end.\n"
)
# Making a client takes longer than most answers.
HTTP = httpx2.Client(timeout=60)
LABELS = ["card", "refund", "transfer"]
TAGS = ["O", "B-person", "B-place", "I-person", "I-place"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    threads.limit(1)


@dataclass(frozen=True)
class Kitchen:
    """Makes model folders."""

    root: Path

    def tokenizer(self, *, ends: bool) -> Path:
        folder = self.root / f"tokenizer-{ends}"
        if not folder.exists():
            folder.mkdir()
            tokenizer_folder.write(folder, bpe.train([TEXT] * 4, 400), ends=ends)
        return folder

    def model(self, name: str, head: str, *, context: int = 128, chat: bool = False, seed: int = 0) -> Path:
        """A model folder with spread-out random weights, so that answers differ from token to token."""
        folder = self.root / name / "model"
        if folder.exists():
            return folder
        causal = head == "next"
        tokenizer = self.tokenizer(ends=not causal)
        known = Tokenizer.load(tokenizer).vocab_size
        config = ModelConfig(
            family="qwen3" if causal else "modernbert", vocab_size=padded_vocab(known), width=32, layers=2, heads=2,
            kv_heads=1 if causal else 2, head_dim=16, ffn=48, context=context, tied=not causal, tokens=known,
        )  # fmt: skip
        outputs = {"classes": LABELS, "tags": TAGS}.get(head, [])
        model = Model(config, head, len(outputs), seed=seed)
        self.spread(model, seed)
        if causal:
            # Few answers should end by themselves: a logit of 0 is a low one here.
            with torch.no_grad():
                model.output.weight_VD[list(Tokenizer.load(tokenizer).special_ids.values())] = 0
        about = About(
            task="test", head=head, context=context, objective="test", labels=LABELS if head == "classes" else [],
            tags=TAGS if head == "tags" else [], chat=chat,
        )  # fmt: skip
        save(model.eval(), folder, tokenizer, about)
        probes.record(model, Tokenizer.load(folder), ["a little dragon", "tea"], folder)
        return folder

    @staticmethod
    def spread(model: Model, seed: int) -> None:
        """Random weights that do not depend on how a new model starts."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator) * 0.3
                parameter.copy_(noise if parameter.dim() > 1 else 1 + noise)


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    return Kitchen(tmp_path_factory.mktemp("kitchen"))


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    address: str
    service: Service
    server: run.Server

    def client(self, key: str = "none", **options: object) -> openai.OpenAI:
        """The official client, checking every answer against its own types."""
        options = {"max_retries": 0, "_strict_response_validation": True} | options
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, **options)

    def post(self, path: str, body: object = None, **options: object) -> httpx2.Response:
        return HTTP.post(self.address + path, **({"json": body} if body is not None else {}), **options)

    def get(self, path: str, **options: object) -> httpx2.Response:
        return HTTP.get(self.address + path, **options)

    def ask(self, method: str, path: str, **options: object) -> httpx2.Response:
        return HTTP.request(method, self.address + path, **options)

    def metric(self, line_start: str) -> float:
        """The sum of the samples whose line begins so."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(line_start))


@contextlib.contextmanager
def running(
    found: Found,
    store: Store,
    settings: Serve | None = None,
    *,
    host: str = "127.0.0.1",
    project: Project | None = None,
    follow: bool = False,
    traced: Tracing | None = None,
) -> Iterator[Running]:
    settings = settings or Serve()
    metrics = Metrics(found.name)
    loaded, adapters, served = run.load_with_adapters(found, settings, Path.cwd(), "cpu")
    engine = run.new_engine(loaded, settings, metrics, adapters)
    service = Service(loaded, engine, store, metrics, settings, watts=10.0, recorder=Recorder(store), adapters=served)
    if project is not None:
        service = replace(service, feedback=project.settings.feedback)
        service = run.with_workshop(service, Workshop(project, store), "cpu")
    log = AccessLog(settings.access_log, Path.cwd() if project is None else project.root)
    with contextlib.closing(run.listen(host, 0, store)) as listener:
        load = run.loader(service, "cpu") if follow else None
        server = run.Server(service, host, listener, log, follow=load, traced=traced)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", service, server)
        finally:
            server.should_exit = True
            thread.join(timeout=60)
            assert not thread.is_alive()


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A file; or what `database_url` gives, for tests that ask for that too."""
    asked = "database_url" in request.fixturenames
    return str(request.getfixturevalue("database_url")) if asked else f"sqlite:///{tmp_path / 'wyrmling.db'}"


Start = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a server of its own around a model folder: `with start(folder) as server`."""

    def begin(
        folder: Path,
        *,
        host: str = "127.0.0.1",
        store: Store | None = None,
        project: Project | None = None,
        follow: bool = False,
        traced: Tracing | None = None,
        **settings: object,
    ):
        store = store or Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")
        found, more = find(folder, store), {"host": host, "project": project, "follow": follow, "traced": traced}
        return running(found, store, Serve(**settings), **more)

    return begin


def shared(kitchen: Kitchen, name: str, **model: object) -> Iterator[Running]:
    """A server that the tests of a session share, under a registered name."""
    folder = kitchen.model(name, **model)
    store = Store.open(f"sqlite:///{kitchen.root / name / 'wyrmling.db'}")
    with running(find(folder, store), store, Serve(log_prompts=name == "talker")) as server:
        yield server


@pytest.fixture(scope="session")
def teller(kitchen: Kitchen) -> Iterator[Running]:
    """A model that continues text and never learned to chat."""
    yield from shared(kitchen, "teller", head="next")


@pytest.fixture(scope="session")
def talker(kitchen: Kitchen) -> Iterator[Running]:
    """A model that learned its chat template; its server keeps prompts."""
    yield from shared(kitchen, "talker", head="next", chat=True, seed=1)


@pytest.fixture(scope="session")
def sorter(kitchen: Kitchen) -> Iterator[Running]:
    """A model that classifies texts."""
    yield from shared(kitchen, "sorter", head="classes")


@pytest.fixture(scope="session")
def finder(kitchen: Kitchen) -> Iterator[Running]:
    """A model that tags words."""
    yield from shared(kitchen, "finder", head="tags")
