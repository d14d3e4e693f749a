"""What a request would take is told before it is sent, and nothing is recorded."""

from collections.abc import Callable

import pytest

from tests.support.server_process import SMALL, ServerProcess

UNKNOWN = {"fits": None, "reason": None, "suggestion": None}
"""Nothing is known of the memory of a CPU."""


def test_seconds_are_known_once_a_video_of_the_kind_has_been_made(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    body = {**SMALL, "num_generations": 2}

    assert server.http.post("/estimate", json=body).json() == {"seconds": None, "queue_seconds": 0.0, **UNKNOWN}
    assert server.http.get("/generations").json()["total_entries"] == 0
    server.wait_for(server.enqueue(**SMALL), "succeeded")
    small = server.http.post("/estimate", json=SMALL).json()
    large = server.http.post("/estimate", json={**SMALL, "width": 96, "height": 96}).json()
    far = server.http.post("/estimate", json={**SMALL, "width": 256, "height": 256}).json()
    other = server.http.post("/estimate", json={**SMALL, "guidance_scale": 1}).json()

    assert 0 < small["seconds"] < large["seconds"] < 600
    # sixteen times the pixels are another matter
    assert far["seconds"] is None
    # without guidance a step costs half, which nothing has shown yet
    assert other["seconds"] is None


def test_it_waits_for_what_is_queued(server: ServerProcess) -> None:
    server.wait_for(server.enqueue(**SMALL), "succeeded")
    long = {**SMALL, "num_inference_steps": 100, "width": 256, "height": 256}
    ids = [server.enqueue(**long) for _ in range(3)]

    waits = server.http.post("/estimate", json=SMALL).json()["queue_seconds"]
    for id_ in ids:
        server.http.delete(f"/queue/{id_}")

    assert waits is None or waits > 0


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        ({"height": 9999}, 400, "height must be an integer between 1 and 720"),
        ({"num_generations": 5}, 400, "num_generations must be an integer between 1 and 4"),
        ({"prompt": " "}, 400, "Either 'prompt' or 'multi_prompt' must be provided."),
        ({"loras": [{"name": "nope"}]}, 400, "nope is not a LoRA of"),
        ({"model": "nope"}, 404, "Model not found: nope"),
    ],
)
def test_what_is_invalid_is_told(server: ServerProcess, changes: dict[str, object], status: int, sentence: str) -> None:
    before = server.http.get("/generations").json()["total_entries"]
    answer = server.http.post("/estimate", json={**SMALL, **changes})

    assert answer.status_code == status
    assert sentence in answer.json()["error"]["message"]
    assert server.http.get("/generations").json()["total_entries"] == before
