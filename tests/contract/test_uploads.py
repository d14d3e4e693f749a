"""Images that are uploaded before the requests that name them."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.test_image_input import (
    KEYS,
    REQUEST,
    drawn,
    encoded,
    images_of,
    in_base64,
    kept_times,
    made,
    newest,
    noise,
)
from tests.support.models.serving import ti2v_models, ti2v_server
from tests.support.server_process import ServerProcess

NOT_FOUND = "input_image: there is no such upload, or it has expired: upload the file again."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("uploads")
    process = ti2v_server(folder / "data", ti2v_models(folder), api_keys=",".join(KEYS))
    process.start()
    process.http.headers["Authorization"] = f"Bearer {KEYS[0]}"
    yield process
    process.close()


def upload(http: httpx.Client, content: bytes, media_type: str = "image/png") -> dict[str, Any]:
    answer = http.post("/uploads", content=content, headers={"content-type": media_type})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_an_upload_gives_the_video_of_its_image(server: ServerProcess) -> None:
    image = drawn((60, 40), seed=12)
    content = encoded(image)
    brought = made(server, server.http.post("/videos/generate", json={**REQUEST, "input_image": in_base64(image)}))
    form = server.http.post("/uploads", data={"purpose": "input"}, files={"file": ("ox.png", content)})
    assert form.status_code == 201, form.text

    for sent in (form.json(), upload(server.http, content), upload(server.http, content, "application/octet-stream")):
        assert sent["id"].startswith("upload:")
        assert (sent["object"], sent["bytes"], sent["width"], sent["height"]) == ("upload", len(content), 60, 40)
        assert time.time() + 3500 < sent["expires"] < time.time() + 3700
        body = {**REQUEST, "input_image": sent["id"]}
        assert made(server, server.http.post("/videos/generate", json=body)) == brought
    row = newest(server)
    assert row["input_image"].startswith(server.url)
    assert httpx.get(row["input_image"]).headers["content-type"] == "image/png"
    assert kept_times(server, image) == 1


def test_an_upload_decides_the_size_and_warns(server: ServerProcess) -> None:
    image = drawn((60, 30), seed=1).convert("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    sent = upload(server.http, encoded(image))
    warning = "input_image has transparent parts, which are shown on white."
    assert sent["warnings"] == [warning]

    body = {**REQUEST, "input_image": sent["id"], "width": 60, "height": None}
    answer = server.http.post("/queue", json=body)

    assert answer.headers["Paddock-Warnings"] == warning
    row = server.wait_for(answer.json()["generations"][0]["generation_id"], "succeeded")
    assert row["warnings"] == [warning]


def test_another_keys_upload_is_as_unknown_as_one_that_never_was(server: ServerProcess) -> None:
    sent = upload(server.http, encoded(drawn(seed=2)))["id"]
    head, _, signature = sent.rpartition(".")
    ids = [sent, f"{head}.{signature[::-1]}", "upload:none", "upload:", "upload:" + "x" * 4000]

    with closing(server.with_key(KEYS[1]).http) as other:
        for id_ in ids:
            body = {**REQUEST, "input_image": id_}
            refused = other.post("/videos/generate", json=body)
            assert refused.status_code == 400
            assert refused.json()["error"]["message"] == NOT_FOUND
            assert other.post("/queue", json=body).status_code == 200
            row = other.get("/generations", params={"page_size": 1}).json()["generations"][0]
            assert (row["status"], row["error_message"]) == ("failed", NOT_FOUND)
    assert server.http.post("/videos/generate", json={**REQUEST, "input_image": sent}).status_code == 200


def test_an_upload_outlives_a_restart(server: ServerProcess) -> None:
    sent = upload(server.http, encoded(drawn(seed=3)))["id"]
    server.kill()
    server.start()

    assert server.http.post("/videos/generate", json={**REQUEST, "input_image": sent}).status_code == 200


def test_an_upload_whose_image_was_removed_has_expired(server: ServerProcess) -> None:
    before = set(images_of(server))
    sent = upload(server.http, encoded(drawn(seed=4)))["id"]
    (added,) = set(images_of(server)) - before
    Path(added).unlink()

    refused = server.http.post("/videos/generate", json={**REQUEST, "input_image": sent})

    assert refused.json()["error"]["message"] == NOT_FOUND


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"content": b"{}", "headers": {"content-type": "application/json"}}, 415, "with its media type"),
        ({"content": b"ox", "headers": {"content-type": "text/plain"}}, 415, "with its media type"),
        ({"content": b"ox"}, 415, "with its media type"),
        (
            {"content": b"ox", "headers": {"content-type": "image/png"}},
            400,
            "must be a JPEG, PNG, WebP, BMP or GIF file, an MP4, MOV, WebM or Matroska file, or a WAV, MP3",
        ),
        ({"content": bytes(21 * 2**20), "headers": {"content-type": "image/png"}}, 413, "at most 20 MB"),
        ({"content": bytes(101 * 2**20), "headers": {"content-type": "video/mp4"}}, 413, "at most 100 MB"),
        ({"files": {"file": bytes(102 * 2**20)}}, 413, "at most 100 MB"),
        ({"files": {"file": bytes(20 * 2**20 + 1)}}, 400, "at most 20 MB"),
        ({"files": {"image": b"ox"}}, 400, "'image' must not be a file; file may be one."),
        ({"files": {"file": (None, "ox")}}, 400, "The form must have a file as its field file."),
        ({"files": [("file", b"a"), ("file", b"b")]}, 400, "Too many files"),
        ({"files": {"file": b"ox"}, "headers": {"authorization": "Bearer wrong"}}, 401, "key"),
        ({"files": {"file": b"ox"}, "headers": {"origin": "https://evil.test"}}, 400, "A page of another site"),
    ],
)
def test_what_is_no_upload_is_refused(options: Any, status: int, words: str, server: ServerProcess) -> None:
    answer = server.http.post("/uploads", **options)

    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


def test_a_large_image_may_be_uploaded(server: ServerProcess) -> None:
    content = encoded(noise(1200))
    assert len(content) > 4_000_000

    assert upload(server.http, content)["bytes"] == len(content)
    assert server.http.post(f"{server.url}/uploads", files={"file": content}).status_code == 201
