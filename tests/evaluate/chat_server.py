"""A little server that speaks as the API of a chat model, and says what a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def fake(answer: Callable[[dict[str, Any], int], tuple[int, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers request number n as `answer(body, n)` says, and its log of requests."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append(body | {"key": self.headers.get("authorization"), "path": self.path})
            status, said = answer(body, len(seen))
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            # Who asked may have gone away.
            with suppress(OSError):
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def said(text: str) -> tuple[int, Any]:
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return 200, {"choices": [{"message": {"content": text}}], "usage": usage}
