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

from tests.support.server_process import CLEAN_ENDS, ENDLESS, PATIENCE, SMALL, ServerProcess, eventually, free_port

LONG: dict[str, Any] = {"width": 256, "height": 256, "num_inference_steps": 100}
RESUMED: dict[str, Any] = {**LONG, "num_inference_steps": 40, "seed": 2}


def test_after_a_kill_everything_accepted_is_there_and_goes_on_where_it_was(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server(checkpoint_interval="0.1")
    done = server.enqueue(**RESUMED)
    undisturbed = server.video(done)
    interrupted = server.enqueue(**RESUMED)
    waiting = server.enqueue(seed=3)
    reached = await_progress(server, interrupted, 0.5)
    (worker,) = server.worker_pids()

    server.kill()

    await_end(worker)
    server.start()
    check_resumed(server, interrupted, reached)
    assert server.video(done) == server.video(interrupted) == undisturbed
    server.video(waiting)
    assert list((server.data_dir / "checkpoints").iterdir()) == []
    attempts = {(id_, attempt): outcome for id_, attempt, outcome in attempt_log(server.data_dir)}
    assert attempts == {
        (done, 1): "succeeded",
        (interrupted, 1): "abandoned",
        (interrupted, 2): "succeeded",
        (waiting, 1): "succeeded",
    }


def test_a_killed_worker_is_replaced_and_the_generation_goes_on_where_it_was(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server(checkpoint_interval="0.1")
    done = server.enqueue(**RESUMED)
    undisturbed = server.video(done)
    running = server.enqueue(**RESUMED)
    reached = await_progress(server, running, 0.5)
    (worker,) = server.worker_pids()

    psutil.Process(worker).kill()

    check_resumed(server, running, reached)
    assert server.video(running) == undisturbed
    assert server.worker_pids() != [worker]
    assert list((server.data_dir / "checkpoints").iterdir()) == []
    assert attempt_log(server.data_dir) == [
        (done, 1, "succeeded"),
        (running, 1, "worker_died"),
        (running, 2, "succeeded"),
    ]


def await_progress(server: ServerProcess, generation_id: str, fraction: float) -> float:
    """Wait until so much of a generation is done; returns how much it is."""
    return eventually(lambda: (now := float(server.row(generation_id)["progress"])) >= fraction and now, server)


def await_end(*pids: int) -> None:
    """Wait for the end of workers whose server was killed."""
    # two seconds are promised; a machine that is busy elsewhere may need more
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), patience=10)


def check_resumed(server: ServerProcess, generation_id: str, reached: float) -> None:
    """The second attempt begins near where the first one ended."""
    first = first_progress(server, generation_id, attempt=2)
    assert first["progress"] > reached / 2
    assert first["eta_seconds"] is not None


def attempt_log(data_dir: Path) -> list[tuple[str, int, str | None]]:
    """Every attempt: (generation, attempt, outcome)."""
    connection = sqlite3.connect(f"file:{data_dir / 'paddock.db'}?mode=ro", uri=True)
    rows = connection.execute("SELECT generation_id, attempt, outcome FROM attempts").fetchall()
    connection.close()
    return rows


def first_progress(server: ServerProcess, generation_id: str, attempt: int) -> dict[str, Any]:
    """The row at the first report of an attempt's worker."""

    def reported() -> dict[str, Any] | None:
        row = server.row(generation_id)
        tries = sum(id_ == generation_id for id_, _, _ in attempt_log(server.data_dir))
        return row if tries == attempt and row["eta_seconds"] is not None else None

    row = eventually(reported, server)
    assert row is not None
    return row


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


def test_a_clean_stop_saves_what_runs_and_refuses_more_meanwhile(start_server: Callable[..., ServerProcess]) -> None:
    # a long step, so that there is a meanwhile
    slow: dict[str, Any] = {"width": 1280, "height": 720, "num_frames": 1, "num_inference_steps": 4, "seed": 2}
    server = start_server(checkpoint_interval="1000", stop_grace="60")
    undisturbed = server.video(server.enqueue(**slow))
    id_ = server.enqueue(**slow)
    reached = await_progress(server, id_, 0.1)
    (worker,) = server.worker_pids()

    assert server.process is not None
    server.process.terminate()
    while (answer := server.http.post("/queue", json=SMALL)).status_code == 200:
        time.sleep(0.01)
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "unavailable")
    assert server.row(id_)["status"] == "processing"
    assert server.stop() in CLEAN_ENDS
    assert not psutil.pid_exists(worker)
    assert (server.data_dir / "checkpoints" / f"{id_}.1.ckpt").exists()
    assert attempt_log(server.data_dir)[-1] == (id_, 1, "released")

    server.start()
    assert first_progress(server, id_, attempt=2)["progress"] >= reached
    assert server.video(id_) == undisturbed


def test_a_closed_terminal_stops_a_server_cleanly_but_not_after_nohup(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = start_server()
    assert server.process is not None
    server.wait_for(id_ := server.enqueue(**ENDLESS), "processing")

    server.process.send_signal(signal.SIGHUP)
    assert server.process.wait(PATIENCE) in CLEAN_ENDS
    assert "SIGHUP: stopping" in server.log_text()
    server.start()
    assert server.row(id_)["status"] in ("queued", "processing")

    port = free_port()
    command = [sys.executable, "-P", "-m", "server.cli", "serve", "--demo", "--port", str(port)]
    with subprocess.Popen(
        ["nohup", *command, "--data-dir", str(tmp_path / "other")], stderr=subprocess.DEVNULL
    ) as other:
        eventually(lambda: answers(port))
        other.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert answers(port)
        other.terminate()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
    except httpx.TransportError:
        return False


def test_a_stop_while_a_worker_starts_gives_the_generation_back_and_tells_those_who_wait(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server()
    begun = server.enqueue(**LONG)
    (worker,) = first_workers(server)
    script = (
        "import sys, httpx; r = httpx.post(sys.argv[1], json=eval(sys.argv[2]), timeout=120); "
        "print(r.status_code, r.json()['error']['type'])"
    )
    waiting = subprocess.Popen(
        [sys.executable, "-c", script, f"{server.url}/api/ai/videos/generate", repr(SMALL)],
        stdout=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: server.listed("queued"))

    assert server.stop() in CLEAN_ENDS

    assert waiting.communicate(timeout=PATIENCE)[0].split() == ["503", "unavailable"]
    assert not psutil.pid_exists(worker)
    assert attempt_log(server.data_dir) == [(begun, 1, "released")]
    server.start()
    server.wait_for(begun, "processing")


def test_no_worker_that_starts_outlives_a_killed_server(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    server.enqueue(**LONG)
    workers = first_workers(server)

    server.kill()

    await_end(*workers)


def first_workers(server: ServerProcess) -> list[int]:
    """The processes of the server's workers, once there are any."""
    return eventually(server.worker_pids, server)


def test_a_stopped_worker_dies_with_its_server_too(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    await_progress(server, server.enqueue(**LONG), 0.05)
    (worker,) = server.worker_pids()
    psutil.Process(worker).send_signal(signal.SIGSTOP)

    server.kill()

    await_end(worker)


def test_a_second_server_on_the_same_data_is_refused(server: ServerProcess) -> None:
    rival = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "server.cli",
            "serve",
            "--demo",
            "--port",
            "0",
            "--data-dir",
            server.data_dir,
        ],
        stderr=subprocess.PIPE,
        check=False,
        text=True,
        timeout=PATIENCE,
    )

    assert rival.returncode == 2
    assert "Another Paddock server uses the data directory" in rival.stderr
    assert httpx.get(f"{server.url}/healthz").status_code == 200


DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("left_by", ["v0.1.0", "checkpointed", "v0.2.0"])
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
    psutil.Process(first_workers(server)[0]).kill()

    told = until_answered(server, 503)["error"]
    assert (told["type"], told["title"]) == ("unavailable", "The server is not available now")
    message = told["message"]
    assert message.startswith("The device cpu takes no generations: ")
    # a worker that was killed early had not yet started
    assert "it was killed by SIGKILL." in message
    server.wait_for(generation, "succeeded")
    device = until_answered(server, 200)["devices"][0]
    assert (device["health"], device["failures"], device["error"]) == ("healthy", 1, None)


def until_answered(server: ServerProcess, status: int) -> Any:
    """What /readyz says once it answers with this status."""

    def answer() -> Any:
        response = httpx.get(f"{server.url}/readyz")
        return response.json() if response.status_code == status else None

    return eventually(answer, server)
