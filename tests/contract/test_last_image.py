"""A video between two images, through every way in which a client can send them."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from paddock import Client
from pipelines.stages.conditioning.images import image_digest
from tests.contract.test_http import error_of
from tests.contract.test_image_input import drawn, encoded, images_of, in_base64, made, newest
from tests.support.command_line import Typed
from tests.support.models.serving import FLF2V, image_models, ti2v_server
from tests.support.server_process import SMALL, ServerProcess, eventually

FIRST, LAST = drawn(seed=1), drawn((80, 64), seed=2)
REQUEST: dict[str, Any] = {**SMALL, "model": FLF2V, "seed": 7}
BOTH: dict[str, Any] = {"input_image": in_base64(FIRST), "end_image_url": in_base64(LAST)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("between")
    process = ti2v_server(folder / "data", image_models(folder))
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def video(server: ServerProcess) -> bytes:
    return made(server, server.http.post("/videos/generate", json={**REQUEST, **BOTH}))


def test_both_images_are_kept_and_linked_and_decide_the_video(server: ServerProcess, video: bytes) -> None:
    row = newest(server)

    for name, image in (("input_image", FIRST), ("end_image_url", LAST)):
        assert httpx.get(row[name]).status_code == 200
        assert any(image_digest(image) in path.name for path in images_of(server))
    assert "tail_image_url" not in row
    other = {**BOTH, "end_image_url": in_base64(drawn(seed=3))}
    assert made(server, server.http.post("/videos/generate", json={**REQUEST, **other})) != video


@pytest.mark.parametrize("way", ["tail_image_url", "data URL", "multipart", "upload", "client", "command line"])
def test_every_way_gives_the_same_video(
    way: str, server: ServerProcess, video: bytes, typed: Typed, tmp_path: Path
) -> None:
    first, last = tmp_path / "first.png", tmp_path / "last.png"
    first.write_bytes(encoded(FIRST))
    last.write_bytes(encoded(LAST))
    post = server.http.post
    if way == "tail_image_url":
        answer = post("/videos/generate", json={**REQUEST, **BOTH, "end_image_url": None, way: in_base64(LAST)})
    elif way == "data URL":
        data = f"data:image/png;base64,{in_base64(LAST)}"
        answer = post("/videos/generate", json={**REQUEST, **BOTH, "end_image_url": data})
    elif way == "multipart":
        files = {"input_image": first.read_bytes(), "end_image_url": last.read_bytes()}
        answer = post("/videos/generate", data={name: str(value) for name, value in REQUEST.items()}, files=files)
    elif way == "upload":
        upload = post("/uploads", files={"file": last.read_bytes()}).json()["id"]
        answer = post("/videos/generate", json={**REQUEST, **BOTH, "end_image_url": upload})
    elif way == "client":
        with Client(server.url) as client:
            found = client.generate(**REQUEST, input_image=first, end_image_url=last)
            assert client.download(found, tmp_path / "client.mp4").read_bytes() == video
        return
    else:
        output = tmp_path / "typed.mp4"
        sizes = {"width": 64, "height": 64, "frames": 5, "steps": SMALL["num_inference_steps"], "seed": 7}
        options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
        images = ["--image", str(first), "--end-image", str(last)]
        ended = typed(
            "generate", SMALL["prompt"], "--model", FLF2V, *images, *options, "--output", str(output),
            PADDOCK_URL=server.url,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert output.read_bytes() == video
        return
    assert made(server, answer) == video


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"end_image_url": None}, f"end_image_url is required: {FLF2V} makes videos that end with an image"),
        ({"input_image": None}, f"input_image is required: {FLF2V} makes videos that begin with an image"),
        ({"num_frames": 1}, "num_frames must be at least 2 with end_image_url"),
        ({"end_image_url": 7}, "end_image_url must be a string: an image in base64, a data URL, a URL or an upload"),
        ({"end_image_url": "AAAA"}, "end_image_url must be a JPEG, PNG, WebP, BMP or GIF file."),
        (
            {"tail_image_url": in_base64(LAST)},
            "end_image_url and tail_image_url are the same parameter: give one of them",
        ),
        ({"end_image_url": "upload:x"}, "end_image_url: there is no such upload, or it has expired: upload the file"),
        ({"end_image_url": "http://127.0.0.1/x.png"}, "end_image_url must"),
    ],
)
def test_faults_name_the_parameter(changes: dict[str, Any], sentence: str, server: ServerProcess) -> None:
    body = {**REQUEST, **BOTH, **changes}

    assert error_of(server.http.post("/videos/generate", json=body), 400)["message"].startswith(sentence)
    assert server.http.post("/queue", json=body).status_code == 200
    row = newest(server)
    assert row["status"] == "failed"
    assert row["error_message"].startswith(sentence)


def test_a_video_between_two_images_survives_the_death_of_its_server(server: ServerProcess) -> None:
    long = {**REQUEST, **BOTH, "num_inference_steps": 40}
    whole = made(server, server.http.post("/videos/generate", json=long))
    id_ = server.http.post("/queue", json=long).json()["generations"][0]["generation_id"]
    eventually(lambda: server.row(id_)["progress"] > 0.1, server)

    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    server.start()

    row = server.wait_for(id_, "succeeded")
    assert httpx.get(row["result_url"]).content == whole
