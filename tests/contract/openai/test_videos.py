"""OpenAI's routes for videos: request, look, list, download and delete."""

import time
from typing import Any

import httpx
import pytest

from pipelines.models.catalogue import DEFAULT_MODEL
from server.core.catalogue import load_catalogue
from server.core.settings.settings import Settings
from tests.support.openai import SMALL, V1, openai_error, v1_of
from tests.support.server_process import ENDLESS, ServerProcess
from tests.support.video import read_video

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def test_a_video_from_the_request_to_its_files(tenant: ServerProcess, v1: V1) -> None:
    asked = v1.create(json=SMALL)
    expected = {
        "model": DEFAULT_MODEL,
        "status": "queued",
        "progress": 0,
        "completed_at": None,
        "expires_at": None,
        "prompt": "An ox by a lake",
        "size": "64x64",
        "seconds": "0.312",
        "remixed_from_video_id": None,
        "error": None,
    }
    assert {name: asked[name] for name in expected} == expected
    assert abs(asked["created_at"] - time.time()) < 60

    row = tenant.wait_for(asked["id"], "succeeded")

    done = v1.video(asked["id"])
    changed = {"status": "completed", "progress": 100, "completed_at": row["completed_at"]}
    assert done == {**asked, **changed}
    whole = v1.content(asked["id"])
    assert whole == httpx.get(row["result_url"]).content == v1.content(asked["id"], variant="video")
    assert read_video(whole).shape == (5, 64, 64, 3)
    part = v1.http.get(f"/videos/{asked['id']}/content", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content, part.headers["content-type"]) == (206, b"ftyp", "video/mp4")
    for variant in ("thumbnail", "spritesheet"):
        assert v1.content(asked["id"], variant=variant) == httpx.get(row[f"{variant}_url"]).content
        answer = v1.http.head(f"/videos/{asked['id']}/content", params={"variant": variant})
        assert answer.headers["content-type"] == "image/webp"
    openai_error(v1.http.get(f"/videos/{asked['id']}/content", params={"variant": "gif"}), 400, "variant")


def test_a_form_asks_for_the_same_as_json(v1: V1) -> None:
    form = {name: (None, str(value)) for name, value in {**SMALL, "prompt": "720", "loras": "[]"}.items()}

    by_form, by_json = v1.made(files=form), v1.made(json={**SMALL, "prompt": "720"})

    assert by_form["prompt"] == "720"
    assert v1.content(by_form["id"]) == v1.content(by_json["id"])


DEFAULTS = load_catalogue(Settings(demo=True))[DEFAULT_MODEL].api.size("default")


@pytest.mark.parametrize(
    ("fields", "size", "seconds"),
    [
        ({}, f"{DEFAULTS[0]}x{DEFAULTS[1]}", "5.062"),
        ({"seconds": "4", "size": "1280x720"}, "1280x720", "4"),
        ({"seconds": 2.5, "size": "404x720"}, "404x720", "2.5"),
        ({"seconds": "0.001", "size": "64x64"}, "64x64", "0.062"),
        ({"seconds": None, "size": None, "model": None}, f"{DEFAULTS[0]}x{DEFAULTS[1]}", "5.062"),
        ({"size": "1280x720", "width": 64, "height": 48, "seconds": "7", "num_frames": 16}, "64x48", "1"),
        ({"size": "1280x720", "height": 48}, "1280x48", "5.062"),
        ({"size": "1280x720", "aspect_ratio": "1:1", "seconds": "7", "duration": 2}, "632x632", "2"),
        # too large, but of no effect
        ({"size": "4000x4000", "width": 64, "height": 48, "seconds": "90", "num_frames": 8}, "64x48", "0.5"),
    ],
)
def test_size_and_seconds_are_ours_unless_our_own_parameters_say_more(
    v1: V1, fields: dict[str, Any], size: str, seconds: str
) -> None:
    video = v1.create(json={"prompt": "An ox", **fields})
    v1.http.delete(f"/videos/{video['id']}")

    assert (video["size"], video["seconds"]) == (size, seconds)


def test_what_is_unknown_is_ignored_with_a_warning(v1: V1) -> None:
    answer = v1.http.post("/videos", json={**SMALL, "quality": "high"})

    assert answer.headers["Paddock-Warnings"] == f"'quality' is not a parameter of {DEFAULT_MODEL}: it was ignored."


def test_a_request_is_carried_out_once_by_its_idempotency_key(v1: V1) -> None:
    once = {"Idempotency-Key": "once"}
    first = v1.create(json=SMALL, headers=once)

    assert v1.create(json=SMALL, headers=once)["id"] == first["id"]
    openai_error(v1.http.post("/videos", json={**SMALL, "seed": 8}, headers=once), 409)
    assert len(v1.listed()["data"]) == 1


def test_a_list_is_walked_in_both_orders(tenant: ServerProcess, v1: V1) -> None:
    assert v1.listed() == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    oldest_first = [tenant.enqueue(height=0) for _ in range(5)]

    for order in ("asc", "desc"):
        expected = oldest_first if order == "asc" else oldest_first[::-1]
        found: list[str] = []
        page: dict[str, Any] = {"has_more": True}
        while page["has_more"]:
            page = v1.listed(limit=2, order=order, **({"after": found[-1]} if found else {}))
            found += [video["id"] for video in page["data"]]
            assert len(page["data"]) == (2 if page["has_more"] else 1)
        assert found == expected
        assert v1.listed(order=order, after=found[-1])["data"] == []
        assert [video["id"] for video in v1.listed(limit=5, order=order)["data"]] == expected
        assert v1.listed(limit=5, order=order)["has_more"] is False
    assert [video["id"] for video in v1.listed()["data"]] == oldest_first[::-1]
    failed = v1.listed(limit=1)["data"][0]
    assert failed["status"] == "failed"
    assert failed["error"] == {
        "code": "invalid_params",
        "message": "height must be an integer between 1 and 720",
    }
    assert (failed["size"], failed["seconds"]) == ("64x0", "0.312")
    v1.http.delete(f"/videos/{oldest_first[1]}")
    openai_error(v1.http.get("/videos", params={"after": oldest_first[1]}), 404)
    page = v1.listed(order="asc", limit=2, after=oldest_first[0])
    assert [video["id"] for video in page["data"]] == oldest_first[2:4]


@pytest.mark.parametrize(
    ("params", "param"),
    [({"limit": 0}, "limit"), ({"limit": 101}, "limit"), ({"order": "up"}, "order"), ({"after": "x" * 300}, "after")],
)
def test_a_list_has_limits(v1: V1, params: dict[str, Any], param: str) -> None:
    openai_error(v1.http.get("/videos", params=params), 400, param)


def test_a_video_is_cancelled_before_it_is_deleted(tenant: ServerProcess, v1: V1) -> None:
    running = tenant.enqueue(**ENDLESS)
    tenant.wait_for(running, "processing")
    assert v1.video(running)["status"] == "in_progress"
    sentence = f"Video {running} is processing: it has no content."
    assert openai_error(v1.http.get(f"/videos/{running}/content"), 404)["message"] == sentence

    answer = v1.http.delete(f"/videos/{running}")

    assert answer.json() == {"id": running, "object": "video.deleted", "deleted": True}
    assert tenant.http.get(f"/queue/{running}").status_code == 404
    openai_error(v1.http.delete(f"/videos/{running}"), 404)


def test_a_cancelled_video_has_failed(tenant: ServerProcess, v1: V1) -> None:
    id_ = tenant.enqueue(**ENDLESS)
    tenant.http.delete(f"/queue/{id_}")

    video = v1.video(id_)

    assert (video["status"], video["error"]["code"]) == ("failed", "cancelled")
    assert video["completed_at"] is not None


def test_another_keys_videos_do_not_exist(keyed_server: ServerProcess, v1: V1, keys: Any) -> None:
    mine = v1.made(json=SMALL)["id"]
    other = keyed_server.with_key(next(keys))
    of_video = {"prompt": "x", "video": {"id": mine}}
    with v1_of(other) as stranger:
        for method, path, body in (
            ("GET", f"/videos/{mine}", None),
            ("GET", f"/videos/{mine}/content", None),
            ("DELETE", f"/videos/{mine}", None),
            ("GET", f"/videos?after={mine}", None),
            ("POST", f"/videos/{mine}/remix", {"prompt": "x"}),
            ("POST", "/videos/extensions", of_video),
            ("POST", "/videos/edits", of_video),
        ):
            theirs = openai_error(stranger.http.request(method, path, json=body), 404)
            unknown = stranger.http.request(method, path.replace(mine, UNKNOWN), json=body)
            assert method == "POST" or openai_error(unknown, 404) == theirs
        assert stranger.listed()["data"] == []
    other.http.close()
    assert v1.video(mine)["status"] == "completed"


def test_the_models(v1: V1) -> None:
    listed = v1.http.get("/models").json()

    assert listed.keys() == {"object", "data"}
    assert listed["object"] == "list"
    (model,) = (each for each in listed["data"] if each["id"] == DEFAULT_MODEL)
    assert model.keys() == {"id", "object", "created", "owned_by"}
    assert model["object"] == "model"
    assert v1.http.get(f"/models/{DEFAULT_MODEL}").json() == model
    error = openai_error(v1.http.get("/models/sora-2"), 404, "model")
    assert (error["message"], error["code"]) == ("Model not found: sora-2", "model_not_found")
