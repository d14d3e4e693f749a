"""Images that requests name by their URLs, on both routes of a real server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.test_image_input import MODEL, REQUEST, drawn, encoded, in_base64, made, newest
from tests.support.image_host import ImageHost, content, held, image_host, status
from tests.support.models.serving import ti2v_models, ti2v_server
from tests.support.server_process import ServerProcess, eventually

URL = "http://images.example/ox.png"
OFF = "input_image must be the file itself, in base64 or as a data URL: this server does not fetch URLs."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ti2v_models(tmp_path_factory.mktemp("5b"))


@pytest.fixture(scope="module")
def host() -> Iterator[ImageHost]:
    with image_host() as host:
        yield host


@pytest.fixture(scope="module")
def server(models: Path, host: ImageHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGE_HOST_PORT", str(host.port))
        folder = tmp_path_factory.mktemp("urls") / "data"
        process = ti2v_server(folder, models, module="tests.support.fetching_server")
        process.start()
        yield process
        process.close()


@pytest.fixture(autouse=True)
def image(host: ImageHost) -> bytes:
    whole = encoded(drawn((60, 40)))
    host.may_go_on.clear()
    host.seen.clear()
    host.answers = {"/ox.png": content(whole), "/none": status(404), "/text": content(b"no image")}
    return whole


def enqueue(server: ServerProcess, url: str = URL, **changes: Any) -> str:
    answer = server.http.post("/queue", json={**REQUEST, "input_image": url, **changes})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["generations"][0]["generation_id"])


def test_a_url_gives_the_video_of_its_image(server: ServerProcess, host: ImageHost) -> None:
    brought = made(
        server, server.http.post("/videos/generate", json={**REQUEST, "input_image": in_base64(drawn((60, 40)))})
    )

    assert made(server, server.http.post("/videos/generate", json={**REQUEST, "input_image": URL})) == brought
    fields = {name: str(value) for name, value in REQUEST.items()} | {"input_image": URL}
    files = {name: (None, value) for name, value in fields.items()}
    assert made(server, server.http.post("/videos/generate", files=files)) == brought
    # a file that has only the URL, and a body too large to be parsed whole
    as_file = {**files, "input_image": ("url.txt", URL.encode())}
    assert made(server, server.http.post("/videos/generate", files=as_file)) == brought
    plain = json.dumps({**REQUEST, "input_image": URL}).encode()
    padded = b"{" + b" " * 2_000_000 + plain[1:]
    answer = server.http.post("/videos/generate", content=padded, headers={"content-type": "application/json"})
    assert made(server, answer) == brought
    assert host.paths == ["/ox.png"] * 4


def test_the_row_shows_the_url_until_the_image_is_there(server: ServerProcess, host: ImageHost) -> None:
    host.answers["/ox.png"] = held(host, host.answers["/ox.png"])
    id_ = enqueue(server)
    eventually(lambda: host.paths, server)

    row = server.row(id_)
    assert (row["status"], row["input_image"], row["queue_position"]) == ("queued", URL, 1)
    host.may_go_on.set()
    row = server.wait_for(id_, "succeeded")

    assert row["input_image"].startswith(server.url)
    assert httpx.get(row["input_image"]).headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://images.example/none", "input_image is a URL that answers with HTTP status 404."),
        ("http://images.example/text", "input_image must be a JPEG, PNG, WebP, BMP or GIF file."),
        ("http://unknown.example/", "input_image is a URL of a host that is not found."),
        ("http://127.0.0.1/ox.png", "input_image must be a URL of a public address."),
        ("http://2130706433/ox.png", "input_image must be a URL of a public address."),
        (
            "file:///etc/passwd",
            "input_image must be a URL with https: or http:, or the image itself in base64 or as a data URL.",
        ),
        ("https://" + "x" * 5000, "input_image must be an image, or a URL of at most 4096 characters."),
    ],
)
def test_what_cannot_be_fetched_is_an_invalid_parameter_on_both_routes(
    url: str, sentence: str, server: ServerProcess
) -> None:
    refused = server.http.post("/videos/generate", json={**REQUEST, "input_image": url})
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_params"
    assert refused.json()["error"]["message"] == sentence

    row = server.wait_for(enqueue(server, url), "failed")
    assert row["error_message"] == sentence
    assert row["started_at"] is None


def test_a_cancelled_one_stays_cancelled(server: ServerProcess, host: ImageHost) -> None:
    host.answers["/ox.png"] = held(host, host.answers["/ox.png"])
    id_ = enqueue(server)
    eventually(lambda: host.paths, server)

    assert server.http.delete(f"/queue/{id_}").status_code == 200
    host.may_go_on.set()

    other = enqueue(server)
    assert server.wait_for(other, "succeeded")["status"] == "succeeded"
    assert server.row(id_)["status"] == "cancelled"


def test_a_killed_server_fetches_the_image_after_its_restart(server: ServerProcess, host: ImageHost) -> None:
    whole = host.answers["/ox.png"]
    host.answers["/ox.png"] = held(host, whole)
    id_ = enqueue(server)
    eventually(lambda: host.paths, server)
    server.kill()
    host.answers["/ox.png"] = whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGE_HOST_PORT", str(host.port))
        server.start()

    row = server.wait_for(id_)

    assert row["status"] == "succeeded", row


def test_a_server_that_fetches_nothing_says_so(models: Path, tmp_path: Path) -> None:
    server = ti2v_server(tmp_path / "data", models, fetch_urls="off")
    server.start()
    try:
        refused = server.http.post("/videos/generate", json={**REQUEST, "input_image": "https://example.com/ox.png"})
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == OFF
        enqueue(server, "https://example.com/ox.png")
        assert (newest(server)["status"], newest(server)["error_message"]) == ("failed", OFF)
        # the image itself is still taken
        assert made(server, server.http.post("/videos/generate", json={**REQUEST, "input_image": in_base64(drawn())}))
        assert newest(server)["model_name"] == MODEL
    finally:
        server.close()
