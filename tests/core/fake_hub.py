"""A hub on loopback that speaks the few routes that huggingface_hub needs to download a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories by name: files, and their state. `requests` is everything that was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.requests: list[str] = []
        self.cut_off: set[str] = set()
        """Files of which half is sent before the line drops."""
        self.address = ""

    def commit(self, repository: str) -> str:
        content = [name.encode() + data for name, data in sorted(self.repositories[repository].items())]
        return hashlib.sha1(b"".join(content)).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(f"{self.command} {path}")
            parts = path.removeprefix("api/models/").split("/")
            repository = "/".join(parts[:2])
            if repository not in hub.repositories:
                return self._error(404, "RepoNotFound")
            commit = hub.commit(repository)
            revision = parts[3] if len(parts) > 3 else "main"
            if revision not in ("main", commit):
                return self._error(404, "RevisionNotFound")
            if path.startswith("api/models/") and "tree" not in parts[2:3]:
                return self._json({"id": repository, "sha": commit, "siblings": self._files(repository, "rfilename")})
            if repository in hub.gated:
                return self._error(403, "GatedRepo")
            if path.startswith("api/models/"):
                return self._json(self._files(repository, "path"))
            return self._file(repository, commit, "/".join(parts[4:]))

        def _files(self, repository: str, key: str) -> list[dict[str, object]]:
            files = hub.repositories[repository].items()
            return [{key: n, "type": "file", "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for n, d in files]

        def _file(self, repository: str, commit: str, name: str) -> None:
            data = hub.repositories[repository].get(name)
            if data is None:
                self._error(404, "EntryNotFound")
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                cut = name in hub.cut_off
                self.wfile.write(data[: len(data) // 2] if cut else data)
                self.close_connection = cut

        def _json(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _error(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
