"""Mixed traffic by the official client while the server is killed again and again: is anything lost or doubled?

    python benchmarks/chaos.py --minutes 20 --kills 10

Two servers of one project, a classifier under a name whose champion changes and a model that chats, get chat with and
without streaming, classification, feedback, files and fine-tuning jobs. Both are killed with SIGKILL at random
instants and started again. In the meantime `wyrmling retrain` promotes a challenger, and `wyrmling models rollback`
takes it back. In the end the clients' own log is compared with the project database and with what the servers answer.
Prints a table in Markdown; exits with 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import openai
import sqlalchemy as sa
from loop import Row, keep_intents, write, wyrmling

from serve import SHAPES, made
from wyrmling import config
from wyrmling.core import tables
from wyrmling.core.reviews import pseudonym
from wyrmling.core.store import Store, folder_digest

ROOT = Path(__file__).parent.parent
DESK, TALKER = "support-desk", "talker"
SHAPES[TALKER] = SHAPES["teller"] | {"width": 64, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 32, "ffn": 128}
PROJECT = """name = "support-desk"
[objective]
task = "classify"
accept = ["accuracy >= 0.3"]
[data.sources.tickets]
path = "train.csv"
text = "text"
label = "category"
[data.split]
test = 0.3
[tokenizer]
vocab_size = 600
[model]
layers = 2
width = 64
[[train]]
name = "pretrain"
objective = "masked"
epochs = 2
[[train]]
name = "tune"
objective = "classify"
epochs = 6
[evaluate]
baselines = false
[retrain]
margin = 0.2
slice_margin = 0.6
new_failures = 0.5
[serve]
max_tokens = 24
"""
# How long an alias may take to be noticed, and a server to be up again.
NOTICED, UP = 2.0, 120.0


@dataclass
class Server:
    """One served model: a process that is killed and started again on the same port."""

    project: Path
    model: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "wyrmling", "serve", "--project", str(self.project), "--model", self.model]
        log = (self.project.parent / f"{self.model}.log").open("ab")
        self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=log, stderr=log)

    def wait(self) -> None:
        until = time.monotonic() + UP
        while self.version() is None:
            if time.monotonic() > until or self.process is None or self.process.poll() is not None:
                raise SystemExit(f"the server of {self.model} does not come up; see {self.project.parent}")
            time.sleep(0.05)

    def version(self) -> int | None:
        try:
            with urllib.request.urlopen(f"{self.address}/readyz", timeout=5) as answer:
                return int(json.load(answer)["version"])
        except OSError:
            return None

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass
class Log:
    """What the clients saw. Times are those of `time.time`."""

    attempts: Counter[str] = field(default_factory=Counter)
    answers: list[dict] = field(default_factory=list)
    feedback: list[dict] = field(default_factory=list)
    files: list[dict] = field(default_factory=list)
    jobs: dict[str, dict] = field(default_factory=dict)
    errors: list[tuple[str, float, float, str]] = field(default_factory=list)
    down: list[tuple[float, float]] = field(default_factory=list)
    phases: list[tuple[float, float, int]] = field(default_factory=list)
    """From when until when the champion was surely this version."""
    tuned: dict[str, str] = field(default_factory=dict)
    """Name of a fine-tuned model and its job."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tried(self, what: str) -> str:
        """A name for one attempt, which the request carries as its user."""
        with self.lock:
            self.attempts[what] += 1
            return f"{what} {self.attempts[what]}"

    def attempt(self, what: str, ask: Callable[[], dict | None]) -> dict | None:
        """What was heard, or None after an error, which is noted."""
        begun = time.time()
        try:
            heard = ask()
        except openai.APIStatusError as error:
            self.errors.append((what, begun, time.time(), f"{error.status_code} {error.message[:150]}"))
            return None
        except openai.APIError as error:
            self.errors.append((what, begun, time.time(), f"connection: {error}"))
            return None
        except Exception as error:
            # A stream that breaks off raises what the HTTP client raises.
            self.errors.append((what, begun, time.time(), f"connection: {type(error).__name__}"))
            return None
        return None if heard is None else heard | {"begun": begun, "ended": time.time()}


@dataclass
class Traffic:
    """The clients. Each of its methods but `client` is one of them, until `stop` is set."""

    desk: Server
    talker: Server
    key: str
    messages: list[Row]
    log: Log
    stop: threading.Event = field(default_factory=threading.Event)

    def client(self, server: Server, retries: int) -> openai.OpenAI:
        # Patient enough for a restart: up to 8 s between two tries.
        return openai.OpenAI(base_url=f"{server.address}/v1", api_key=self.key, max_retries=retries, timeout=60)

    def chat(self, seed: int) -> None:
        draw, client = random.Random(seed), self.client(self.talker, 0)
        while not self.stop.is_set():
            model, stream = draw.choice([TALKER, *self.log.tuned]), draw.random() < 0.5
            asked = draw.choice(self.messages[:5])["text"]
            user = self.log.tried("streamed" if stream else "chat")
            body = {
                "model": model, "messages": [{"role": "user", "content": asked}], "temperature": 0, "max_tokens": 16,
                "user": user,
            }  # fmt: skip
            heard = self.log.attempt(user, lambda: chatted(client, body, stream))  # noqa: B023
            if heard is not None:
                self.log.answers.append(heard | {"user": user, "name": model, "asked": asked})
            self.stop.wait(0.1 if heard else 0.5)

    def classify(self, seed: int) -> None:
        draw, once, patient = random.Random(seed), self.client(self.desk, 0), self.client(self.desk, 12)
        while not self.stop.is_set():
            row = draw.choice(self.messages)
            user = self.log.tried("classify")
            body = {"model": DESK, "input": row["text"], "user": user}
            heard = self.log.attempt(user, lambda: once.post("/classify", body=body, cast_to=object))  # noqa: B023
            if heard is None:
                self.stop.wait(0.5)
                continue
            told = heard["data"][0]
            answer = {"id": heard["id"], "user": user, "name": DESK, "asked": row["text"], "tokens": 0}
            said = json.dumps([told["label"], round(told["probabilities"][told["label"]], 3)])
            self.log.answers.append({**answer, "said": said, "begun": heard["begun"], "ended": heard["ended"]})
            right = told["label"] == row["category"]
            comment = self.log.tried("feedback")
            more = {"rating": "up"} if right else {"rating": "down", "correction": row["category"]}
            body = {"id": heard["id"], "comment": comment, "prompt": row["text"], "user": f"user {seed}", **more}
            kept = self.log.attempt(comment, lambda: patient.post("/feedback", body=body, cast_to=object))  # noqa: B023
            if kept is not None:
                self.log.feedback.append({"id": kept["id"], "answer": heard["id"], "comment": comment})
            self.stop.wait(0.1)

    def upload(self, seed: int) -> None:
        draw, client = random.Random(seed), self.client(self.talker, 12)
        while not self.stop.is_set():
            name = self.log.tried("file")
            content = draw.randbytes(draw.randint(1, 200_000))
            given = (name, content)
            file = self.log.attempt(
                name, lambda: {"id": client.files.create(file=given, purpose="user_data").id}  # noqa: B023
            )  # fmt: skip
            if file is not None:
                self.log.files.append({"id": file["id"], "name": name, "sha256": hashlib.sha256(content).hexdigest()})
            self.stop.wait(1.0)

    def tune(self, seed: int) -> None:
        """One job after the other."""
        client = self.client(self.talker, 12)
        while not self.stop.is_set():
            number = self.log.tried("job")
            # Never two equal requests: those would be one request that is sent again.
            given = (f"{number}.jsonl", rows(self.messages, seed))
            self.log.attempt(number, lambda: self._one_job(client, number, given))  # noqa: B023

    def _one_job(self, client: openai.OpenAI, number: str, given: tuple[str, bytes]) -> None:
        file = client.files.create(file=given, purpose="fine-tune")
        hyperparameters = {"n_epochs": 2, "batch_size": 8}
        jobs = client.fine_tuning.jobs
        job = jobs.create(
            model=TALKER, training_file=file.id, metadata={"number": number}, hyperparameters=hyperparameters
        )
        self.log.jobs[job.id] = {"number": number}
        while (job := jobs.retrieve(job.id)).status not in ("succeeded", "failed", "cancelled"):
            time.sleep(1.0)
        self.log.jobs[job.id] |= {"status": job.status, "model": job.fine_tuned_model, "error": job.error}
        if job.fine_tuned_model is not None:
            self.log.tuned[job.fine_tuned_model] = job.id


def chatted(client: openai.OpenAI, body: dict, stream: bool) -> dict:
    """The id, text, weights and tokens of one answer. A stream must say that it has ended."""
    if not stream:
        answer = client.chat.completions.create(**body)
        text, tokens = answer.choices[0].message.content, answer.usage.completion_tokens
        return {"id": answer.id, "said": text, "weights": answer.system_fingerprint, "tokens": tokens}
    said, ended, used, last = "", False, None, None
    for last in client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}):
        for choice in last.choices:
            said += choice.delta.content or ""
            ended = ended or choice.finish_reason is not None
        used = last.usage or used
    if last is None or not ended or used is None:
        raise ConnectionError("the stream was cut off, and nothing said so")
    return {"id": last.id, "said": said, "weights": last.system_fingerprint, "tokens": used.completion_tokens}


def rows(messages: list[Row], seed: int) -> bytes:
    draw = random.Random(seed)
    pairs = [(draw.choice(messages)["text"], draw.choice(messages)["text"]) for _ in range(30)]
    lines = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in pairs]
    return "\n".join(map(json.dumps, lines)).encode()


def make_project(folder: Path) -> tuple[Path, list[Row]]:
    """A project with a small champion and a model that chats; the messages that were held out."""
    project = folder / "project"
    project.mkdir(parents=True)
    (project / "wyrmling.toml").write_text(PROJECT, encoding="utf-8")
    table = project / "train.csv"
    shutil.copyfile(ROOT / "examples" / "support-desk" / "data" / "train.csv", table)
    kept = keep_intents(table, 4)
    random.Random(0).shuffle(kept)
    write(table, kept[150:])
    _, seconds = wyrmling(project, "run")
    print(f"champion: {len(kept) - 150} messages of 4 intents, {seconds:.0f} s", flush=True)
    talker = made(folder, TALKER)
    store = Store.open(config.load(project).database_url)
    store.register_model(TALKER, talker, folder_digest(talker), {}, "PASS")
    store.promote(f"{TALKER}:1")
    store.close()
    return project, kept[:150]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def kill_now_and_then(servers: list[Server], kills: int, seconds: float, log: Log, draw: random.Random) -> None:
    """So many kills at random instants, one in each equal part of the time."""
    started = time.time()
    for number in range(kills):
        instant = started + seconds * (number + draw.uniform(0.1, 0.9)) / kills
        time.sleep(max(0.0, instant - time.time()))
        since = time.time()
        for server in servers:
            server.kill()
        for server in servers:
            server.start()
        for server in servers:
            server.wait()
        log.down.append((since, time.time()))
        print(f"kill {number + 1}: up again after {time.time() - since:.1f} s", flush=True)


def promote_and_go_back(desk: Server, log: Log, seconds: float) -> None:
    """Retrain on the feedback so far, and some time later take it back."""
    started = time.time()
    time.sleep(0.2 * seconds)
    first = time.time()
    wyrmling(desk.project, "feedback", "accept", "--all")
    found, took = wyrmling(desk.project, "retrain", codes=(0, 3, 4))
    print(f"retrain: {found['verdict']} after {took:.0f} s", flush=True)
    if found["verdict"] != "PROMOTE":
        raise SystemExit(json.dumps(found["conditions"], indent=1))
    promoted = time.time()
    time.sleep(max(10.0, started + 0.7 * seconds - time.time()))
    back = time.time()
    _, took = wyrmling(desk.project, "models", "rollback")
    print(f"rollback: command {took:.2f} s", flush=True)
    log.phases += [(0.0, first, 1), (promoted + NOTICED, back, 2), (time.time() + NOTICED, float("inf"), 1)]


def judge(traffic: Traffic, store: Store) -> list[tuple[str, int, int, int]]:
    """What is asked about: its name, how many were accepted, lost, doubled or wrong."""
    log = traffic.log
    with store.reading() as connection:
        usage = connection.execute(sa.select(tables.usage)).all()
        said = connection.execute(sa.select(tables.feedback)).all()
        jobs = connection.execute(sa.select(tables.jobs)).all()
        files = connection.execute(sa.select(tables.files)).all()
        events = connection.execute(sa.select(tables.job_events)).all()
    by_id = {row.id: row for row in usage}
    by_user = Counter(row.user for row in usage)
    lost = [one for one in log.answers if one["id"] not in by_id or by_id[one["id"]].user != pseudonym(one["user"])]
    lost += [one for one in log.answers if one not in lost and by_id[one["id"]].completion_tokens != one["tokens"]]
    known = {
        pseudonym(f"{what} {number + 1}")
        for what in ("chat", "streamed", "classify")
        for number in range(log.attempts[what])
    }
    doubled = sum(count - 1 for count in by_user.values()) + sum(row.user not in known for row in usage)
    found: list[tuple[str, int, int, int]] = [("usage records of answers", len(log.answers), len(lost), doubled)]

    about = {row.id: row for row in said}
    lost = [one for one in log.feedback if one["id"] not in about or about[one["id"]].answer_id != one["answer"]]
    found.append(("feedback", len(log.feedback), len(lost), repeated(row.comment for row in said)))

    numbers = [row.asked["metadata"]["number"] for row in jobs]
    kept = {row.id: row for row in jobs}
    lost = [job for job in log.jobs if job not in kept or kept[job].state != "succeeded"]
    found.append(("fine-tuning jobs", len(log.jobs), len(lost), repeated(numbers)))
    steps = [(row.job_id, row.message) for row in events if row.message.startswith(("Step", "Created", "New", "Check"))]
    complete = {job for job, message in steps if message.startswith("New")}
    found.append(("events of jobs", len(events), len(set(log.jobs) - complete), repeated(steps)))

    there = {row.id: row for row in files}
    lost = [one for one in log.files if one["id"] not in there or there[one["id"]].sha256 != one["sha256"]]
    client = traffic.client(traffic.talker, 0)
    lost += [
        one
        for one in log.files
        if one not in lost and hashlib.sha256(client.files.content(one["id"]).read()).hexdigest() != one["sha256"]
    ]
    # Every job has a result file of the same name.
    names = [row.filename for row in files if row.purpose != "fine-tune-results"]
    found.append(("files", len(log.files), len(lost), repeated(names)))
    found.append(("models under their names", len(log.answers), 0, wrong_models(log, store, by_id)))
    return found


def repeated(items: Iterable[object]) -> int:
    return sum(count - 1 for count in Counter(items).values())


def wrong_models(log: Log, store: Store, by_id: dict) -> int:
    """Answers by other weights than those the name stood for, or that say something else than the same weights did."""
    versions = {record.version: record.digest for record in store.list_models() if record.name == DESK}
    registered = {row.fine_tuned_model: row.registered for row in jobs_of(store)}
    said: dict[tuple[str, str], set[str]] = defaultdict(set)
    wrong = 0
    for one in log.answers:
        digest = by_id[one["id"]].model_digest
        if one["name"] == DESK:
            sure = [version for since, until, version in log.phases if since <= one["begun"] and one["ended"] <= until]
            wanted = [versions[version] for version in sure or versions]
        else:
            wanted = [store.resolve(TALKER if one["name"] == TALKER else registered[one["name"]]).digest]
            wrong += one["weights"] != f"fp_{digest[:12]}"
        wrong += digest not in wanted
        said[digest, one["asked"]].add(one["said"])
    return wrong + sum(len(texts) - 1 for texts in said.values())


def jobs_of(store: Store) -> list:
    with store.reading() as connection:
        return list(connection.execute(sa.select(tables.jobs)).all())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work, and what is kept for a look afterwards")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="wyrmling-chaos-"))
    project, messages = make_project(folder)
    scopes = [part for scope in ("infer", "feedback", "files", "train") for part in ("--scope", scope)]
    key, _ = wyrmling(project, "keys", "create", "chaos", *scopes)
    desk, talker = (Server(project, name, free_port()) for name in (DESK, TALKER))
    log = Log()
    traffic = Traffic(desk, talker, key["secret"], messages, log)
    for server in (desk, talker):
        server.start()
    try:
        for server in (desk, talker):
            server.wait()
        seconds = asked.minutes * 60
        work = [(traffic.chat, 1), (traffic.chat, 2), (traffic.classify, 3), (traffic.classify, 4),
                (traffic.upload, 5), (traffic.tune, 6)]  # fmt: skip
        clients = [threading.Thread(target=one, args=(seed,)) for one, seed in work]
        failed: list[BaseException] = []

        def change() -> None:
            try:
                promote_and_go_back(desk, log, seconds)
            except BaseException as error:
                failed.append(error)

        clients.append(threading.Thread(target=change))
        for client in clients:
            client.start()
        started = time.time()
        kill_now_and_then([desk, talker], asked.kills, seconds, log, random.Random(asked.seed))
        time.sleep(max(0.0, started + seconds - time.time()))
        traffic.stop.set()
        for client in clients:
            client.join()
        if failed:
            raise failed[0]
        for server in (desk, talker):
            server.wait()
        store = Store.open(config.load(project).database_url)
        return report(log, judge(traffic, store), time.time() - started)
    finally:
        for server in (desk, talker):
            if server.process is not None and server.process.poll() is None:
                os.kill(server.process.pid, signal.SIGTERM)
                server.process.wait()
        if asked.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def report(log: Log, found: list[tuple[str, int, int, int]], seconds: float) -> int:
    outside = [
        error for error in log.errors if not error[3].startswith("connection") or not meanwhile(log, *error[1:3])
    ]
    print(f"\n{seconds / 60:.1f} minutes, {len(log.down)} kills, {sum(b - a for a, b in log.down):.0f} s down in all")
    print("\n| what | accepted | lost | doubled or wrong |\n|---|---|---|---|")
    for name, count, lost, doubled in found:
        print(f"| {name} | {count} | {lost} | {doubled} |")
    print(f"| requests that failed while down | {len(log.errors) - len(outside)} | | |")
    print(f"| requests that failed otherwise, 5xx among them | | | {len(outside)} |")
    for what, begun, ended, why in outside[:20]:
        print(f"  {what}, {ended - begun:.1f} s: {why}")
    for job in log.jobs.values():
        if job.get("status") != "succeeded":
            print(f"  {job}")
    right = not outside and not any(lost or doubled for _, _, lost, doubled in found)
    return 0 if right else 1


def meanwhile(log: Log, begun: float, ended: float) -> bool:
    """Whether a request was under way while the servers were down."""
    return any(begun <= until and since <= ended for since, until in log.down)


if __name__ == "__main__":
    sys.exit(main())
