"""A fake hub with one repository: the routes that a download needs, with errors on demand."""

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".gguf", ".bin", "tokenizer.json", "spiece.model")
"""Files that a hub stores outside of git and serves from another host."""

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Request:
    """An answered request: `sent` counts the bytes of the response body, `start` is the start of its range."""

    method: str
    path: str
    start: int
    sent: int
    authorization: str | None


@dataclass
class Errors:
    """Errors to produce, by file name."""

    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """Bytes after which the connection is closed, one number for each of the next responses."""
    stall_after: dict[str, int] = field(default_factory=dict)
    """Bytes after which nothing more is sent."""
    damaged: dict[str, int] = field(default_factory=dict)
    """The number of responses whose last byte is wrong."""
    refusal: tuple[int, str] | None = None
    """Status and X-Error-Code of every response."""


class Hub:
    """A hub with one repository, `Some/Model`, on a folder. Large files are served from a second address.

    `requests` has the requests to both, in the order in which their responses ended.
    """

    repo = "Some/Model"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.errors = Errors()
        self.requests: list[Request] = []
        self.commit = COMMIT
        self._servers = [_server(self) for _ in range(2)]
        self.url, self.store = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def __enter__(self) -> "Hub":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def sent(self, name: str = "") -> int:
        """Bytes of a file, or of all files, sent so far."""
        return sum(request.sent for request in self.gets(name))

    def gets(self, name: str = "") -> list[Request]:
        """The requests whose responses contained a file's bytes."""
        return [made for made in self.requests if made.method == "GET" and made.path.endswith(name) and made.sent]

    def files(self) -> dict[str, bytes]:
        """The content of every file by name."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def info(self) -> bytes:
        """The repository's metadata, as JSON."""
        siblings = []
        for name, content in self.files().items():
            sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": _blob_id(content)}
            if name.endswith(LARGE):
                sibling["lfs"] = {"size": len(content), "sha256": _sha256(content), "pointerSize": 130}
            siblings.append(sibling)
        return json.dumps({"id": self.repo, "sha": self.commit, "siblings": siblings}).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _server(hub: Hub) -> ThreadingHTTPServer:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    # a stalled connection must not block the test
    server.block_on_close = False
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        if hub.errors.refusal is not None:
            status, code = hub.errors.refusal
            self._reply(status, {"X-Error-Code": code}, b"")
        elif path in (f"/api/models/{hub.repo}", f"/api/models/{hub.repo}/revision/main"):
            self._reply(200, {"Content-Type": "application/json"}, hub.info(), counted=False)
        elif path.startswith(f"/api/models/{hub.repo}/revision/"):
            self._reply(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        elif path.startswith(prefix := f"/{hub.repo}/resolve/{hub.commit}/"):
            self._resolve(path.removeprefix(prefix))
        elif path.startswith("/store/"):
            self._file(path.removeprefix("/store/"), {})
        else:
            self._reply(404, {"X-Error-Code": "RepoNotFound"}, b"")

    def _resolve(self, name: str) -> None:
        content = self.hub.files().get(name)
        commit = {"X-Repo-Commit": self.hub.commit}
        if content is None:
            self._reply(404, {"X-Error-Code": "EntryNotFound", **commit}, b"")
        elif name.endswith(LARGE):
            linked = {"X-Linked-Etag": f'"{_sha256(content)}"', "X-Linked-Size": str(len(content))}
            self._reply(302, {"Location": f"{self.hub.store}/store/{name}", **commit, **linked}, b"")
        else:
            self._file(name, commit)

    def _file(self, name: str, headers: dict[str, str]) -> None:
        content = self.hub.files()[name]
        if self.hub.errors.damaged.get(name, 0) > 0 and self.command == "GET":
            self.hub.errors.damaged[name] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        headers = {"ETag": f'"{_blob_id(content)}"', "Accept-Ranges": "bytes", **headers}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._reply(206 if wanted else 200, headers, content[start:], name, start)

    def _reply(
        self, status: int, headers: dict[str, str], body: bytes, name: str = "", start: int = 0, counted: bool = True
    ) -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        sent = 0
        if self.command == "GET":
            sent = self._send(body, name)
        asked = Request(
            self.command, urlsplit(self.path).path, start, sent if counted else 0, self.headers.get("Authorization")
        )
        self.hub.requests.append(asked)

    def _send(self, body: bytes, name: str) -> int:
        cuts = self.hub.errors.cut_after.get(name, [])
        limit = cuts.pop(0) if cuts else self.hub.errors.stall_after.get(name)
        part = body if limit is None else body[:limit]
        try:
            self.wfile.write(part)
            self.wfile.flush()
            if len(part) < len(body):
                self.close_connection = True
                if name in self.hub.errors.stall_after:
                    time.sleep(60)
        except OSError:
            # the client is gone
            self.close_connection = True
        return len(part)
