"""A real server on a disk that fills up during a generation: that generation fails, and the server continues."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx

from tests.support.server_process import SMALL, ServerProcess, SmallDisk, eventually

LONG: dict[str, Any] = {"width": 128, "height": 128, "num_inference_steps": 40}


def test_a_full_disk_fails_one_generation_and_the_server_continues_without_a_restart(
    start_server: Callable[..., ServerProcess], small_disk: SmallDisk
) -> None:
    # without checkpoints and renewals the failure of the video is the only thing to record on the full disk
    server = start_server(name="disk/data", min_free_bytes=str(2**20), checkpoint_interval="0", lease="600")
    first = server.enqueue()
    server.video(first)
    workers = server.worker_pids()
    ready = httpx.get(f"{server.url}/readyz").json()
    assert 2**20 < ready["free_bytes"] < 4 * 2**20

    failing = server.enqueue(**LONG)
    waiting = server.enqueue()
    eventually(lambda: server.row(failing)["progress"] > 0.05, server)
    small_disk.fill()
    # there is no space for the video, and none to record that it failed
    eventually(lambda: "Nothing was recorded" in server.log_text(), server)
    # the server measures the free space once a second; before it notices, the database error refuses requests
    eventually(lambda: "nearly full" in httpx.get(f"{server.url}/readyz").text, server)

    assert [path.name for path in (server.data_dir / "videos").iterdir()] == [f"{first}.1.mp4"]
    assert [server.row(id_)["status"] for id_ in (failing, waiting)] == ["processing", "queued"]
    refused = server.http.post("/queue", json=SMALL)
    assert refused.status_code == 503
    assert refused.json()["error"]["type"] == "unavailable"
    assert "nearly full" in refused.json()["error"]["message"]
    assert int(refused.headers["Retry-After"]) > 0
    assert httpx.get(f"{server.url}/readyz").status_code == 503
    assert httpx.get(f"{server.url}/healthz").status_code == 200

    small_disk.empty()
    server.video(waiting)
    assert "No space left on the server's disk: the video" in server.row(failing)["error_message"]
    assert server.worker_pids() == workers
    assert "Traceback" not in server.log_text()
    assert server.log_text().count("nearly full") == 1
    with closing(sqlite3.connect(server.data_dir / "paddock.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
