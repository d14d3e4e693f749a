"""HTTP responses with stored files and their ranges."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from server.api.error_handlers import add_error_handlers
from server.api.responses.stored_file import file_response
from server.storage.files.folder import FolderStorage

CONTENT = b"0123456789"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """An application that serves one file."""
    storage = FolderStorage(tmp_path, ".mp4")
    (tmp_path / "a.mp4").write_bytes(CONTENT)
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/")
    @app.head("/")
    async def show(request: Request) -> Response:
        return file_response(request, storage, (await storage.stat(["a.mp4"]))["a.mp4"], "video/mp4")

    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize(
    ("requested", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 10),
        ("bytes=3-5", 3, 6),
        ("Bytes=3-5", 3, 6),
        ("bytes=9-9", 9, 10),
        ("bytes=5-100", 5, 10),
        ("bytes=-3", 7, 10),
        ("bytes=-100", 0, 10),
    ],
)
def test_a_range(client: TestClient, requested: str, start: int, end: int) -> None:
    answer = client.get("/", headers={"Range": requested})

    assert (answer.status_code, answer.content) == (206, CONTENT[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/10"
    assert answer.headers["content-length"] == str(end - start)
    head = client.head("/", headers={"Range": requested})
    assert (head.status_code, head.content) == (206, b"")
    assert head.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-1,4-5"}, {"Range": "bytes=0-1", "If-Range": '"other"'}])
def test_the_whole_file(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.get("/", headers=headers)

    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "content-range" not in answer.headers
    assert answer.headers["content-type"] == "video/mp4"


@pytest.mark.parametrize("tag", ["etag", "last-modified"])
def test_a_download_is_resumed_only_with_the_same_file(client: TestClient, tag: str, tmp_path: Path) -> None:
    first = client.get("/", headers={"Range": "bytes=0-4"})
    condition = {"Range": "bytes=5-", "If-Range": first.headers[tag]}

    assert client.get("/", headers=condition).content == CONTENT[5:]
    (tmp_path / "a.mp4").write_bytes(b"another one")
    if tag == "etag":
        assert client.get("/", headers=condition).content == b"another one"


@pytest.mark.parametrize("requested", ["bytes=10-", "bytes=-0", "bytes=999999999-"])
def test_a_range_beyond_the_end(client: TestClient, requested: str) -> None:
    answer = client.get("/", headers={"Range": requested})

    assert (answer.status_code, answer.json()["status_message"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize("requested", ["bytes=-", "bytes=5-3", "bytes=a-b", "bytes=" + "9" * 5000])
def test_a_malformed_range(client: TestClient, requested: str) -> None:
    answer = client.get("/", headers={"Range": requested})

    assert (answer.status_code, answer.json()["status_message"]) == (400, "invalid_params")
