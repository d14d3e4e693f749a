"""A real server whose records are in PostgreSQL."""

from collections.abc import Callable

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
