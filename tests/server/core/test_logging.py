"""Both formats of the log; prompts and keys are not in it."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from server.core.logging import LogFormat, configure, ids
from tests.support.server_process import ServerProcess, eventually

SECRET = "an ox in a secret prompt"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, restored after the test."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = before
    root.setLevel(level)


def written(root: logging.Logger, capsys: pytest.CaptureFixture[str], form: LogFormat) -> str:
    # pytest adds its handlers after the fixture has run
    root.handlers[:] = []
    configure("info", form)
    logging.getLogger("paddock.scheduler").info("generation %s is done", "an-id", extra=ids("an-id", 2))
    logging.getLogger("paddock.scheduler").debug("below the level")
    return capsys.readouterr().err


def test_text_format(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = written(root, capsys, LogFormat.TEXT).splitlines()

    assert line.endswith(" INFO paddock.scheduler: generation an-id is done")


def test_json_format(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = written(root, capsys, LogFormat.JSON).splitlines()

    fields = json.loads(line)
    assert fields.pop("time")
    assert fields == {
        "level": "INFO",
        "logger": "paddock.scheduler",
        "message": "generation an-id is done",
        "generation": "an-id",
        "attempt": 2,
    }


def test_a_server_logs_generations_but_neither_prompts_nor_keys(tenant: ServerProcess, key: str) -> None:
    server, before = tenant, tenant.log.stat().st_size
    done = server.enqueue(prompt=SECRET)
    failed = server.enqueue(prompt=SECRET, height=5000)
    server.wait_for(done, "succeeded")
    server.http.get(f"{server.url}/nowhere?prompt={SECRET}")

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log_since(server, before).splitlines() if line.startswith("{")]

    about = eventually(lambda: [line for line in lines() if line.get("generation") == done], server)
    assert [line["attempt"] for line in about] == [1]
    assert "succeeded" in about[0]["message"]
    assert {line["level"] for line in lines()} <= {"INFO", "WARNING"}
    text = log_since(server, before)
    assert failed not in text or SECRET not in text
    for secret in (SECRET, SECRET.replace(" ", "%20"), key):
        assert secret not in text


def test_only_the_server_and_uvicorn_log_at_start(keyed_server: ServerProcess) -> None:
    objects = [json.loads(line) for line in keyed_server.log_text().splitlines() if line.startswith("{")]

    assert {line["logger"].split(".")[0] for line in objects} <= {"paddock", "uvicorn"}


def log_since(server: ServerProcess, start: int) -> str:
    """The log from byte `start` on."""
    return server.log.read_bytes()[start:].decode()
