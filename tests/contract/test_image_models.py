"""Models that need images, through a server with small weights of theirs, and with the demo's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pipelines.models.catalogue import DEFAULT_MODEL
from tests.contract.test_image_input import drawn, in_base64
from tests.support.models.serving import I2V, image_models, ti2v_server
from tests.support.server_process import ServerProcess
from tests.support.video import packets, read_video

REQUEST: dict[str, Any] = {
    "prompt": "an ox",
    "width": 64,
    "height": 64,
    "num_frames": 5,
    "num_inference_steps": 2,
    "seed": 7,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("images")
    process = ti2v_server(folder / "data", image_models(folder))
    process.start()
    yield process
    process.close()


def video(server: ServerProcess, **body: Any) -> bytes:
    answer = server.http.post("/videos/generate", json={**REQUEST, "model": I2V, **body})
    assert answer.status_code == 200, answer.text
    return httpx.get(answer.json()["video_url"]).content


def test_the_image_decides_the_video(server: ServerProcess) -> None:
    one, other = (in_base64(drawn(seed=seed)) for seed in (1, 2))

    made = video(server, input_image=one)

    assert read_video(made).shape == (5, 64, 64, 3)
    assert video(server, input_image=one) == made
    assert video(server, input_image=other) != made


def test_a_request_without_an_image_is_refused(server: ServerProcess) -> None:
    refused = server.http.post("/videos/generate", json={**REQUEST, "model": I2V})

    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == (
        f"input_image is required: {I2V} makes videos that begin with an image"
    )


def test_the_demo_makes_videos_from_text_and_approximately_from_an_image(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path / "data")
    process.start()
    try:
        answer = process.http.post("/videos/generate", json={**REQUEST, "model": I2V})
        assert answer.status_code == 200, answer.text
        image = in_base64(drawn())
        videos = []
        for model in (I2V, DEFAULT_MODEL):
            body = {**REQUEST, "model": model, "input_image": image}
            refused = process.http.post("/videos/generate", json=body)
            assert refused.json()["error"]["message"] == f"input_image is not supported by {model}"
            moved = process.http.post("/videos/generate", json={**body, "image_mode": "first_frame"})
            assert moved.status_code == 200, moved.text
            assert moved.json()["model"] == model
            videos.append(httpx.get(moved.json()["video_url"]).content)
        # only their recipes name the models
        assert packets(videos[0]) == packets(videos[1])
        # the demo's VAE knows plain colours only
        moved_error, text_error = (
            np.abs(read_video(video)[0].astype(int) - np.asarray(drawn())).mean()
            for video in (videos.pop(), httpx.get(answer.json()["video_url"]).content)
        )
        assert moved_error < text_error / 2
    finally:
        process.close()
