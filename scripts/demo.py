"""The main job end to end on the shipped support-desk example; `scripts/demo` prepares the environment and calls this.

Makes the project, runs it, serves the model, asks one question over HTTP, rates the answer, and prints what it made,
what it cost, and a curl line. Run again, it finds everything made and only serves and asks.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

QUESTION = "I still have not received my new card, it was ordered two weeks ago"
PROJECT = "support-desk"
WYRMLING = [sys.executable, "-m", "wyrmling"]


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else f"demo/{PROJECT}")
    started = time.monotonic()
    if not (folder / "wyrmling.toml").is_file():
        subprocess.run([*WYRMLING, "init", str(folder), "--example", PROJECT, "--quiet"], check=True)
    done = subprocess.run([*WYRMLING, "run", "--project", str(folder)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout)
        return done.returncode
    port = free_port()
    server = subprocess.Popen(
        [*WYRMLING, "serve", "--project", str(folder), "--model", PROJECT, "--port", str(port), "--quiet"],
        stdout=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(server, address)
        asked = post(f"{address}/v1/classify", {"model": PROJECT, "input": QUESTION})
        answer = asked["data"][0]
        probability = answer["probabilities"][answer["label"]]
        rated = post(f"{address}/v1/feedback", {"id": asked["id"], "rating": 1, "comment": "demo"})
    finally:
        server.terminate()
        server.wait(timeout=60)
    print(f"\nasked     {QUESTION}\nanswered  {answer['label']}  ({probability:.0%})\nrated     {rated['id']}\n")
    print(done.stdout)
    print(f"all of this took {(time.monotonic() - started) / 60:.1f} minutes; the project is in {folder}\n")
    print(f"serve it:  .venv/bin/wyrmling serve --project {folder} --model {PROJECT}")
    print(
        "ask it:    curl http://127.0.0.1:8000/v1/classify -H 'content-type: application/json' "
        f"-d '{json.dumps({'model': PROJECT, 'input': QUESTION})}'"
    )
    return 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(server: subprocess.Popen[bytes], address: str) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit("the server stopped; run `wyrmling serve` by hand to see why")
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise SystemExit("the server did not get ready within a minute")


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


if __name__ == "__main__":
    sys.exit(main())
