"""The shortest path through everything: a request in, a video out."""

import subprocess
from typing import Any

import httpx
import imageio_ffmpeg

from tests.support import SMALL, ServerProcess


def test_sync_answers_with_a_video_that_plays(server: ServerProcess) -> None:
    response = server.http.post("/videos/generate", json=SMALL)

    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["model"] == SMALL["model"]
    video = httpx.get(answer["videos"][0]["url"])
    assert video.headers["content-type"] == "video/mp4"
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    frames = subprocess.run(
        [ffmpeg, "-v", "error", "-i", "pipe:0", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"],
        input=video.content,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    assert len(frames) == 5 * 64 * 64 * 3
