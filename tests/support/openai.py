"""A client of /v1 without OpenAI's package, which shows what the server really answers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.support.server_process import PATIENCE, ServerProcess, pause

FAST: dict[str, Any] = {"num_inference_steps": 2, "num_frames": 5, "seed": 7}
"""What the demo makes in a fraction of a second, at 64x64."""

SMALL: dict[str, Any] = {"prompt": "An ox by a lake", "size": "64x64", **FAST}

FIELDS = {
    *("id", "object", "model", "status", "progress", "created_at", "completed_at", "expires_at", "prompt", "size"),
    *("seconds", "remixed_from_video_id", "error"),
}


class V1:
    """The routes under /v1 of a server, with the key of its client."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def create(self, path: str = "/videos", **options: Any) -> dict[str, Any]:
        """Request a video, and return it as it was answered."""
        answer = self.http.post(path, **options)
        assert answer.status_code == 200, answer.text
        video = answer.json()
        assert video.keys() == FIELDS
        assert video["object"] == "video"
        return dict(video)

    def video(self, id_: str) -> dict[str, Any]:
        """A video as it is now."""
        answer = self.http.get(f"/videos/{id_}")
        assert answer.status_code == 200, answer.text
        assert answer.json().keys() == FIELDS
        return dict(answer.json())

    def made(self, path: str = "/videos", **options: Any) -> dict[str, Any]:
        """Request a video and wait until it has completed."""
        video = self.create(path, **options)
        began = time.monotonic()
        while (video := self.video(video["id"]))["status"] in ("queued", "in_progress"):
            assert 0 <= video["progress"] < 100
            assert video["completed_at"] is None
            assert time.monotonic() < began + PATIENCE, video
            time.sleep(pause(began, 0.05, 0.2))
        assert video["status"] == "completed", video
        assert video["progress"] == 100
        return video

    def content(self, id_: str, **params: str) -> bytes:
        """A file of a video."""
        answer = self.http.get(f"/videos/{id_}/content", params=params)
        assert answer.status_code == 200, answer.text
        return answer.content

    def listed(self, **params: Any) -> dict[str, Any]:
        """A page of videos."""
        answer = self.http.get("/videos", params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page.keys() == {"object", "data", "first_id", "last_id", "has_more"}
        assert page["object"] == "list"
        ids = [video["id"] for video in page["data"]]
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        return dict(page)


@contextmanager
def v1_of(server: ServerProcess) -> Iterator[V1]:
    """The routes of a server as its own client sees them."""
    headers = {name: value for name, value in server.http.headers.items() if name == "authorization"}
    with httpx.Client(base_url=f"{server.url}/v1", timeout=PATIENCE, headers=headers) as http:
        yield V1(http)


def openai_error(answer: httpx.Response, status: int, param: str | None = None) -> dict[str, Any]:
    """The error of an answer, after a check of its form and of the parameter that it is about."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    assert error["type"] == kind
    assert error["param"] == param, error
    assert error["message"]
    return dict(error)
