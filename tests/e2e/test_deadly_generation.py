"""A generation that takes the server down with it, again and again."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from server.core.retry import SERVER_DEATHS_ALLOWED, SERVER_DEATHS_IN_PLACE
from tests.e2e.test_recovery import attempt_log
from tests.support.server_process import PATIENCE, ServerProcess

pytestmark = pytest.mark.heavy


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """A server with the scripted worker, which kills it only while the file `go` is there."""
    monkeypatch.setenv("FAULTY_GO", str(tmp_path / "go"))
    server = ServerProcess(tmp_path / "data", module="tests.support.faulty_server")
    with closing(server):
        server.start()
        yield server


def test_it_stops_nothing_behind_it_and_fails_after_ten_deaths(server: ServerProcess, tmp_path: Path) -> None:
    go = tmp_path / "go"
    deadly = server.enqueue(prompt="kill the server at denoise")
    other = server.enqueue(prompt="a quiet lake")
    for deaths in range(SERVER_DEATHS_ALLOWED):
        server.wait_for(deadly, "processing")
        is_others_turn_past = deaths > SERVER_DEATHS_IN_PLACE
        assert server.row(other)["status"] == ("succeeded" if is_others_turn_past else "queued")
        go.touch()
        assert server.process is not None
        server.process.wait(PATIENCE)
        go.unlink()
        server.start()
        if deaths == SERVER_DEATHS_IN_PLACE:
            server.wait_for(other, "succeeded")

    row = server.row(deadly)
    assert (row["status"], row["error_message"]) == (
        "failed",
        "The server died 10 times in a row while it ran this generation, without progress in between.",
    )
    listed = [each["generation_id"] for each in server.http.get("/generations").json()["generations"]]
    assert listed == [other, deadly]
    assert sorted(attempt_log(server.data_dir), key=lambda each: each[:2]) == sorted(
        [*((deadly, number, "abandoned") for number in range(1, 11)), (other, 1, "succeeded")],
        key=lambda each: each[:2],
    )
    server.wait_for(server.enqueue(prompt="a quiet lake"), "succeeded")
