"""A video that is made of another one, through every way in which a client can send it."""

import base64
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from paddock import Client, InvalidArgumentError
from tests.support.clips import clip, write_clip
from tests.support.server_process import SMALL, ServerProcess
from tests.support.video import psnr, read_video

KEYS = ("a-key-of-one", "a-key-of-another")
REQUEST: dict[str, Any] = {**SMALL, "seed": 7, "num_inference_steps": 4, "strength": 0.5}
NO_SIZE: dict[str, Any] = {**REQUEST, "width": None, "height": None, "num_frames": None}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("videos") / "data", api_keys=",".join(KEYS))
    process.start()
    process.http.headers["Authorization"] = f"Bearer {KEYS[0]}"
    yield process
    process.close()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 9).read_bytes()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def made(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return httpx.get(answer.json()["video_url"]).content


def enqueued(server: ServerProcess, **body: Any) -> dict[str, Any]:
    answer = server.http.post("/queue", json=body)
    assert answer.status_code == 200, answer.text
    return server.wait_for(answer.json()["generations"][0]["generation_id"], "succeeded", "failed")


def sentence(server: ServerProcess, **body: Any) -> str:
    answer = server.http.post("/videos/generate", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_params"
    return str(answer.json()["error"]["message"])


def test_every_way_to_send_a_video_gives_the_same_one(server: ServerProcess, content: bytes) -> None:
    fields = {name: str(value) for name, value in REQUEST.items()}
    upload = server.http.post("/uploads", content=content, headers={"Content-Type": "video/mp4"}).json()
    assert {name: upload[name] for name in ("width", "height", "num_frames", "fps")} == {
        "width": 96,
        "height": 64,
        "num_frames": 9,
        "fps": 16,
    }

    videos = {
        made(answer)
        for answer in (
            server.http.post("/videos/generate", json={**REQUEST, "input_video": text(content)}),
            server.http.post(
                "/videos/generate", json={**REQUEST, "input_video": f"data:video/mp4;base64,{text(content)}"}
            ),
            server.http.post("/videos/generate", data=fields, files={"input_video": ("ox.mp4", content)}),
            server.http.post("/videos/generate", json={**REQUEST, "input_video": upload["id"]}),
        )
    }

    assert len(videos) == 1
    without = {name: value for name, value in REQUEST.items() if name != "strength"}
    assert made(server.http.post("/videos/generate", json=without)) not in videos
    assert [path.suffix for path in (server.data_dir / "inputs").iterdir()] == [".mp4"]


def test_the_row_has_a_signed_link_to_the_video_and_never_its_bytes(server: ServerProcess, content: bytes) -> None:
    row = enqueued(server, **REQUEST, input_video=text(content))

    assert row["status"] == "succeeded", row["error_message"]
    assert text(content)[:40] not in str(row)
    assert row["strength"] == 0.5
    link = httpx.get(row["input_video"])
    assert link.headers["content-type"] == "video/mp4"
    assert hashlib.sha256(link.content).hexdigest() in str([*(server.data_dir / "inputs").iterdir()])
    assert psnr(link.content, content) > 34
    # what it links to can be sent again, and is the same video
    assert (
        made(server.http.post("/videos/generate", json={**REQUEST, "input_video": text(content)}))
        == httpx.get(row["result_url"]).content
    )


def test_the_video_decides_size_and_length(server: ServerProcess, content: bytes) -> None:
    row = enqueued(server, **NO_SIZE, resolution="480p", input_video=text(content))

    video = httpx.get(row["result_url"]).content
    frames, height, width, _ = read_video(video).shape
    assert frames == 9
    assert width / height == pytest.approx(96 / 64, rel=0.02)
    assert row["warnings"] == []


def test_a_length_that_the_video_does_not_have_is_told(server: ServerProcess, content: bytes) -> None:
    few = enqueued(server, **{**REQUEST, "num_frames": 5}, input_video=text(content))
    assert few["warnings"] == ["input_video has 9 frames at 16 a second: only its first 5 are used."]
    assert len(read_video(httpx.get(few["result_url"]).content)) == 5

    many = enqueued(server, **{**REQUEST, "num_frames": 30}, input_video=text(content))
    assert many["warnings"] == ["input_video has only 9 frames at 16 a second: the video has as many."]
    assert len(read_video(httpx.get(many["result_url"]).content)) == 9


def test_the_strength_decides_how_much_is_left(server: ServerProcess, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "clip.mp4", 9, 64, 64)
    body = {**REQUEST, "num_frames": 9, "num_inference_steps": 8, "input_video": text(source.read_bytes())}

    near, far = (made(server.http.post("/videos/generate", json={**body, "strength": share})) for share in (0.13, 1))

    assert psnr(near, source) > psnr(far, source) + 4
    assert made(server.http.post("/videos/generate", json={**body, "strength": 0.8})) == made(
        server.http.post("/videos/generate", json={name: value for name, value in body.items() if name != "strength"})
    )


def test_another_rate_is_read_at_the_models(server: ServerProcess) -> None:
    row = enqueued(server, **NO_SIZE, input_video=text(clip(64, 64, 50, 25)))

    assert row["status"] == "succeeded", row["error_message"]
    assert len(read_video(httpx.get(row["result_url"]).content)) == 32


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"input_video": "AAAA"}, "input_video must be an MP4, MOV, WebM or Matroska file."),
        ({"input_video": 5}, "input_video must be a string: a video in base64, a data URL, a URL or an upload"),
        ({"input_video": "upload:x"}, "input_video: there is no such upload"),
        ({"input_video": "http://169.254.169.254/a.mp4"}, "input_video"),
        ({"strength": 0}, "strength must be a number above 0 and at most 1"),
        ({"strength": 1.5}, "strength must be a number above 0 and at most 1"),
        ({"strength": "much"}, "strength must be a number above 0 and at most 1"),
        ({"strength": 0.2}, "strength must be at least 0.25 with num_inference_steps 4"),
        ({"input_image": "AAAA"}, "input_video and input_image exclude each other"),
        ({"tail_image_url": "AAAA"}, "input_video and tail_image_url exclude each other"),
    ],
)
def test_what_cannot_be_used_is_told(
    server: ServerProcess, content: bytes, changes: dict[str, Any], expected: str
) -> None:
    assert sentence(server, **{**REQUEST, "input_video": text(content), **changes}).startswith(expected)


def test_an_upload_is_of_its_kind_and_its_key(server: ServerProcess, content: bytes) -> None:
    upload = server.http.post("/uploads", files={"file": content}).json()["id"]

    other = httpx.post(
        f"{server.url}/api/ai/videos/generate",
        json={**REQUEST, "input_video": upload},
        headers={"Authorization": f"Bearer {KEYS[1]}"},
    )
    assert other.status_code == 400
    assert "no such upload" in other.text
    large = server.http.post("/uploads", content=bytes(20 * 2**20 + 1), headers={"Content-Type": "image/png"})
    assert large.status_code == 413


def test_a_video_that_is_not_kept_any_more_fails_with_a_sentence(server: ServerProcess, content: bytes) -> None:
    blocked = server.http.post("/queue", json={**SMALL, "num_frames": 81, "num_inference_steps": 12, "width": 416})
    answer = server.http.post("/queue", json={**REQUEST, "input_video": text(content)})
    for path in (server.data_dir / "inputs").iterdir():
        path.unlink()

    row = server.wait_for(answer.json()["generations"][0]["generation_id"], "succeeded", "failed")
    server.http.post(f"/queue/{blocked.json()['generations'][0]['generation_id']}/cancel")

    assert row["status"] == "failed"
    assert row["error_message"].startswith("The input video cannot be read")


def test_client_and_command_line_take_a_path(server: ServerProcess, content: bytes, tmp_path: Path) -> None:
    expected = made(server.http.post("/videos/generate", json={**REQUEST, "input_video": text(content)}))
    source, target = tmp_path / "clip.mp4", tmp_path / "new.mp4"
    source.write_bytes(content)
    named = {name: value for name, value in REQUEST.items() if name not in ("prompt", "model")}

    with Client(server.url, api_key=KEYS[0]) as client:
        for value in (source, str(source), content):
            generation = client.generate(REQUEST["prompt"], model=REQUEST["model"], input_video=value, **named)
            assert client.download(generation, target).read_bytes() == expected
        with pytest.raises(InvalidArgumentError, match=r"input_video: .*none\.mp4 cannot be read"):
            client.enqueue("an ox", model=REQUEST["model"], input_video=tmp_path / "none.mp4")

    options = [
        *("--width", "64", "--height", "64", "--frames", "5", "--steps", "4", "--seed", "7"),
        *("--video", str(source), "--strength", "0.5", "--model", REQUEST["model"]),
    ]
    command = [sys.executable, "-P", "-m", "server.cli", "generate", REQUEST["prompt"], *options]
    command += ["--output", str(tmp_path / "by-command.mp4"), "--url", server.url]
    subprocess.run(command, check=True, env={**os.environ, "PADDOCK_API_KEY": KEYS[0]}, timeout=120)
    assert (tmp_path / "by-command.mp4").read_bytes() == expected


def test_a_request_that_is_sent_again_needs_its_upload_no_more(server: ServerProcess, content: bytes) -> None:
    def uploaded() -> str:
        return str(server.http.post("/uploads", content=content, headers={"Content-Type": "video/mp4"}).json()["id"])

    def asked(upload: str) -> httpx.Response:
        headers = {"Idempotency-Key": "a-video-again"}
        return server.http.post("/videos/generate", json={**REQUEST, "input_video": upload}, headers=headers)

    upload = uploaded()
    first = asked(upload)
    assert first.status_code == 200, first.text
    time.sleep(1.1)
    # of another second, so it has another id
    again = uploaded()
    assert again != upload
    for path in (server.data_dir / "inputs").iterdir():
        path.unlink()

    same = [asked(each) for each in (upload, again)]

    links = {answer.json()["video_url"].rpartition("/")[2].partition(".")[0] for answer in (first, *same)}
    assert len(links) == 1
    other = server.http.post(
        "/videos/generate",
        json={**REQUEST, "strength": 1, "input_video": again},
        headers={"Idempotency-Key": "a-video-again"},
    )
    assert other.status_code == 409


def test_a_strength_without_a_video_is_said_to_be_ignored(server: ServerProcess) -> None:
    row = enqueued(server, **REQUEST)

    assert row["warnings"] == ["strength has no effect without input_video: it was ignored."]
    assert row["status"] == "succeeded"
