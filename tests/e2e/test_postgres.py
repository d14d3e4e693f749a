"""A real server whose records are in PostgreSQL."""

import signal
from collections.abc import Callable

import psutil
import pytest
from sqlalchemy import make_url

from tests.e2e.test_recovery import LONG
from tests.support.server_process import ServerProcess


def test_after_a_kill_everything_accepted_is_there(
    start_server: Callable[..., ServerProcess], postgres_url: str
) -> None:
    server = start_server(database_url=postgres_url)
    interrupted, waiting = server.enqueue(**LONG, seed=1), server.enqueue(seed=2)
    server.wait_for(interrupted, "processing")

    server.kill()
    server.start()

    assert server.row(waiting)["queue_position"] in (1, 2)
    server.http.delete(f"/queue/{interrupted}")
    server.video(waiting)
    assert not (server.data_dir / "paddock.db").exists()


@pytest.mark.heavy
def test_a_database_that_hangs_does_not_keep_the_server_from_stopping(
    start_server: Callable[..., ServerProcess], postgres_url: str
) -> None:
    server = start_server(database_url=postgres_url, stop_grace="1")
    waiting = server.enqueue(**LONG)
    server.wait_for(waiting, "processing")
    name = make_url(postgres_url).database
    sessions = [
        each for each in psutil.process_iter(["cmdline"]) if f" {name} " in " ".join(each.info["cmdline"] or ())
    ]
    assert sessions
    for session in sessions:
        session.send_signal(signal.SIGSTOP)
    try:
        status = server.stop(timeout=60)
    finally:
        for session in sessions:
            session.send_signal(signal.SIGCONT)

    assert status == 1
    assert "its database or its disk may hang" in server.log_text()
    server.start()
    assert server.row(waiting)["status"] in ("queued", "processing")
