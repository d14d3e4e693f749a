"""Fixtures every test may use: small weights, servers that end with the test, and empty databases."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import PostgresServer
from tests.random_weights import random_folder
from tests.support import CLEAN_ENDS, ServerProcess, SmallDisk


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random weights, built once."""
    return random_folder(tmp_path_factory.mktemp("weights") / "random")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One running demo server, shared by tests that do not harm it."""
    process = ServerProcess(tmp_path_factory.mktemp("shared") / "data")
    process.start()
    yield process
    status = process.stop()
    process.close()
    assert status in CLEAN_ENDS, process.log_text()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One running PostgreSQL."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty PostgreSQL database of the test's own."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 4 MiB."""
    disk = SmallDisk(tmp_path / "disk", 4 * 2**20)
    yield disk
    disk.unmount()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers of the test's own: `start_server("--option", setting="value")`."""
    started: list[ServerProcess] = []

    def start(*args: str, name: str = "data", **settings: Any) -> ServerProcess:
        process = ServerProcess(tmp_path / name, *args, **settings)
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.close()
