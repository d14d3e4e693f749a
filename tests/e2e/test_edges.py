"""The limits of each parameter, end to end: a request at each limit gives a video of the right size and length."""

from typing import Any

import httpx
import pytest

from tests.support.server_process import SMALL, ServerProcess
from tests.support.video import frame_rate, read_video

EDGES: list[tuple[dict[str, Any], tuple[int, int, int]]] = [
    ({"height": 1, "width": 1, "num_frames": 1}, (1, 2, 2)),
    ({"height": 720, "width": 1280, "num_frames": 1}, (1, 720, 1280)),
    ({"height": 719, "width": 1}, (5, 720, 2)),
    ({"height": 1, "width": 1279}, (5, 2, 1280)),
    ({"num_frames": 120}, (120, 64, 64)),
    ({"num_frames": 119, "width": 62}, (119, 64, 62)),
    ({"num_inference_steps": 1}, (5, 64, 64)),
    ({"num_inference_steps": 100}, (5, 64, 64)),
    ({"guidance_scale": 0}, (5, 64, 64)),
    ({"guidance_scale": 10}, (5, 64, 64)),
    ({"seed": 0}, (5, 64, 64)),
    ({"seed": 2**53 - 1}, (5, 64, 64)),
    ({"prompt": ".", "negative_prompt": ""}, (5, 64, 64)),
    ({"duration": 0.5, "num_frames": None}, (8, 64, 64)),
    ({"aspect_ratio": "3:1", "height": None, "num_frames": 1}, (1, 22, 64)),
]


@pytest.mark.parametrize(("changes", "shape"), EDGES, ids=lambda value: str(value)[:50])
def test_a_request_at_each_limit_gives_a_video(
    server: ServerProcess, changes: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    response = server.http.post("/videos/generate", json={**SMALL, **changes})

    assert response.status_code == 200, response.text
    video = httpx.get(response.json()["videos"][0]["url"]).content
    assert read_video(video).shape == (*shape, 3)
    assert frame_rate(video) == 16
