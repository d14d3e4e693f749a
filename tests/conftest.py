"""Fixtures every test may use: small weights, servers that end with the test, and empty databases."""

import gc
import os
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Several servers and workers share the processor: a thread that waits for another must not keep a third from working.
# Here before torch is imported, and from here for every process that is started.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# where this is set, hundreds of processes would compile our modules anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from tests.support.chat_server import ChatServer, chat_server
from tests.support.command_line import CommandRunner, Typed
from tests.support.object_store import ObjectStoreServer
from tests.support.postgres import PostgresServer
from tests.support.server_process import CLEAN_ENDS, ServerProcess, SmallDisk
from tests.support.worker_template import shared_template

# how long an example takes says how busy the machine is
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

KEYS = tuple(f"key-{number}" for number in range(200))


def pytest_sessionstart() -> None:
    """Make the suite independent of who started it, and skip garbage collection while libraries are imported."""
    # a shell starts background jobs with SIGINT ignored, and every process started from here would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ServerProcess.template = staticmethod(shared_template)
    # imports leave hardly any garbage
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the longest tests first: at the end one process would be at one while the others have nothing to do."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


def pytest_collection_finish() -> None:
    """Spare every later collection of garbage the half million objects of the libraries."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Spare them also what a module's tests leave for good: a compiler, once used, leaves as many objects again."""
    torn_down = yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return torn_down


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random weights, built once."""
    # it brings torch, which the process that only hands out tests does without
    from tests.support.models.random_weights import random_folder

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
def keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One running demo server that has a key for each test, a picture of each step, and a log for programs."""
    settings = {"event_replay": "60", "preview_interval": "0.05", "log_format": "json"}
    process = ServerProcess(tmp_path_factory.mktemp("keyed") / "data", api_keys=",".join(KEYS), **settings)
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[ObjectStoreServer]:
    """An S3 server with an empty bucket."""
    server = ObjectStoreServer()
    yield server
    server.stop()


@pytest.fixture
def bucket_url(s3: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix in it, which this process and those that it starts may use."""
    return s3.use(monkeypatch)


@pytest.fixture(scope="session")
def keys() -> Iterator[str]:
    """Keys of that server that nobody has used."""
    return iter(KEYS)


@pytest.fixture
def key(keys: Iterator[str]) -> str:
    """One that sees no row and no event but the test's own."""
    return next(keys)


@pytest.fixture
def tenant(keyed_server: ServerProcess, key: str) -> Iterator[ServerProcess]:
    """A server that looks like the test's own, with nothing in it, and whose worker is mostly there already."""
    seen = keyed_server.with_key(key)
    yield seen
    for row in seen.http.get("/queue").json()["generations"]:
        seen.http.delete(f"/queue/{row['generation_id']}")
    seen.wait_until_idle()
    seen.http.close()


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


@pytest.fixture(scope="session")
def typist() -> Iterator[CommandRunner]:
    """Who types commands."""
    typist = CommandRunner()
    yield typist
    typist.close()


@pytest.fixture
def typed(typist: CommandRunner, tmp_path: Path) -> Typed:
    """Commands in the test's own folder."""

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return typist.run(*args, cwd=tmp_path, env=env)

    return run


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers of the test's own: `start_server("--option", setting="value")`.

    `prefix` is a program that runs the server in another place.
    """
    started: list[ServerProcess] = []

    def start(*args: str, name: str = "data", prefix: tuple[str, ...] = (), **settings: Any) -> ServerProcess:
        process = ServerProcess(tmp_path / name, *args, **settings)
        process.prefix = prefix
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ChatServer]:
    """A stand-in for a language model, for servers of a module."""
    with chat_server() as chat:
        yield chat


@pytest.fixture
def chat(endpoint: ChatServer) -> ChatServer:
    """The same, as it was at first."""
    endpoint.reset()
    return endpoint
