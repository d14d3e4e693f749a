"""What OpenAI's routes refuse: each error in OpenAI's form, with the parameter and the nearest value."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pipelines.models.catalogue import DEFAULT_MODEL
from tests.support.openai import SMALL, V1, openai_error, v1_of
from tests.support.server_process import ENDLESS, ServerProcess

TI2V = "wan-ai-wan2-2-ti2v-5b-diffusers"
SMALLER = "wan-ai-wan2-1-t2v-1-3b-diffusers"


@pytest.mark.parametrize(
    ("field", "asked", "nearest", "model"),
    [
        ("seconds", "8", "7.5", DEFAULT_MODEL),
        ("seconds", "12", "7.5", DEFAULT_MODEL),
        ("seconds", 8, "7.5", DEFAULT_MODEL),
        ("seconds", "12", "5", TI2V),
        ("size", "1792x1024", "1260x720", DEFAULT_MODEL),
        ("size", "720x1280", "404x720", DEFAULT_MODEL),
        ("size", "1282x721", "1280x718", DEFAULT_MODEL),
        ("size", "99999x1", "1280x2", DEFAULT_MODEL),
        ("size", "1280x720", "640x360", SMALLER),
    ],
)
def test_what_a_model_does_not_make_names_the_nearest_that_it_makes(
    v1: V1, field: str, asked: Any, nearest: str, model: str
) -> None:
    body = {"prompt": "An ox", "model": model}

    error = openai_error(v1.http.post("/videos", json={**body, field: asked}), 400, field)

    assert error["message"] == f"{field} {asked} is beyond what {model} makes: the nearest is {nearest}"
    video = v1.create(json={**body, field: nearest})
    v1.http.delete(f"/videos/{video['id']}")
    assert video[field] == nearest


WRONG: dict[str, list[Any]] = {
    "seconds": ["", "0", "-1", "nan", "1e9", "٤", "4 ", "9" * 99, 0, -2, True, [4], {}],
    "size": [
        "",
        "64",
        "64x",
        "0x64",
        "064x64",
        "64x64x64",
        "６４x64",
        "64X64",
        "9" * 99 + "x1",
        "64x64\n",
        64,
        [64, 64],
    ],
    "prompt": [None, "", "  ", 3, ["ox"], {"text": "ox"}, "x" * 10_001],
    "num_generations": [2, "1", 0],
    "input_reference": [{}, 3, [], {"image_url": ""}, {"image_url": 3}],
}
HOSTILE: list[tuple[dict[str, Any], str]] = [
    *(({name: value}, name) for name, values in WRONG.items() for value in values),
    ({"input_reference": {"file_id": 5}}, "input_reference"),
    ({"input_reference": {"file_id": "file-123"}}, "input_reference.file_id"),
    ({"input_reference": {"file_id": "upload:none"}}, "input_reference"),
    ({"input_reference": {"image_url": "data:image/png;base64,AAAA"}}, "input_reference"),
    ({"input_reference": {"image_url": "a", "file_id": "b"}}, "input_reference"),
    ({"input_reference": "a", "input_image": "b"}, "input_reference"),
    ({"model": 3}, "model"),
    ({"width": 64.5}, "width"),
    ({"num_frames": 121}, "num_frames"),
    ({"seed": -1}, "seed"),
]


def test_hostile_values_are_refused_by_name_and_leave_nothing(v1: V1) -> None:
    for changes, param in HOSTILE:
        openai_error(v1.http.post("/videos", json={**SMALL, **changes}), 400, param)

    assert v1.listed()["data"] == []


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"json": [1]}, 400),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b'{"prompt": 1e999}', "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400),
        ({"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"files": {"prompt": b"a file"}}, 400),
        ({"files": [("input_reference", b"one"), ("input_reference", b"two")]}, 400),
        ({"data": {"prompt": "form"}}, 415),
        ({"json": {"prompt": "ox " * 400_000}}, 413),
    ],
)
@pytest.mark.parametrize("path", ["/videos", "/videos/none/remix", "/videos/extensions", "/videos/edits"])
def test_a_body_that_cannot_be_read_is_refused(v1: V1, path: str, options: dict[str, Any], status: int) -> None:
    answer = v1.http.post(path, **options)

    if path.endswith("remix") and answer.status_code == 404:
        # the body can be read, the video is not there
        assert "files" in options
        return
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_every_path_under_v1_has_errors_of_openai(keyed_server: ServerProcess, v1: V1) -> None:
    for key in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic a2V5Og=="}):
        refused = httpx.post(f"{keyed_server.url}/v1/videos", headers=key, json=SMALL)
        assert openai_error(refused, 401)["code"] == "invalid_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"
    assert openai_error(v1.http.get("/chat/completions"), 404)["code"] == "not_found"
    assert openai_error(httpx.get(f"{keyed_server.url}/v1"), 404)["code"] == "not_found"
    for method, path, allowed in (
        ("PUT", "/videos", "GET, HEAD, POST"),
        ("PATCH", "/videos/x", "DELETE, GET, HEAD"),
        ("DELETE", "/videos/edits/x", None),
        ("POST", "/models", "GET, HEAD"),
    ):
        answer = v1.http.request(method, path)
        openai_error(answer, 404 if allowed is None else 405)
        assert answer.headers.get("allow") == allowed
    evil = httpx.post(f"{keyed_server.url}/v1/videos", headers={"Origin": "https://evil.example"}, json=SMALL)
    openai_error(evil, 400)
    # the hosted API's own form is untouched beside it
    assert v1.http.get(f"{keyed_server.url}/v1x").json()["status"] == "error"
    slash = v1.http.get("/models/", follow_redirects=True)
    assert slash.json()["object"] == "list"


def test_a_full_queue_says_when_to_come_back(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(max_queued="1")
    server.wait_for(server.enqueue(**ENDLESS), "processing")
    server.enqueue(**ENDLESS)

    with v1_of(server) as v1:
        answer = v1.http.post("/videos", json=SMALL)

        assert openai_error(answer, 429)["code"] == "rate_limit_exceeded"
        assert int(answer.headers["retry-after"]) > 0
        refused = v1.http.get("/models", headers={"Host": "evil.example"})
        openai_error(refused, 400)
