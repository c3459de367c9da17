"""The project database: versions are immutable, aliases move, keys open only while they are valid."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wyrmling.core import tables
from wyrmling.core.errors import BadInput, BadSetting, CorruptArtifact, UsageError
from wyrmling.core.jobs import Jobs
from wyrmling.core.store import Feedback, Store, Usage, folder_digest
from wyrmling.core.tables import Job


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store.open(database_url)
    yield store
    store.close()


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


def test_a_key_is_shown_once_and_opens_until_it_is_revoked(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")
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


def test_writers_wait_for_each_other(database_url: str, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            store = Store.open(database_url)
            for index in range(20):
                store.add_usage(usage(f"{worker}-{index}"))
                store.register_model("desk", tmp_path, f"{worker}-{index}", {})
            store.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store.open(database_url)
    assert failures == []
    assert len(store.usage()) == 80
    assert sorted(record.version for record in store.list_models()) == list(range(1, 81))
    store.close()


def test_a_database_of_a_newer_wyrmling_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wyrmling.db"
    Store.open(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("update about set value = ?", (str(tables.SCHEMA_VERSION + 1),))
    with pytest.raises(BadInput, match="schema 4, but this wyrmling knows schema 3"):
        Store.open(f"sqlite:///{path}")


def test_a_database_of_an_older_wyrmling_gets_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "wyrmling.db"
    store = Store.open(f"sqlite:///{path}")
    _, secret = store.create_key("old")
    store.add_usage(usage("a"))
    store.close()
    new_columns = {
        "keys": ["scopes", "expires", "requests_per_minute", "tokens_per_minute", "usd_per_month"],
        "usage": ["usd", "user", "items", "chars", "labels", "confidence", "formatted", "sketch"],
        "feedback": ["user", "item", "prompt", "preferred_over", "reviewed", "used_in"],
    }
    with sqlite3.connect(path) as connection:
        for index in ("usage_of_key", "usage_of_model", "ix_usage_user", "ix_feedback_user"):
            connection.execute(f"drop index {index}")
        for table, columns in new_columns.items():
            for column in columns:
                connection.execute(f"alter table {table} drop column {column}")
        for table in ("job_events", "jobs", "files", "decisions", "drift"):
            connection.execute(f"drop table {table}")
        connection.execute("update about set value = '1'")
    store = Store.open(f"sqlite:///{path}")
    assert store.usage() == [usage("a", created=store.usage()[0].created)]
    key = store.check_key(secret)
    assert key is not None and (key.scopes, key.usd_per_month) == (("infer", "feedback"), None)
    store.create_key("new", scopes=["train"], usd_per_month=5)
    store.close()
    Store.open(f"sqlite:///{path}").close()


def test_a_key_has_scopes_limits_and_an_end(store: Store) -> None:
    key, secret = store.create_key("ci", scopes=["files", "train"], requests_per_minute=5, tokens_per_minute=100)
    assert store.check_key(secret) == key == store.list_keys()[0]
    assert (key.allows("train"), key.allows("infer"), key.allows("admin")) == (True, False, False)
    assert store.create_key("root", scopes=["admin"])[0].allows("infer")
    _, late = store.create_key("late", expires="2026-01-01T00:00:00+00:00")
    assert store.check_key(late) is None
    for wrong in ({"scopes": ["train", "root"]}, {"scopes": []}, {"requests_per_minute": 0}, {"usd_per_month": -1.0}):
        with pytest.raises(UsageError, match=r"scope|limit"):
            store.create_key("x", **wrong)


def test_what_a_key_has_spent_is_its_answers_and_its_jobs(store: Store) -> None:
    jobs = Jobs(store)
    for answer_id, key_id, created in (
        ("a", "k", "2026-01-01"),
        ("b", "k", "2026-02-01"),
        ("c", "other", "2026-02-01"),
    ):
        store.add_usage(usage(answer_id, key_id=key_id, usd=1.0, created=created))
    jobs.add(Job("ftjob-1", "k", {}, "/base", usd=0.25, created="2026-02-02"))
    assert store.spent("k", "2026-02-01") == 1.25
    assert store.spent("k", "2025") == 2.25
    assert store.spent("nobody", "2025") == 0


def test_a_job_has_one_worker_and_ends_once(store: Store) -> None:
    jobs = Jobs(store)
    jobs.add(Job("ftjob-1", "k", {"metadata": {"team": "a b"}}, "/base"))
    job = jobs.find("ftjob-1")
    assert job is not None
    assert [jobs.claim(job, worker) for worker in ("1:1", "2:2")] == [True, False], "both saw it without a worker"
    assert jobs.find("ftjob-1", "other") is None
    assert [found.id for found in jobs.page("k", after=None, limit=5, metadata={"team": "a b"})[0]] == ["ftjob-1"]
    assert jobs.page("k", after=None, limit=5, metadata={"team": "b"}) == ([], False)
    assert jobs.change("ftjob-1", state="succeeded", fine_tuned_model="ft:x")
    assert not jobs.change("ftjob-1", state="failed") and not jobs.want("ftjob-1", "cancel")
    assert jobs.of_model("ft:x", "k") == jobs.find("ftjob-1")
    assert jobs.of_model("ft:x", "other") is None
    assert jobs.unfinished() == []


def test_pages_of_a_list_have_every_row_once(store: Store) -> None:
    jobs = Jobs(store)
    jobs.add(Job("ftjob-1", None, {}, "/base"))
    said = [jobs.say("ftjob-1", f"event {number}") for number in range(7)]
    jobs.say("ftjob-1", "step 1", type="checkpoint")
    found, after, more = [], None, True
    while more:
        events, more = jobs.events("ftjob-1", after=after, limit=3)
        found += events
        after = events[-1].id
    assert found == said[::-1]
    assert len(jobs.events("ftjob-1", checkpoints=True)[0]) == 1
    with pytest.raises(KeyError):
        jobs.events("ftjob-1", after="ftevent-of-another")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "wyrmling.db").write_text("customer,message\n" * 100)
    with pytest.raises(CorruptArtifact, match="can't be read"):
        Store.open(f"sqlite:///{tmp_path / 'wyrmling.db'}")


@pytest.mark.parametrize("url", ["not a url", "nothing://x", "sqlite:////no/such/folder/x.db", "oracle://u:secret@h/x"])
def test_an_address_that_cannot_be_used_is_a_bad_setting(url: str) -> None:
    with pytest.raises(BadSetting, match="database") as caught:
        Store.open(url)
    assert "secret" not in str(caught.value)
