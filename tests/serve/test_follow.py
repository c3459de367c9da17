"""A server keeps up with the champion of its name: no request is lost, and each answer says who gave it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wyrmling import config
from wyrmling.core.reviews import Reviews
from wyrmling.core.store import Store, folder_digest
from wyrmling.flow import canary


@pytest.fixture
def versions(kitchen, database: str) -> tuple[Store, list[Path], list[str]]:
    """Three registered versions of one classifier; the first is the champion."""
    store = Store.open(database)
    folders = [kitchen.model(f"sorter-{seed}", "classes", seed=seed) for seed in (1, 2, 3)]
    digests = [folder_digest(folder) for folder in folders]
    for folder, digest in zip(folders, digests, strict=True):
        store.register_model("desk", folder, digest, {}, "PASS")
    store.withdraw("desk")
    store.promote("desk:1")
    return store, folders, digests


def classify(server, text: str = "tea", **more: object) -> str:
    answer = server.post("/v1/classify", {"model": "desk", "input": text, **more})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def eventually(true: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def version(server) -> int:
    return server.get("/readyz").json()["version"]


def test_promotion_and_rollback_under_load_lose_no_request(versions, start) -> None:
    store, folders, digests = versions
    failures: list[BaseException] = []
    stop = threading.Event()
    with start(folders[0], store=store, follow=True) as server:

        def ask() -> None:
            try:
                while not stop.is_set():
                    classify(server)
            except BaseException as error:
                failures.append(error)

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        eventually(lambda: len(store.usage()) > 5)
        for step, wanted in ((lambda: store.promote("desk:2"), 2), (lambda: store.rollback("desk"), 1),
                             (lambda: store.rollback("desk"), 2), (lambda: store.promote("desk:3"), 3)):  # fmt: skip
            step()
            eventually(lambda wanted=wanted: version(server) == wanted)
            before = len(store.usage())
            eventually(lambda before=before: len(store.usage()) > before + 5)
        stop.set()
        for asker in askers:
            asker.join()
        assert failures == []
        # Oldest first, the answers change hands exactly as the aliases did, but for requests under way.
        seen = [digests.index(usage.model_digest) + 1 for usage in reversed(store.usage())]
        assert [seen[0], seen[-1]] == [1, 3]
        assert set(seen) == {1, 2, 3}
        assert {usage.finish_reason for usage in store.usage()} == {"stop"}


def test_a_long_answer_is_finished_by_the_weights_it_began_with(kitchen, database: str, start) -> None:
    store = Store.open(database)
    folders = [kitchen.model(f"writer-{seed}", "next", seed=seed) for seed in (1, 2)]
    prints = [f"fp_{folder_digest(folder)[:12]}" for folder in folders]
    for folder in folders:
        store.register_model("writer", folder, folder_digest(folder), {}, "PASS")
    store.promote("writer:1")
    with start(folders[0], store=store, follow=True) as server:
        # Both are in memory then, so that going back and forth takes no time.
        for number in (2, 1):
            store.promote(f"writer:{number}")
            eventually(lambda number=number: version(server) == number)
        bias = {str(token): -100 for token in server.service.loaded.tokenizer.end_ids}
        ask = {"model": "writer", "prompt": "tea", "temperature": 0, "max_tokens": 120, "logit_bias": bias}
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.post, "/v1/completions", ask)
            eventually(lambda: server.metric('vllm:num_requests_running{model_name="writer"}') == 1)
            assert store.rollback("writer").version == 2
            eventually(lambda: version(server) == 2)
            short = server.post("/v1/completions", ask | {"max_tokens": 2}).json()
            long = answer.result().json()
    assert [long["system_fingerprint"], short["system_fingerprint"]] == prints
    assert (long["usage"]["completion_tokens"], long["choices"][0]["finish_reason"]) == (120, "length")


def test_an_accepted_challenger_answers_its_share_and_the_record_says_so(versions, start, database_url) -> None:
    store, folders, digests = versions
    store.challenge("desk:2")
    with start(folders[0], store=store, follow=True, canary=0.5) as server:
        eventually(lambda: server.service.engine.ready and bool(probe(server, digests)))
        before = len(store.usage())
        for number in range(60):
            classify(server, user=f"user {number % 20}")
        taken = Counter()
        by_user: dict[str, set[str]] = {}
        for usage in store.usage(limit=len(store.usage()) - before):
            taken[usage.model_digest] += 1
            by_user.setdefault(usage.user, set()).add(usage.model_digest)
        assert set(taken) == set(digests[:2])
        assert all(len(models) == 1 for models in by_user.values()), "a user keeps one model"
        # Whoever names a version gets it.
        assert server.post("/v1/classify", {"model": "desk:1", "input": "tea"}).status_code == 200
        assert store.usage(limit=1)[0].model_digest == digests[0]
        store.withdraw("desk")
        eventually(lambda: not probe(server, digests))


def probe(server, digests: list[str], version: int = 2) -> bool:
    """Whether any of a few requests goes to the challenger."""
    for number in range(8):
        classify(server, user=f"probe {number}")
    return any(usage.model_digest == digests[version - 1] for usage in server.service.store.usage(limit=8))


def test_a_trial_ends_with_the_challenger_withdrawn_or_made_champion(versions, start, tmp_path: Path) -> None:
    store, folders, digests = versions
    raw = {
        "name": "desk", "database": store.url, "objective": {"task": "classify"},
        "data": {"sources": {"s": {"path": "x.csv"}}}, "retrain": {"canary_answers": 20},
    }  # fmt: skip
    project = config.Project(tmp_path, config.parse(raw, where="test"))

    def ask_and_rate(server, version: int, share_minded: float) -> None:
        """60 users ask; of the challenger's answers so many are rated down, of the champion's 1 in 30."""
        answers = [classify(server, user=f"user {number}") for number in range(60)]
        theirs = [one for one in answers if store.find_usage(one).model_digest == digests[version - 1]]
        assert 20 <= len(theirs) <= 40
        champions = [one for one in answers if one not in theirs]
        for one in (*theirs[: round(share_minded * len(theirs))], champions[0]):
            assert server.post("/v1/feedback", {"id": one, "rating": "down"}).status_code == 200

    with start(folders[0], store=store, follow=True, canary=0.5) as server:
        store.challenge("desk:2")
        eventually(lambda: probe(server, digests))
        read = {name: server.metric(f'vllm:prompt_tokens_total{{model_name="{name}"}}') for name in ("desk", "desk:2")}
        assert all(read.values()), "each version is counted apart"
        ask_and_rate(server, 2, 0.5)
        document, text, code = canary.judge(project)
        assert (document["verdict"], code) == ("HOLD", 3), text
        assert document["challenger"]["minded"] > document["champion"]["minded"] == 1
        eventually(lambda: not probe(server, digests))
        store.challenge("desk:3")
        eventually(lambda: probe(server, digests, 3))
        ask_and_rate(server, 3, 0.05)
        document, text, code = canary.judge(project)
        assert (document["verdict"], code) == ("PROMOTE", 0), text
        eventually(lambda: version(server) == 3)
        assert {store.find_usage(classify(server, user=f"user {n}")).model_digest for n in range(8)} == {digests[2]}
        assert [one.verdict for one in Reviews(store).decisions("desk")] == ["HOLD", "PROMOTE"]


def test_a_challenger_that_the_gate_did_not_accept_answers_nothing(versions, start) -> None:
    store, folders, digests = versions
    store.register_model("desk", folders[2], digests[2], {}, "FAIL")
    store.challenge("desk:3")
    with start(folders[0], store=store, follow=True, canary=0.9) as server:
        time.sleep(0.5)
        for number in range(20):
            classify(server, user=f"user {number}")
        assert {usage.model_digest for usage in store.usage()} == {digests[0]}


def test_a_champion_that_was_changed_on_disk_is_not_taken(versions, start, tmp_path: Path) -> None:
    store, folders, digests = versions
    broken = tmp_path / "broken" / "model"
    broken.mkdir(parents=True)
    for file in folders[1].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    store.register_model("desk", broken, "0" * 64, {}, "PASS")
    with start(folders[0], store=store, follow=True) as server:
        store.promote("desk:4")
        time.sleep(1.0)
        classify(server)
        assert (version(server), store.usage(limit=1)[0].model_digest) == (1, digests[0])
        store.promote("desk:3")
        eventually(lambda: version(server) == 3)
