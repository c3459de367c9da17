"""The whole loop on support-desk: serve, replay messages with corrections over HTTP, accept, retrain, roll back.

    python benchmarks/loop.py --per-label 20 --wrong 0 0.3

300 messages are held out of the shipped training file (Banking77), the champion learns from the rest (from --per-label
of each intent at most). A user confirms each right answer and corrects each wrong one; with --wrong that share of the
messages gets a random other label instead; of several shares each begins with the same champion. Everything goes
through the command line and HTTP, as in production.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
Row = dict[str, str]


def wyrmling(project: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> tuple[dict, float]:
    """What a verb says with --json, and the seconds it took."""
    started = time.monotonic()
    command = [sys.executable, "-m", "wyrmling", *arguments, "--project", str(project), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in codes:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout), time.monotonic() - started


def keep_intents(table: Path, intents: int | None) -> list[Row]:
    """The rows of a table with the first so many intents of the alphabet; the table keeps no others."""
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    names = sorted({row["category"] for row in rows})[:intents]
    kept = [row for row in rows if row["category"] in names]
    write(table, kept)
    return kept


def write(table: Path, rows: list[Row]) -> None:
    with table.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def make_project(folder: Path, per_label: int | None, intents: int | None, held_out: int, accept: str) -> list[Row]:
    """The example with fewer rows; the messages that were held out."""
    ignored = shutil.ignore_patterns("runs", "wyrmling.db*")
    shutil.copytree(ROOT / "examples" / "support-desk", folder, ignore=ignored, dirs_exist_ok=True)
    rows = keep_intents(folder / "data" / "train.csv", intents)
    tested = keep_intents(folder / "data" / "test.csv", intents)
    random.Random(0).shuffle(rows)
    messages, rest = rows[:held_out], rows[held_out:]
    taken: dict[str, int] = defaultdict(int)
    kept = []
    for row in rest:
        taken[row["category"]] += 1
        if per_label is None or taken[row["category"]] <= per_label:
            kept.append(row)
    write(folder / "data" / "train.csv", kept)
    settings = folder / "wyrmling.toml"
    text = settings.read_text(encoding="utf-8")
    start = text.index("accept = ")
    text = text[:start] + f'accept = ["{accept}"]' + text[text.index("\n", start) :]
    settings.write_text(text, encoding="utf-8")
    learned = f"{len(kept):,} messages of {len(taken)} intents"
    print(f"champion learns from {learned}, tested on {len(tested):,}; {len(messages):,} are held out", flush=True)
    return messages


@contextlib.contextmanager
def served(project: Path) -> Iterator[str]:
    """The address of a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "wyrmling", "serve", "--project", str(project), "--model", "support-desk"]
    server = subprocess.Popen([*command, "--port", str(port), "--quiet"], stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while version(address) is None:
            if server.poll() is not None:
                raise SystemExit("the server stopped")
            time.sleep(0.05)
        yield address
    finally:
        server.terminate()
        server.wait()


def version(address: str) -> int | None:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            return int(json.load(answer)["version"])
    except OSError:
        return None


def post(address: str, path: str, body: dict) -> dict:
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict = json.load(answer)
    return found


def replay(address: str, messages: list[Row], wrong: float) -> dict[str, int]:
    """Ask every message, and say what a user would."""
    draw, labels = random.Random(1), sorted({row["category"] for row in messages})
    said = {"confirmed": 0, "corrected": 0, "wrongly": 0}
    for number, row in enumerate(messages):
        user = f"user {number % 40}"
        asked = {"model": "support-desk", "input": row["text"], "user": user}
        answer = post(address, "/v1/classify", asked)
        body = {"id": answer["id"], "prompt": row["text"], "user": user}
        if draw.random() < wrong:
            said["wrongly"] += 1
            body["correction"] = draw.choice([label for label in labels if label != row["category"]])
        elif answer["data"][0]["label"] == row["category"]:
            said["confirmed"] += 1
            body["rating"] = "up"
        else:
            said["corrected"] += 1
            body |= {"rating": "down", "correction": row["category"]}
        post(address, "/v1/feedback", body)
    return said


@contextlib.contextmanager
def traffic(address: str, messages: list[Row]) -> Iterator[list[str]]:
    """Some twenty requests a second, from two clients; what went wrong."""
    failures: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                post(address, "/v1/classify", {"model": "support-desk", "input": random.choice(messages)["text"]})
            except OSError as error:
                failures.append(str(error))
            stop.wait(0.1)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    try:
        yield failures
    finally:
        stop.set()
        for asker in askers:
            asker.join()


def noticed(address: str, wanted: int) -> float:
    """Seconds until the server answers with a version."""
    started = time.monotonic()
    while version(address) != wanted:
        time.sleep(0.005)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-label", type=int, help="training messages of each intent at most; all without")
    parser.add_argument("--intents", type=int, help="only so many of the 77 intents")
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument(
        "--wrong", type=float, nargs="+", default=[0.0], help="shares of the messages that get a wrong correction"
    )
    parser.add_argument("--accept", default="macro_f1 >= 0.5", help="the project's objective")
    parser.add_argument("--folder", type=Path, help="where to work; the champion of an earlier call is found there")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="wyrmling-loop-"))
    first_project, project = folder / "champion", folder / "support-desk"
    messages = make_project(first_project, options.per_label, options.intents, options.messages, options.accept)
    first, seconds = wyrmling(first_project, "run", codes=(0, 3, 4))
    print(f"champion {first['model']}: macro F1 {first['summary']['score']['value']:.4f}, {seconds:.0f} s", flush=True)
    if first["verdict"]["status"] != "PASS":
        wyrmling(first_project, "models", "promote", first["model"])
    for wrong in options.wrong:
        shutil.rmtree(project, ignore_errors=True)
        shutil.copytree(first_project, project)
        print(f"\n{wrong:.0%} wrong corrections", flush=True)
        go_round(project, messages, wrong)


def go_round(project: Path, messages: list[Row], wrong: float) -> None:
    """Serve, replay, accept, retrain, and go back when it promoted."""
    with served(project) as address:
        started = time.monotonic()
        said = replay(address, messages, wrong)
        print(f"replayed {len(messages)}: {said}, {time.monotonic() - started:.1f} s", flush=True)
        wyrmling(project, "feedback", "accept", "--all")
        with traffic(address, messages) as failures:
            found, seconds = wyrmling(project, "retrain", codes=(0, 3, 4))
            print(f"{found['verdict']} in {seconds:.0f} s: {found['why']}")
            for condition in found["conditions"]:
                print(f"  {condition['status']:<12} {condition['name']}: {condition['text']}")
            if found["verdict"] == "PROMOTE":
                print(f"promoted: noticed {noticed(address, 2) * 1000:.0f} ms after the command ended")
                _, seconds = wyrmling(project, "models", "rollback")
                after = noticed(address, 1)
                print(f"rolled back: command {seconds:.2f} s, noticed {after * 1000:.0f} ms after it ended")
        print(f"requests that failed meanwhile: {len(failures)}")


if __name__ == "__main__":
    main()
