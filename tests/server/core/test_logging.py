"""The log in both of its forms, and what is not in it."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from server.core.logging import LogFormat, configure, ids
from tests.support.server_process import ServerProcess, eventually

SECRET = "an ox that nobody else is to know of"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger as it is in a new process."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = before
    root.setLevel(level)


def written(root: logging.Logger, capsys: pytest.CaptureFixture[str], form: LogFormat) -> str:
    # pytest's own come after a fixture's
    root.handlers[:] = []
    configure("info", form)
    logging.getLogger("paddock.scheduler").info("generation %s is done", "an-id", extra=ids("an-id", 2))
    logging.getLogger("paddock.scheduler").debug("nobody asked for this")
    return capsys.readouterr().err


def test_lines_for_people(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = written(root, capsys, LogFormat.TEXT).splitlines()

    assert line.endswith(" INFO paddock.scheduler: generation an-id is done")


def test_objects_for_programs(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = written(root, capsys, LogFormat.JSON).splitlines()

    told = json.loads(line)
    assert told.pop("time")
    assert told == {
        "level": "INFO",
        "logger": "paddock.scheduler",
        "message": "generation an-id is done",
        "generation": "an-id",
        "attempt": 2,
    }


def test_a_running_server_tells_of_generations_but_not_what_they_are_of(tenant: ServerProcess, key: str) -> None:
    server, before = tenant, tenant.log.stat().st_size
    done = server.enqueue(prompt=SECRET)
    failed = server.enqueue(prompt=SECRET, height=5000)
    server.wait_for(done, "succeeded")
    server.http.get(f"{server.url}/nowhere?prompt={SECRET}")

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in told(server, before).splitlines() if line.startswith("{")]

    about = eventually(lambda: [line for line in lines() if line.get("generation") == done], server)
    assert [line["attempt"] for line in about] == [1]
    assert "succeeded" in about[0]["message"]
    assert {line["level"] for line in lines()} <= {"INFO", "WARNING"}
    text = told(server, before)
    assert failed not in text or SECRET not in text
    for secret in (SECRET, SECRET.replace(" ", "%20"), key):
        assert secret not in text


def test_the_log_of_a_start_is_the_servers_own_and_no_librarys_noise(keyed_server: ServerProcess) -> None:
    objects = [json.loads(line) for line in keyed_server.log_text().splitlines() if line.startswith("{")]

    assert {line["logger"].split(".")[0] for line in objects} <= {"paddock", "uvicorn"}


def told(server: ServerProcess, since: int) -> str:
    """The log from a byte on."""
    return server.log.read_bytes()[since:].decode()
