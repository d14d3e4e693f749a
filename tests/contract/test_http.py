"""The contract over HTTP: the responses of each route, and the status and sentence of each error."""

import base64
import json
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.support.server_process import ENDLESS, MODEL, PATIENCE, SMALL, ServerProcess, eventually
from tests.support.video import read_video

UPSTREAM = "Getting model response error: 422 - Value error, "
LONG_CHANGES: dict[str, Any] = {"width": 256, "height": 256, "num_inference_steps": 100}
LONG: dict[str, Any] = {**SMALL, **LONG_CHANGES}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a response, after a check of the body's form."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["status"] == "error"
    assert body["status_message"] == body["error"]["type"]
    assert body["error"]["detail"] == body["error"]["message"]
    assert body["error"]["title"]
    return dict(body["error"])


# sync


def test_the_sync_route_returns_a_link_that_needs_no_key(server: ServerProcess) -> None:
    response = server.http.post("/videos/generate", json=SMALL)

    assert response.status_code == 200, response.text
    answer = response.json()
    assert set(answer) == {"model", "created", "video_url", "videos"}
    assert answer["model"] == MODEL
    assert abs(answer["created"] - time.time()) < 60
    (video,) = answer["videos"]
    assert set(video) == {"url"}
    assert video["url"].startswith(server.url)
    assert read_video(httpx.get(video["url"]).content).shape == (5, 64, 64, 3)


def test_the_sync_route_can_return_the_videos_in_base64(server: ServerProcess) -> None:
    body = {**SMALL, "response_format": "b64_json", "num_generations": 2, "seed": 5}
    videos = server.http.post("/videos/generate", json=body).json()["videos"]

    assert [set(video) for video in videos] == [{"b64_json"}] * 2
    first, second = (base64.b64decode(video["b64_json"]) for video in videos)
    assert read_video(first).shape == (5, 64, 64, 3)
    assert first != second


@pytest.mark.parametrize(
    ("changes", "status", "kind", "sentence"),
    [
        ({"model": "nope"}, 404, "resource_not_found", "Model not found: nope"),
        ({"model": None}, 400, "invalid_params", "model must be given: the id of a model"),
        ({"model": 3}, 400, "invalid_params", "model must be a string: the id of a model"),
        ({"num_generations": 5}, 400, "invalid_params", "num_generations must be an integer between 1 and 4"),
        ({"num_generations": "2"}, 400, "invalid_params", "num_generations must be an integer between 1 and 4"),
    ],
)
@pytest.mark.parametrize("route", ["/videos/generate", "/queue"])
def test_model_and_num_generations_are_checked_on_both_routes(
    server: ServerProcess, route: str, changes: dict[str, Any], status: int, kind: str, sentence: str
) -> None:
    error = error_of(server.http.post(route, json={**SMALL, **changes}), status)

    assert (error["type"], error["message"]) == (kind, sentence)


BAD_PARAMETERS = [
    ({"multi_prompt": ["a"]}, UPSTREAM + "Cannot provide both 'prompt' and 'multi_prompt'."),
    ({"prompt": None}, UPSTREAM + "Either 'prompt' or 'multi_prompt' must be provided."),
    ({"height": 0}, "height must be an integer between 1 and 720"),
    ({"height": 721}, "height must be an integer between 1 and 720"),
    ({"width": 1281}, "width must be an integer between 1 and 1280"),
    ({"num_inference_steps": 101}, "num_inference_steps must be an integer between 1 and 100"),
    ({"num_frames": 121}, "num_frames must be an integer between 1 and 120"),
    ({"guidance_scale": 10.5}, "guidance_scale must be a number between 0 and 10"),
    ({"guidance_scale": 10**400}, "guidance_scale must be a number between 0 and 10"),
    ({"seed": -1}, f"seed must be an integer between 0 and {2**53 - 1}"),
    ({"input_image": "data:image/png;base64,AA=="}, f"input_image is not supported by {MODEL}"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD_PARAMETERS, ids=lambda value: str(value)[:40])
def test_a_bad_parameter_is_a_400_in_sync_and_a_failed_row_in_the_queue(
    server: ServerProcess, changes: dict[str, Any], sentence: str
) -> None:
    error = error_of(server.http.post("/videos/generate", json={**SMALL, **changes}), 400)
    assert (error["type"], error["message"]) == ("invalid_params", sentence)

    row = server.row(server.enqueue(**changes))
    assert (row["status"], row["error_message"]) == ("failed", sentence)
    assert row["completed_at"] is not None


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"[]", {"Content-Type": "application/json"}, 400),
        (b'"text"', {"Content-Type": "application/json"}, 400),
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"", {"Content-Type": "application/json"}, 400),
        (b'{"model": "\\ud800"}', {"Content-Type": "application/json"}, 400),
        (b'{"seed": 1e999}', {"Content-Type": "application/json"}, 400),
        (b'{"seed": NaN}', {"Content-Type": "application/json"}, 400),
        (b"[" * 100_000, {"Content-Type": "application/json"}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {}, 415),
        (b" " * 1_000_001, {"Content-Type": "application/json"}, 413),
    ],
    ids=["list", "text", "half", "nothing", "surrogate", "infinite", "nan", "deep", "plain", "untyped", "large"],
)
def test_a_body_that_is_not_a_json_object_is_refused(
    server: ServerProcess, content: bytes, headers: dict[str, str], status: int
) -> None:
    for route in ("/videos/generate", "/queue"):
        error = error_of(server.http.post(route, content=content, headers=headers), status)
        assert "JSON" in error["message"] or status == 413


def test_a_client_that_disconnects_cancels_its_queued_generation(tenant: ServerProcess) -> None:
    server = tenant
    running = server.enqueue(**ENDLESS)
    server.wait_for(running, "processing")

    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/videos/generate", json={**SMALL, "prompt": "waiting"}, timeout=1)
    (waiting,) = (row for row in history(server) if row["prompt"] == "waiting")

    assert server.wait_for(waiting["generation_id"], "cancelled")
    assert server.row(running)["status"] == "processing"


def history(server: ServerProcess) -> list[dict[str, Any]]:
    return list(server.http.get("/generations").json()["generations"])


# the queue


def test_the_queue_responds_at_once_and_the_row_has_all_fields(server: ServerProcess) -> None:
    body = {**SMALL, "num_generations": 2, "seed": 41, "target_namespace": "ox", "target_repo": "v", "mood": "calm"}
    created = server.http.post("/queue", json=body).json()

    assert [set(generation) for generation in created["generations"]] == [{"generation_id", "status"}] * 2
    assert {generation["status"] for generation in created["generations"]} == {"queued"}
    first, second = (str(UUID(generation["generation_id"])) for generation in created["generations"])
    row = server.wait_for(second, "succeeded")
    assert row["seed"] == 42
    assert server.wait_for(first)["seed"] == 41
    expected = {
        "generation_id": second,
        "model_name": MODEL,
        "prompt": SMALL["prompt"],
        "media_type": "video",
        "error_message": None,
        "progress": 1.0,
        "eta_seconds": None,
        "queue_position": None,
        "target_namespace": "ox",
        "target_repo": "v",
        "target_directory": None,
        "mood": "calm",
        "height": 64,
        "width": 64,
        "num_frames": 5,
        "num_inference_steps": 2,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["enqueued_at"] <= row["started_at"] <= row["completed_at"]
    assert all(isinstance(row[name], int) for name in ("enqueued_at", "started_at", "completed_at"))
    assert httpx.get(row["result_url"]).status_code == 200


def test_a_generation_that_has_ended_can_be_deleted_with_its_video(server: ServerProcess) -> None:
    running = server.enqueue(**LONG_CHANGES)
    error = error_of(server.http.delete(f"/generations/{running}"), 409)
    assert error["type"] == "conflict"
    assert "cancel it" in error["message"]
    server.http.delete(f"/queue/{running}")
    done = server.wait_for(server.enqueue(), "succeeded")
    id_ = done["generation_id"]
    assert list(server.data_dir.glob(f"videos/{id_}*"))

    assert server.http.delete(f"/generations/{id_}").json() == {"status": "success", "generation_id": id_}

    assert error_of(server.http.get(f"/queue/{id_}"), 404)
    assert httpx.get(done["result_url"]).status_code == 404
    assert not list(server.data_dir.glob(f"videos/{id_}*"))
    assert error_of(server.http.delete(f"/generations/{id_}"), 404)


def test_a_parameter_does_not_replace_a_field_of_the_row(server: ServerProcess) -> None:
    row = server.wait_for(server.enqueue(status="mine", result_url="x", progress=7, queue_position=3), "succeeded")

    assert (row["progress"], row["queue_position"]) == (1.0, None)
    assert row["result_url"].startswith("http")


def test_positions_progress_and_cancellation(tenant: ServerProcess) -> None:
    server = tenant
    running = server.enqueue(**ENDLESS)
    waiting = [server.enqueue() for _ in range(2)]
    row = server.wait_for(running, "processing")
    assert [server.row(id_)["queue_position"] for id_ in waiting] == [1, 2]

    active = server.http.get("/queue").json()
    assert active["count"] == 3
    assert [row["generation_id"] for row in active["generations"]] == [waiting[1], waiting[0], running]
    row = eventually(lambda: (now := server.row(running))["eta_seconds"] is not None and now)
    assert 0 < row["progress"] < 1
    assert row["eta_seconds"] > 0

    for id_ in (waiting[0], running):
        answer = server.http.delete(f"/queue/{id_}")
        assert answer.json() == {"status": "success", "generation_id": id_}
        row = server.row(id_)
        assert (row["status"], row["eta_seconds"], row["queue_position"]) == ("cancelled", None, None)
    server.wait_for(waiting[1], "succeeded")

    again = server.http.delete(f"/queue/{waiting[1]}")
    assert again.json() == {"status": "success", "generation_id": waiting[1]}
    assert server.row(waiting[1])["status"] == "succeeded"
    assert server.row(running)["result_url"] is None


def test_lists_are_filtered_and_paged(tenant: ServerProcess) -> None:
    server = tenant
    ids = [server.enqueue(target_namespace="ox", target_repo=f"r{n % 2}", target_directory="d") for n in range(3)]
    for id_ in ids:
        server.wait_for(id_, "succeeded")
    failed = server.enqueue(height=0)

    def ids_of(route: str, **params: Any) -> list[str]:
        answer = server.http.get(route, params=params).json()
        assert answer["count"] == len(answer["generations"])
        return [row["generation_id"] for row in answer["generations"]]

    assert ids_of("/queue") == []
    assert ids_of("/queue", status="succeeded") == ids[::-1]
    assert ids_of("/queue", status="succeeded", repo="r0") == [ids[2], ids[0]]
    assert ids_of("/queue", status="failed") == [failed]
    assert ids_of("/generations", namespace="ox", folder="d", repo="r1", model=MODEL, media_type="video") == [ids[1]]
    assert ids_of("/generations", media_type="image") == []
    assert ids_of("/generations", page=2, page_size=3) == [ids[0]]

    page = server.http.get("/generations", params={"page": 2, "page_size": 3}).json()
    assert {name: value for name, value in page.items() if name != "generations"} == {
        "count": 1,
        "page_number": 2,
        "page_size": 3,
        "total_pages": 2,
        "total_entries": 4,
        "total_cost": None,
        "next_cursor": None,
    }
    assert page["generations"][0]["cost"] is None
    one = server.http.get(f"/generations/{failed}").json()
    assert one["status"] == "success"
    assert one["generation"]["error_message"] == "height must be an integer between 1 and 720"


@pytest.mark.parametrize(
    "query", [{"status": "done"}, {"page": 0}, {"page_size": 1001}, {"page": "x"}, {"media_type": "sound"}]
)
def test_the_error_of_a_bad_query_names_its_parameter(server: ServerProcess, query: dict[str, Any]) -> None:
    error = error_of(server.http.get("/generations", params=query), 400)

    assert error["type"] == "invalid_params"
    assert next(iter(query)) in error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/queue/00000000-0000-0000-0000-000000000000"),
        ("DELETE", "/queue/nope"),
        ("GET", "/generations/nope"),
        ("DELETE", "/generations/nope"),
        ("GET", "/models/nope"),
        ("POST", "/models/nope/activate"),
        ("GET", "/nothing/here"),
    ],
)
def test_an_unknown_resource_is_a_404(server: ServerProcess, method: str, path: str) -> None:
    error = error_of(server.http.request(method, path), 404)

    assert error["type"] == "resource_not_found"
    assert error["title"] == "The requested resource could not be found"
    if "/models/" in path:
        assert error["message"] == "Model not found: nope"
    if path == "/nothing/here":
        assert error["message"] == "There is no route /api/ai/nothing/here. /openapi.json lists all routes."


def test_the_error_of_a_wrong_method_lists_the_supported_ones(server: ServerProcess) -> None:
    response = server.http.patch("/queue")

    error = error_of(response, 405)
    assert error["type"] == "method_not_allowed"
    assert error["message"] == "/api/ai/queue supports GET, HEAD, POST, not PATCH."
    assert response.headers["allow"] == "GET, HEAD, POST"


# models


SIBLINGS = {
    # default and largest height, the same for width, default steps, default frames
    "wan-ai-wan2-1-t2v-1-3b-diffusers": ((480, 480), (640, 640), 30, 81),
    "wan-ai-wan2-2-ti2v-5b-diffusers": ((720, 720), (1280, 1280), 30, 81),
    "wan-ai-wan2-2-t2v-a14b-diffusers": ((480, 720), (832, 832), 4, 41),
}


IMAGE_MODELS = (
    "wan-ai-wan2-1-i2v-14b-480p-diffusers",
    "wan-ai-wan2-1-i2v-14b-720p-diffusers",
    "wan-ai-wan2-1-flf2v-14b-720p-diffusers",
    "wan-ai-wan2-2-i2v-a14b-diffusers",
)


@pytest.mark.parametrize("model", SIBLINGS)
def test_sibling_models_have_the_limits_of_the_hosted_api(model: str, server: ServerProcess) -> None:
    schema = server.http.get(f"/models/{model}").json()["request_schema"]["properties"]
    height, width, steps, frames = SIBLINGS[model]

    def limits(name: str) -> tuple[float, float, float]:
        return schema[name]["minimum"], schema[name]["default"], schema[name]["maximum"]

    assert limits("height") == (1, *height)
    assert limits("width") == (1, *width)
    assert limits("num_inference_steps") == (1, steps, 100)
    assert limits("num_frames") == (1, frames, 120)
    assert limits("guidance_scale") == (0, 5.0, 10)
    assert ("run_fast" in schema) is ("a14b" in model)


def test_run_fast_is_a_boolean_with_the_default_true(server: ServerProcess) -> None:
    model = "wan-ai-wan2-2-t2v-a14b-diffusers"
    assert server.http.get(f"/models/{model}").json()["request_schema"]["properties"]["run_fast"]["default"] is True
    body = {"model": model, "prompt": "an ox", "height": 32, "width": 32, "num_frames": 1, "num_inference_steps": 1}

    refused = server.http.post("/videos/generate", json={**body, "run_fast": "yes"})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "run_fast must be a boolean"
    made = server.http.post("/videos/generate", json={**body, "run_fast": False}, timeout=120)
    assert made.status_code == 200, made.text
    assert made.json()["model"] == model


def test_a_request_can_select_a_level_of_step_caching(server: ServerProcess) -> None:
    ids = [server.enqueue(step_cache=level, seed=5, num_inference_steps=12) for level in ("exact", "fast")]
    rows = [server.wait_for(id_, "succeeded") for id_ in ids]

    assert [row["step_cache"] for row in rows] == ["exact", "fast"]
    exact, fast = (httpx.get(row["result_url"]).content for row in rows)
    assert exact != fast

    refused = server.row(server.enqueue(step_cache="quick"))
    assert refused["error_message"] == "step_cache must be one of exact, balanced, fast"


def test_a_misspelled_parameter_is_noticed(server: ServerProcess) -> None:
    sentence = f"'heigth' is not a parameter of {MODEL}: it was ignored."
    body = {"model": MODEL, "prompt": "an ox", "heigth": 64, "height": 64, "width": 64, "num_frames": 1}
    body["num_inference_steps"] = 1

    queued = server.http.post("/queue", json=body)
    assert queued.headers["paddock-warnings"] == sentence
    row = server.wait_for(queued.json()["generations"][0]["generation_id"], "succeeded")
    assert (row["warnings"], row["heigth"]) == ([sentence], 64)
    made = server.http.post("/videos/generate", json=body, timeout=120)
    assert made.headers["paddock-warnings"] == sentence
    assert made.json()["video_url"] == made.json()["videos"][0]["url"]
    del body["heigth"]
    assert "paddock-warnings" not in server.http.post("/queue", json=body).headers


def test_the_name_on_the_hosts_older_page_works(server: ServerProcess) -> None:
    body = {"model": "wan-2.2-t2v-fast", "prompt": "an ox", "height": 32, "width": 32, "num_frames": 1}

    made = server.http.post("/videos/generate", json={**body, "num_inference_steps": 1}, timeout=120)
    assert made.status_code == 200, made.text
    assert made.json()["model"] == "wan-ai-wan2-2-t2v-a14b-diffusers"
    assert made.json()["video_url"].startswith("http")


def test_a_prompt_that_is_too_long_for_the_model_has_a_warning(server: ServerProcess) -> None:
    long = server.wait_for(server.enqueue(prompt="ox " * 600, negative_prompt="ox " * 520), "succeeded")
    fits = server.wait_for(server.enqueue(prompt="ox " * 50), "succeeded")

    assert fits["warnings"] == []
    about_prompt, about_negative = long["warnings"]
    assert re.fullmatch(
        r"prompt has \d+ tokens, and the model reads only the first 512: the rest was ignored\.", about_prompt
    )
    assert about_negative.startswith("negative_prompt has ")
    history = server.http.get(f"/generations/{long['generation_id']}").json()["generation"]
    assert history["warnings"] == long["warnings"]


def test_a_request_can_select_a_sampler(server: ServerProcess) -> None:
    ids = [server.enqueue(seed=5, **chosen) for chosen in ({}, {"sampler": "unipc"}, {"sampler": "dpm++"})]
    rows = [server.wait_for(id_, "succeeded") for id_ in ids]

    assert [row.get("sampler") for row in rows] == [None, "unipc", "dpm++"]
    own, unipc, dpm = (httpx.get(row["result_url"]).content for row in rows)
    assert own == unipc != dpm

    refused = server.row(server.enqueue(sampler="ddim"))
    assert refused["error_message"] == "sampler must be one of unipc, dpm++, euler"


def test_models_are_listed_searched_and_shown(server: ServerProcess) -> None:
    http = server.http
    listed = http.get("/models").json()
    assert listed["object"] == "list"
    ids = [model["id"] for model in listed["data"]]
    assert ids[0] == MODEL
    assert set(ids) == {MODEL, *SIBLINGS, *IMAGE_MODELS}
    shown = http.get(f"/models/{MODEL}").json()
    assert shown["object"] == "model"
    assert shown["endpoint"] == "/videos/generate"
    assert shown["owned_by"] == "oxen"
    assert http.get("/models/featured").json()["data"][0]["id"] == MODEL

    def found(**params: str) -> int:
        return len(http.get("/models/search", params=params).json()["data"])

    assert (found(search="wan text video"), found(search="WAN2.1"), found(search="flux")) == (4, 6, 0)
    assert len(http.get("/models", params={"developer_name": "wan-ai"}).json()["data"]) == 8
    assert http.get("/models", params={"developer_name": "other"}).json()["data"] == []


def test_activate_loads_and_deactivate_unloads(tenant: ServerProcess) -> None:
    server = tenant

    def status() -> str:
        return str(server.http.get(f"/models/{MODEL}").json()["deployments"][0]["status"])

    def until(wanted: str) -> None:
        eventually(lambda: status() == wanted, server)

    server.http.post(f"/models/{MODEL}/deactivate")
    until("inactive")
    answer = server.http.post(f"/models/{MODEL}/activate").json()
    assert answer["deployments"][0]["status"] == "deploying"
    until("active")
    ready = httpx.get(f"{server.url}/readyz").json()
    assert 0 < ready["host_memory"]["free"] < ready["host_memory"]["total"]
    device = ready["devices"][0]
    assert device["memory"] is None, "a CPU has no memory of its own"
    assert (device["model"], device["busy"], device["error"]) == (MODEL, False, None)
    assert device["plan"] == server.http.get(f"/models/{MODEL}").json()["plan"] == "resident"
    assert server.http.post(f"/models/{MODEL}/deactivate").status_code == 200
    until("inactive")
    server.wait_for(server.enqueue(), "succeeded")
    assert status() == "active"


def test_a_row_tells_what_its_video_was_made_with(server: ServerProcess) -> None:
    refused = server.wait_for(server.enqueue(height=9999), "failed")
    made = server.wait_for(server.enqueue(), "succeeded")

    assert "execution" not in refused
    assert made["execution"].keys() == {"device", "plan", "precision", "attention"}
    assert (made["execution"]["device"], made["execution"]["plan"]) == ("cpu", "resident")


# the page


@pytest.mark.parametrize("path", ["/", f"/?model={MODEL}", "/web/css/base.css", "/web/js/main.js"])
def test_the_page_and_its_files_forbid_code_from_other_hosts(server: ServerProcess, path: str) -> None:
    response = httpx.get(server.url + path)

    assert response.status_code == 200
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert response.headers["x-content-type-options"] == "nosniff"
    again = httpx.get(server.url + path, headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == (304 if path.startswith("/web") else 200)


@pytest.mark.parametrize("path", ["/web/", "/web/js", "/web/nope.js", "/web/..%2fapp.py", "/web/%2e%2e/app.py"])
def test_only_the_files_of_the_page_are_served(server: ServerProcess, path: str) -> None:
    assert error_of(httpx.get(server.url + path), 404)["type"] == "resource_not_found"


# everything else


@pytest.mark.parametrize("path", ["/queue", "/models", "/generations", f"/models/{MODEL}", "/evaluations/models"])
def test_routes_also_work_without_their_prefix(server: ServerProcess, path: str) -> None:
    prefix = "/api" if path.startswith("/evaluations") else "/api/ai"
    bare, full = (httpx.get(f"{server.url}{start}{path}") for start in ("", prefix))

    assert bare.status_code == full.status_code == 200
    assert bare.json().keys() == full.json().keys()


def test_the_sync_route_works_without_its_prefix(server: ServerProcess) -> None:
    answer = httpx.post(f"{server.url}/videos/generate", json=SMALL, timeout=PATIENCE)

    assert httpx.get(answer.json()["videos"][0]["url"]).status_code == 200


def test_demo_weights_are_announced(server: ServerProcess) -> None:
    assert httpx.get(f"{server.url}/healthz").headers["x-paddock-weights"] == "demo"
    assert server.http.get("/queue/nope").headers["x-paddock-weights"] == "demo"
    assert server.http.get(f"/models/{MODEL}").json()["weights"] == "demo"
    assert "DEMO WEIGHTS" in server.log_text()
    assert httpx.get(f"{server.url}/readyz").json()["demo"] is True


def test_a_full_queue_says_when_to_try_again(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(max_queued="1")
    running = server.enqueue(**ENDLESS)
    server.wait_for(running, "processing")
    server.enqueue()

    response = server.http.post("/queue", json=SMALL)

    assert error_of(response, 429)["type"] == "queue_full"
    assert int(response.headers["retry-after"]) > 0


def test_records_of_invalid_requests_are_bounded(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(max_failed_per_hour="3")
    wrong = {**SMALL, "height": -1, "target_directory": "x" * 500_000, "fancy": "y" * 100_000}

    for _ in range(3):
        assert server.http.post("/queue", json=wrong).status_code == 200
    refused = server.http.post("/queue", json=wrong)
    assert "3 requests with invalid parameters" in error_of(refused, 429)["message"]
    assert 3000 < int(refused.headers["retry-after"]) <= 3600
    # what is valid is not affected, and a row is small
    assert server.http.post("/queue", json=SMALL).status_code == 200
    rows = server.http.get("/queue", params={"status": "failed"})
    assert rows.json()["count"] == 3
    assert len(rows.content) < 3 * 20_000


# clients that disconnect


def test_a_client_that_disconnects_during_its_request_is_not_an_error(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server()
    about = ("Host: localhost", "Content-Type: application/json", "Content-Length: 50")
    head = "\r\n".join(("POST /api/ai/queue HTTP/1.1", *about, "", ""))
    for part in ("", '{"model": '):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall((head + part).encode())
            connection.shutdown(socket.SHUT_WR)
            # until the server closes the connection
            while connection.recv(4096):
                pass

    assert server.http.get("/queue").json()["generations"] == []
    server.stop()
    assert "Traceback" not in server.log_text()


def test_an_incomplete_body_is_refused_after_the_timeout(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(body_timeout="0.5")
    about = ("Host: localhost", "Content-Type: application/json", "Content-Length: 50")

    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall("\r\n".join(("POST /api/ai/queue HTTP/1.1", *about, "", '{"model": ')).encode())
        answer = b""
        while part := connection.recv(4096):
            answer += part

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"The body did not arrive within 0.5 seconds." in answer


# repeated requests


@pytest.mark.parametrize("still_hangs", [True, False])
def test_a_sync_request_sent_again_gets_the_video(
    start_server: Callable[..., ServerProcess], still_hangs: bool
) -> None:
    server = start_server()
    blocking = server.enqueue(**ENDLESS)
    server.wait_for(blocking, "processing")
    body = json.dumps(SMALL).encode()
    head = "POST /api/ai/videos/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Idempotency-Key: again\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as first:
        first.sendall(head.encode() + body)
        eventually(lambda: server.http.get("/queue", params={"status": "queued"}).json()["count"] == 1, server)
        if not still_hangs:
            first.close()
            # longer than the server takes to notice
            time.sleep(1.0)
        with ThreadPoolExecutor(1) as thread:
            again = thread.submit(
                server.http.post,
                "/videos/generate",
                json=SMALL,
                headers={"Idempotency-Key": "again"},
                timeout=PATIENCE,
            )
            time.sleep(0.5)
            server.http.delete(f"/queue/{blocking}")
            assert again.result().status_code == 200, again.result().text
    assert server.http.get("/generations").json()["count"] == 2


def test_a_request_with_an_idempotency_key_is_carried_out_once(tenant: ServerProcess) -> None:
    request = {"json": SMALL, "headers": {"Idempotency-Key": "retry-1"}}

    first, again = (tenant.http.post("/queue", **request) for _ in range(2))

    assert (first.status_code, again.status_code) == (200, 200)
    assert [each["generation_id"] for each in again.json()["generations"]] == [
        each["generation_id"] for each in first.json()["generations"]
    ]
    other = tenant.http.post("/queue", json={**SMALL, "prompt": "another"}, headers=request["headers"])
    assert error_of(other, 409)["type"] == "conflict"
    for key in ("", "k" * 256):
        refused = tenant.http.post("/queue", json=SMALL, headers={"Idempotency-Key": key})
        assert "Idempotency-Key" in error_of(refused, 400)["detail"]


def test_a_repeated_sync_request_returns_the_same_video(tenant: ServerProcess) -> None:
    request = {"json": SMALL, "headers": {"Idempotency-Key": "retry-2"}}

    files = [httpx.get(tenant.http.post("/videos/generate", **request).json()["videos"][0]["url"]) for _ in range(2)]

    assert files[0].content == files[1].content
    assert tenant.http.get("/generations").json()["total_entries"] == 1
