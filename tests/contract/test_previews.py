"""A generation's preview over HTTP: for its owner, while it runs, and under another address for every picture."""

import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from PIL import Image

from tests.contract.test_events import events_of
from tests.contract.test_http import LONG, error_of
from tests.support.server_process import ServerProcess


def with_preview(server: ServerProcess, generation_id: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The generation's row, once it has a preview."""
    deadline = time.monotonic() + 120
    while (row := server.http.get(f"/queue/{generation_id}", headers=headers).json())["preview_url"] is None:
        assert row["status"] in ("queued", "processing"), row
        assert time.monotonic() < deadline, server.log_text()
        time.sleep(0.05)
    return dict(row)


def test_a_preview_is_its_owners_while_it_runs(keyed_server: ServerProcess, keys: Iterator[str]) -> None:
    server = keyed_server
    mine, yours = ({"Authorization": f"Bearer {next(keys)}"} for _ in range(2))
    created = server.http.post("/queue", json=LONG, headers=mine)
    id_ = created.json()["generations"][0]["generation_id"]
    row = with_preview(server, id_, mine)
    assert row["preview_url"].startswith(f"{server.url}/api/ai/queue/{id_}/preview?step=")

    answer = httpx.get(row["preview_url"], headers=mine)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["cache-control"] == "no-store"
    picture = Image.open(io.BytesIO(answer.content))
    picture.load()
    assert (picture.format, picture.size) == ("JPEG", (256, 256))
    assert httpx.get(f"{server.url}/queue/{id_}/preview", headers=mine).status_code == 200
    assert error_of(httpx.get(row["preview_url"], headers=yours), 404)["type"] == "resource_not_found"
    error_of(httpx.get(row["preview_url"]), 401)

    deadline = time.monotonic() + 60
    # the first answer may have been a later picture than the row's
    while (later := with_preview(server, id_, mine)["preview_url"]) == row["preview_url"] or (
        new := httpx.get(later, headers=mine)
    ).headers["etag"] == answer.headers["etag"]:
        assert time.monotonic() < deadline
    assert new.status_code == 200

    server.http.delete(f"/queue/{id_}", headers=mine)
    assert server.http.get(f"/queue/{id_}", headers=mine).json()["preview_url"] is None
    assert "no preview" in error_of(httpx.get(later, headers=mine), 404)["message"]
    error_of(httpx.get(f"{server.url}/api/ai/queue/nobodys/preview", headers=mine), 404)
    while list((server.data_dir / "previews").iterdir()):
        assert time.monotonic() < deadline + 60
        time.sleep(0.05)


def test_progress_events_have_the_address_and_the_end_has_none(server: ServerProcess) -> None:
    id_ = server.enqueue(**{**LONG, "num_inference_steps": 10})
    told: list[dict[str, Any]] = []
    with server.http.stream("GET", f"{server.url}/api/events") as stream:
        for name, data in events_of(stream.iter_lines()):
            if f'"generation_id":"{id_}"' in data:
                told.append(json.loads(data))
                if name == "media_generation_completed":
                    break

    steps = [event for event in told[:-1] if event["stage"] == "denoising" and event["step"] >= 1]
    assert steps[0]["preview_url"].endswith(f"/api/ai/queue/{id_}/preview?step=1")
    assert steps[-1]["preview_url"].endswith("?step=10")
    assert told[-2]["preview_url"] == steps[-1]["preview_url"]
    assert "preview_url" not in told[-1]
    assert server.row(id_)["preview_url"] is None
    assert server.http.get(f"/generations/{id_}").json()["generation"]["preview_url"] is None


def test_a_killed_server_leaves_no_picture_after_its_next_start(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(preview_interval="0.05", checkpoint_interval="0")
    id_ = server.enqueue(**LONG)
    with_preview(server, id_)
    # begun at once, the killed one's generation would have a picture again
    (server.data_dir / "previews" / "0b0f3a8e-5d5c-4c0f-9d4d-0d2a4a0e6a51.jpg").write_bytes(b"left")
    server.kill()
    assert f"{id_}.1.jpg" in {path.name for path in (server.data_dir / "previews").iterdir()}

    server.start()
    server.http.delete(f"/queue/{id_}")

    deadline = time.monotonic() + 60
    while left := list((server.data_dir / "previews").iterdir()):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_previews_can_be_off_and_the_video_is_the_same(
    server: ServerProcess, start_server: Callable[..., ServerProcess]
) -> None:
    off = start_server(preview_interval="0")
    request = {**LONG, "num_inference_steps": 10, "seed": 3}

    id_ = off.enqueue(**request)
    while (row := off.row(id_))["status"] != "succeeded":
        assert row["preview_url"] is None
        assert not list((off.data_dir / "previews").iterdir())
        time.sleep(0.05)

    assert httpx.get(row["result_url"]).content == server.video(server.enqueue(**request))
