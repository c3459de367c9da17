"""The project database: versions are immutable, aliases move, keys open only while they are valid."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from wyrmling.core import tables
from wyrmling.core.errors import BadInput, BadSetting, CorruptArtifact, UsageError
from wyrmling.core.store import Feedback, Store, Usage, folder_digest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")


def usage(answer_id: str, **changes: object) -> Usage:
    values = {
        "id": answer_id, "endpoint": "completions", "model": "desk", "model_digest": "d1", "prompt_tokens": 3,
        "completion_tokens": 5, "latency_ms": 12.5, "wh": 0.001, "finish_reason": "stop", "prompt_sha256": "0" * 64,
    }  # fmt: skip
    return Usage(**values | changes)


def register(store: Store, tmp_path: Path, digest: str, name: str = "desk") -> int:
    return store.register_model(name, tmp_path / "runs" / digest, digest, {"macro_f1": 0.5}, "PASS")


def test_versions_count_up_and_the_same_weights_keep_their_version(store: Store, tmp_path: Path) -> None:
    assert [register(store, tmp_path, digest) for digest in ("a", "b", "a", "c", "b")] == [1, 2, 1, 3, 2]
    assert register(store, tmp_path, "a", name="other") == 1


def test_a_new_version_is_the_challenger_until_it_is_promoted(store: Store, tmp_path: Path) -> None:
    register(store, tmp_path, "a")
    with pytest.raises(UsageError, match=r"desk has no champion yet.*promote desk:1|promote one with"):
        store.resolve("desk")
    assert store.resolve("desk:challenger").version == 1
    assert store.promote("desk").aliases == ("champion",)
    register(store, tmp_path, "b")
    assert store.resolve("desk").version == 1
    assert store.resolve("desk:challenger").version == store.resolve("desk:2").version == 2


def test_promoting_moves_the_champion_to_previous_and_rollback_swaps_them(store: Store, tmp_path: Path) -> None:
    for digest in "abc":
        register(store, tmp_path, digest)
    store.promote("desk:1")
    store.promote("desk:2")
    assert (store.resolve("desk").version, store.resolve("desk:previous").version) == (2, 1)
    assert store.rollback("desk").version == 1
    assert store.resolve("desk:previous").version == 2
    assert store.rollback("desk").version == 2
    store.promote("desk:2")
    assert store.resolve("desk:previous").version == 1, "promoting the champion again must not lose the way back"


def test_rollback_without_a_previous_champion_is_refused(store: Store, tmp_path: Path) -> None:
    register(store, tmp_path, "a")
    store.promote("desk")
    with pytest.raises(UsageError, match="no previous champion"):
        store.rollback("desk")


@pytest.mark.parametrize("reference", ["nobody", "desk:7", "desk:best", "desk:"])
def test_an_unknown_reference_says_what_there_is(store: Store, tmp_path: Path, reference: str) -> None:
    register(store, tmp_path, "a")
    with pytest.raises(UsageError, match="desk"):
        store.resolve(reference)


def test_a_project_folder_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "old" / "runs" / "m").mkdir(parents=True)
    store = Store.open(f"sqlite:///{tmp_path / 'old' / 'wyrmling.db'}")
    store.register_model("desk", tmp_path / "old" / "runs" / "m", "a", {})
    outside = tmp_path / "elsewhere"
    store.register_model("desk", outside, "b", {})
    store.close()
    (tmp_path / "old").rename(tmp_path / "new")
    moved = Store.open(f"sqlite:///{tmp_path / 'new' / 'wyrmling.db'}")
    assert moved.resolve("desk:1").path == tmp_path / "new" / "runs" / "m"
    assert moved.resolve("desk:2").path == outside


def test_the_digest_of_a_folder_depends_on_names_and_bytes(tmp_path: Path) -> None:
    for name, files in {"a": {"x": "1"}, "b": {"x": "2"}, "c": {"y": "1"}, "d": {"x": "1"}}.items():
        (tmp_path / name / "deep").mkdir(parents=True)
        for file, content in files.items():
            (tmp_path / name / "deep" / file).write_text(content)
    digests = {name: folder_digest(tmp_path / name) for name in "abcd"}
    assert len(set(digests.values())) == 3
    assert digests["a"] == digests["d"]
    with pytest.raises(BadInput, match="no model"):
        folder_digest(tmp_path / "nothing")


def test_a_key_is_shown_once_and_opens_until_it_is_revoked(store: Store, tmp_path: Path) -> None:
    key, secret = store.create_key("laptop")
    assert store.check_key(secret) == key
    for wrong in ("", "sk-", secret[:-1], secret + "x", secret[:10], "sk-\udc80"):
        assert store.check_key(wrong) is None
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("wyrmling.db*"))
    assert secret.encode() not in kept and secret[:10].encode() in kept
    store.revoke_key(key.id)
    assert store.check_key(secret) is None
    assert store.list_keys()[0].revoked is not None
    with pytest.raises(UsageError, match="no key 'key-nobody'"):
        store.revoke_key("key-nobody")


def test_usage_and_feedback_come_back_as_they_were_kept(store: Store) -> None:
    rows = [
        usage("a", created="2026-01-01T00:00:00+00:00"),
        usage("b", created="2026-01-02T00:00:00+00:00", key_id="k"),
    ]
    for row in rows:
        store.add_usage(row)
    assert store.usage() == rows[::-1]
    assert store.usage(since="2026-01-01T12:00:00+00:00") == [rows[1]]
    assert store.usage(limit=1) == [rows[1]]
    assert store.find_usage("a") == rows[0]
    assert store.find_usage("c") is None
    said = Feedback("fb", "a", "d1", rating=-1, correction="besser: Grüße \U0001f600")
    store.add_feedback(said)
    assert store.feedback() == [said]
    with pytest.raises(BadInput, match="no answer 'c'"):
        store.add_feedback(Feedback("fb2", "c", "d1", rating=1))


def test_forecasts_are_kept_per_machine(store: Store) -> None:
    store.save_forecast("m1", "train tune", {"minutes": {"value": 2.0}}, {"minutes": 3.0})
    store.save_forecast("m2", "train tune", {}, {})
    assert [(f.work, f.forecast, f.actual) for f in store.forecasts("m1")] == [
        ("train tune", {"minutes": {"value": 2.0}}, {"minutes": 3.0})
    ]


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'wyrmling.db'}"
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            store = Store.open(url)
            for index in range(20):
                store.add_usage(usage(f"{worker}-{index}"))
                store.register_model("desk", tmp_path, f"{worker}-{index}", {})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store.open(url)
    assert failures == []
    assert len(store.usage()) == 80
    assert sorted(record.version for record in store.list_models()) == list(range(1, 81))


def test_a_database_of_a_newer_wyrmling_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wyrmling.db"
    Store.open(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("update about set value = ?", (str(tables.SCHEMA_VERSION + 1),))
    with pytest.raises(BadInput, match="schema 2, but this wyrmling knows schema 1"):
        Store.open(f"sqlite:///{path}")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "wyrmling.db").write_text("customer,message\n" * 100)
    with pytest.raises(CorruptArtifact, match="can't be read"):
        Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")


@pytest.mark.parametrize("url", ["not a url", "nothing://x", "sqlite:////no/such/folder/x.db", "oracle://u:secret@h/x"])
def test_an_address_that_cannot_be_used_is_a_bad_setting(url: str) -> None:
    with pytest.raises(BadSetting, match="database") as caught:
        Store.open(url)
    assert "secret" not in str(caught.value)
