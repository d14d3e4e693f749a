"""kill -9, restarts and rivals: what was accepted is kept, and nothing outlives its server."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support import CLEAN_ENDS, SMALL, ServerProcess

LONG: dict[str, Any] = {"width": 256, "height": 256, "num_inference_steps": 100}
WORKER_END_SECONDS = 10
"""Two are promised; a machine that is busy elsewhere may need more."""


def test_after_a_kill_everything_accepted_is_there(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    done = server.enqueue(seed=1)
    video = server.video(done)
    interrupted = server.enqueue(**LONG, seed=2)
    waiting = server.enqueue(seed=3)
    server.wait_for(interrupted, "processing")
    (worker,) = server.worker_pids()

    server.kill()
    server.start()

    assert server.video(done) == video
    server.video(interrupted)
    server.video(waiting)
    assert not psutil.pid_exists(worker)
    attempts = {(id_, attempt): outcome for id_, attempt, outcome in attempt_log(server.data_dir)}
    assert attempts == {
        (done, 1): "succeeded",
        (interrupted, 1): "abandoned",
        (interrupted, 2): "succeeded",
        (waiting, 1): "succeeded",
    }


def attempt_log(data_dir: Path) -> list[tuple[str, int, str | None]]:
    """Every attempt: (generation, attempt, outcome)."""
    connection = sqlite3.connect(f"file:{data_dir / 'paddock.db'}?mode=ro", uri=True)
    rows = connection.execute("SELECT generation_id, attempt, outcome FROM attempts").fetchall()
    connection.close()
    return rows


@pytest.mark.parametrize("victim", ["worker", "server"])
def test_what_a_killed_process_had_done_is_not_done_again(
    start_server: Callable[..., ServerProcess], victim: str
) -> None:
    server = start_server(checkpoint_interval="0.1")
    request = {**LONG, "num_inference_steps": 40, "seed": 2}
    undisturbed = server.video(server.enqueue(**request))
    id_ = server.enqueue(**request)
    while (reached := server.row(id_)["progress"]) < 0.5:
        time.sleep(0.02)

    if victim == "server":
        server.kill()
        server.start()
    else:
        psutil.Process(server.worker_pids()[0]).kill()
    first = first_progress(server, id_, attempt=2)

    assert first["progress"] > reached / 2
    assert first["eta_seconds"] is not None
    assert server.video(id_) == undisturbed
    assert list((server.data_dir / "checkpoints").iterdir()) == []


def first_progress(server: ServerProcess, generation_id: str, attempt: int) -> dict[str, Any]:
    """The row at the first report of an attempt's worker."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        row = server.row(generation_id)
        tries = sum(id_ == generation_id for id_, _, _ in attempt_log(server.data_dir))
        if tries == attempt and row["eta_seconds"] is not None:
            return row
        time.sleep(0.02)
    raise AssertionError(server.log_text())


def test_a_file_finished_just_before_the_kill_is_adopted(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    done = server.enqueue(seed=1)
    video = server.video(done)
    server.kill()
    # the moment between the file's rename and the row's update
    database = sqlite3.connect(server.data_dir / "paddock.db")
    database.execute(
        "UPDATE generations SET status = 'processing', artifact = NULL, completed_at = NULL, owner = 'gone', "
        "lease_until = 1e12"
    )
    database.execute("UPDATE attempts SET outcome = NULL, ended_at = NULL")
    database.commit()
    database.close()

    server.start()

    row = server.row(done)
    assert (row["status"], row["progress"]) == ("succeeded", 1.0)
    assert server.video(done) == video
    assert attempt_log(server.data_dir) == [(done, 1, "succeeded")]
    assert server.worker_pids() == []


def first_workers(server: ServerProcess) -> list[int]:
    """The processes of the server's workers, once there are any."""
    deadline = time.monotonic() + 20
    while not (workers := server.worker_pids()):
        assert time.monotonic() < deadline, server.log_text()
        time.sleep(0.01)
    return workers


def test_a_clean_stop_gives_the_running_generation_back(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    running = server.enqueue(**LONG)
    server.wait_for(running, "processing")
    # the row says so before the process is there
    (worker,) = first_workers(server)

    began = time.monotonic()
    assert server.stop() in CLEAN_ENDS
    assert time.monotonic() - began < 10
    assert not psutil.pid_exists(worker)
    assert attempt_log(server.data_dir) == [(running, 1, "released")]

    server.start()
    assert server.wait_for(running, "succeeded")


def test_a_stop_saves_what_runs_and_refuses_more_meanwhile(start_server: Callable[..., ServerProcess]) -> None:
    # a long step, so that there is a meanwhile
    slow: dict[str, Any] = {"width": 512, "height": 320, "num_frames": 33, "num_inference_steps": 8, "seed": 2}
    server = start_server(checkpoint_interval="1000", stop_grace="60")
    undisturbed = server.video(server.enqueue(**slow))
    id_ = server.enqueue(**slow)
    while (reached := server.row(id_)["progress"]) < 0.1:
        time.sleep(0.02)

    assert server.process is not None
    server.process.terminate()
    while (answer := server.http.post("/queue", json=SMALL)).status_code == 200:
        time.sleep(0.01)
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "unavailable")
    assert server.row(id_)["status"] == "processing"
    assert server.stop() in CLEAN_ENDS
    assert (server.data_dir / "checkpoints" / f"{id_}.ckpt").exists()

    server.start()
    assert first_progress(server, id_, attempt=2)["progress"] >= reached
    assert server.video(id_) == undisturbed
    assert ((id_, 1, "released")) in attempt_log(server.data_dir)


def test_those_who_wait_are_told_of_a_stop(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    running = server.enqueue(**LONG)
    server.wait_for(running, "processing")
    script = (
        "import sys, httpx; r = httpx.post(sys.argv[1], json=eval(sys.argv[2]), timeout=60); "
        "print(r.status_code, r.json()['error']['type'])"
    )
    waiting = subprocess.Popen(
        [sys.executable, "-c", script, f"{server.url}/api/ai/videos/generate", repr(SMALL)],
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while len(server.http.get("/queue").json()["generations"]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)

    assert server.stop() in CLEAN_ENDS

    assert waiting.communicate(timeout=20)[0].split() == ["503", "unavailable"]


@pytest.mark.parametrize("moment", ["starting", "running"])
def test_no_worker_outlives_a_killed_server(start_server: Callable[..., ServerProcess], moment: str) -> None:
    server = start_server()
    running = server.enqueue(**LONG)
    if moment == "running":
        while server.row(running)["progress"] < 0.05:
            time.sleep(0.02)
    workers = first_workers(server)

    server.kill()

    deadline = time.monotonic() + WORKER_END_SECONDS
    while any(psutil.pid_exists(pid) for pid in workers):
        assert time.monotonic() < deadline, "the worker outlived its server"
        time.sleep(0.02)


def test_a_stopped_worker_dies_with_its_server_too(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    running = server.enqueue(**LONG)
    while server.row(running)["progress"] < 0.05:
        time.sleep(0.02)
    (worker,) = server.worker_pids()
    psutil.Process(worker).send_signal(signal.SIGSTOP)

    server.kill()

    psutil.wait_procs([psutil.Process(worker)] if psutil.pid_exists(worker) else [], timeout=WORKER_END_SECONDS)
    assert not psutil.pid_exists(worker)


def test_a_killed_worker_is_replaced_and_the_generation_tried_again(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server()
    running = server.enqueue(**LONG)
    while server.row(running)["progress"] < 0.05:
        time.sleep(0.02)
    (worker,) = server.worker_pids()

    psutil.Process(worker).kill()

    server.wait_for(running, "succeeded")
    assert server.worker_pids() != [worker]
    assert attempt_log(server.data_dir) == [(running, 1, "worker_died"), (running, 2, "succeeded")]


def test_a_second_server_on_the_same_data_is_refused(server: ServerProcess) -> None:
    rival = subprocess.run(
        [sys.executable, "-P", "-m", "server.cli", "serve", "--demo", "--port", "0", "--data-dir", server.data_dir],
        stderr=subprocess.PIPE,
        check=False,
        text=True,
        timeout=30,
    )

    assert rival.returncode == 2
    assert "Another Paddock server uses the data directory" in rival.stderr
    assert httpx.get(f"{server.url}/healthz").status_code == 200


DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("left_by", ["v0.1.0", "checkpointed"])
def test_what_an_older_version_left_is_served_and_finished(
    start_server: Callable[..., ServerProcess], tmp_path: Path, left_by: str
) -> None:
    shutil.copytree(DATA / left_by, tmp_path / "data")

    server = start_server()

    rows = server.http.get("/generations").json()["generations"]
    by_prompt = {row["prompt"]: row for row in rows}
    assert set(by_prompt) == {"finished", "failed", "cancelled", "interrupted", "waiting"}
    assert by_prompt["failed"]["error_message"] == "height must be an integer between 1 and 720"
    assert by_prompt["cancelled"]["status"] == "cancelled"
    assert by_prompt["finished"]["mood"] == "calm"
    assert httpx.get(by_prompt["finished"]["result_url"]).content[4:8] == b"ftyp"
    for prompt in ("interrupted", "waiting"):
        server.video(by_prompt[prompt]["generation_id"])
    # on the machine that wrote it a checkpoint is gone on from, elsewhere it is left aside
    assert list((server.data_dir / "checkpoints").iterdir()) == []


def test_a_device_whose_workers_die_is_unhealthy_until_it_has_made_a_video(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server(unhealthy_after="1", unhealthy_cooldown="3")
    generation = server.enqueue(num_inference_steps=50)
    server.wait_for(generation, "processing")
    psutil.Process(worker_of(server)).kill()

    told = until_answered(server, 503)["error"]
    assert (told["type"], told["title"]) == ("unavailable", "The server is not available now")
    assert "The device cpu keeps failing, the last time so: it was killed by SIGKILL." in told["message"]
    server.wait_for(generation, "succeeded")
    device = until_answered(server, 200)["devices"][0]
    assert (device["health"], device["failures"], device["error"]) == ("healthy", 1, None)


def worker_of(server: ServerProcess) -> int:
    deadline = time.monotonic() + 30
    while not (pids := server.worker_pids()):
        assert time.monotonic() < deadline, server.log_text()
        time.sleep(0.02)
    return pids[0]


def until_answered(server: ServerProcess, status: int) -> Any:
    """What /readyz says once it answers with this status."""
    deadline = time.monotonic() + 30
    while (response := httpx.get(f"{server.url}/readyz")).status_code != status:
        assert time.monotonic() < deadline, server.log_text()
        time.sleep(0.05)
    return response.json()
