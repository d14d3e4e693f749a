"""Keys: made and revoked while a server runs, kept as digests, and each sees its own and nothing else."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from server.core.errors import UnauthenticatedError
from server.core.events import Broker
from server.storage.db.api_keys import (
    FRESH_SECONDS,
    Gate,
    KeyNameTakenError,
    KeyNotFoundError,
    KeyRing,
    are_there_any,
    digest,
)
from tests.support.server_process import PATIENCE, ServerProcess, eventually


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'paddock.db'}"


@pytest.fixture
def ring(url: str) -> Iterator[KeyRing]:
    with closing(KeyRing(url)) as ring:
        yield ring


def test_of_a_key_only_a_digest_is_kept(ring: KeyRing, tmp_path: Path) -> None:
    key = ring.add("laptop")

    assert re.fullmatch(r"paddock-[\w-]{43}", key)
    assert [(each.name, each.digest, each.revoked_at) for each in ring.all()] == [("laptop", digest(key), None)]
    for file in tmp_path.iterdir():
        assert key.removeprefix("paddock-").encode() not in file.read_bytes()
    assert ring.add("phone") != key


def test_a_name_is_one_keys_for_good(ring: KeyRing) -> None:
    ring.add("laptop")
    with pytest.raises(KeyNameTakenError):
        ring.add("laptop")
    ring.revoke("laptop")
    with pytest.raises(KeyNameTakenError):
        ring.add("laptop")
    for name in ("laptop", "never"):
        with pytest.raises(KeyNotFoundError):
            ring.revoke(name)


async def test_a_gate_heeds_keys_that_are_made_and_revoked_meanwhile(ring: KeyRing) -> None:
    clock = Clock()
    gate = Gate([], ring, clock)
    assert gate.is_open
    assert await gate.tenant(None) == await gate.tenant("whatever") == ""

    one, other = ring.add("one"), ring.add("other")
    clock.now += FRESH_SECONDS

    assert await gate.tenant(one) == digest(one)[:16]
    assert await gate.tenant(other) != await gate.tenant(one)
    assert not gate.is_open
    for wrong in (None, "", "wrong", one + " ", digest(one)):
        with pytest.raises(UnauthenticatedError):
            await gate.tenant(wrong)

    ring.revoke("one")
    clock.now += FRESH_SECONDS
    with pytest.raises(UnauthenticatedError):
        await gate.tenant(one)
    # not open again without the last one either
    ring.revoke("other")
    clock.now += FRESH_SECONDS
    with pytest.raises(UnauthenticatedError):
        await gate.tenant(None)


async def test_keys_of_the_settings_and_made_ones_go_together(ring: KeyRing) -> None:
    made = ring.add("made")
    gate = Gate(["set"], ring)

    assert await gate.tenant("set") == digest("set")[:16]
    assert await gate.tenant(made) == digest(made)[:16]


async def test_records_that_fail_leave_the_keys_as_they_were(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key, clock = ring.add("laptop"), Clock()
    gate = Gate([], ring, clock)

    def fail() -> None:
        raise OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error"))

    monkeypatch.setattr(ring, "all", fail)
    clock.now += FRESH_SECONDS

    assert await gate.tenant(key)
    with pytest.raises(UnauthenticatedError):
        await gate.tenant(None)
    # once, not at every request
    assert len(caplog.messages) == 1


def test_records_are_looked_into_without_being_made(url: str, tmp_path: Path) -> None:
    assert not are_there_any(url)
    assert not list(tmp_path.iterdir())
    (tmp_path / "paddock.db").write_text("no database")
    assert not are_there_any(url)
    (tmp_path / "paddock.db").unlink()
    with closing(KeyRing(url)) as ring:
        assert not are_there_any(url)
        ring.add("laptop")
        ring.revoke("laptop")
        assert are_there_any(url)


# the command line, and a running server


def paddock(*args: str, data_dir: Path, is_refused: bool = False) -> str:
    """What a `paddock key` command prints, on stderr if it is refused."""
    command = [sys.executable, "-m", "server.cli.main", "key", *args, "--data-dir", str(data_dir)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    assert ended.returncode == (2 if is_refused else 0), ended.stderr
    assert "Traceback" not in ended.stderr
    return (ended.stderr if is_refused else ended.stdout).strip()


def test_keys_by_the_command_line_on_a_running_server(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    # one that fails at once: no worker need start for it
    before = server.enqueue(height=0)
    key = paddock("add", "laptop", data_dir=server.data_dir)
    assert paddock("add", "laptop", data_dir=server.data_dir, is_refused=True) == (
        "There is a key named laptop, or was one. Choose another name."
    )

    wait_for_status(server, None, 401)
    seen = server.as_seen_with(key)
    with closing(seen.http):
        assert seen.http.get("/queue").json()["generations"] == []
        # what was nobody's is not the first key's
        assert seen.http.get(f"/queue/{before}").status_code == 404
        assert seen.row(seen.enqueue(height=0))["status"] == "failed"
    listed = paddock("list", data_dir=server.data_dir)
    assert "laptop" in listed
    assert key not in listed

    paddock("revoke", "laptop", data_dir=server.data_dir)
    wait_for_status(server, key, 401)
    assert "is good" in paddock("revoke", "laptop", data_dir=server.data_dir, is_refused=True)
    assert key not in server.log_text()


def test_an_open_event_stream_of_a_revoked_key_ends_and_others_go_on(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server(api_keys="set")
    with closing(KeyRing(f"sqlite:///{server.data_dir / 'paddock.db'}")) as ring:
        revoked, good = ring.add("revoked"), ring.add("good")
        headers = [{"Authorization": f"Bearer {key}"} for key in (revoked, good)]
        wait_for_status(server, good, 200)
        with (
            httpx.stream("GET", f"{server.url}/api/events", headers=headers[0], timeout=PATIENCE) as theirs,
            httpx.stream("GET", f"{server.url}/api/events", headers=headers[1], timeout=PATIENCE) as others,
        ):
            assert theirs.status_code == others.status_code == 200
            ring.revoke("revoked")
            began = time.monotonic()
            # as nobody asks for anything meanwhile, it is not a request that has the keys looked up
            assert not any(line.startswith("data:") for line in theirs.iter_lines())
            assert time.monotonic() - began < PATIENCE / 2
            seen = server.as_seen_with(good)
            with closing(seen.http):
                made = seen.enqueue()
                assert any(made in line for line in others.iter_lines())


async def test_who_may_not_listen_any_more_is_let_go_of(ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.db.api_keys.FRESH_SECONDS", 0.01)
    broker, gate = Broker(), Gate(["set"], ring)
    key = ring.add("made")
    watching = asyncio.create_task(gate.watch(broker.dismiss))
    with broker.subscribe(digest(key)[:16]) as made, broker.subscribe(digest("set")[:16]) as of_settings:
        listening = [asyncio.create_task(anext(aiter(each), None)) for each in (made, of_settings)]
        await asyncio.sleep(0.1)
        assert not any(each.done() for each in listening)

        ring.revoke("made")

        done, going_on = await asyncio.wait(listening, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        assert (done, going_on) == ({listening[0]}, {listening[1]})
    for task in (watching, listening[1]):
        task.cancel()
    await asyncio.gather(watching, *listening, return_exceptions=True)


async def test_once_there_is_a_key_who_came_without_may_not_stay(ring: KeyRing) -> None:
    clock = Clock()
    gate = Gate([], ring, clock)
    assert gate.knows("")
    assert not gate.knows("other")

    key = ring.add("first")
    clock.now += FRESH_SECONDS
    tenant = await gate.tenant(key)

    assert gate.knows(tenant)
    assert not gate.knows("")


def wait_for_status(server: ServerProcess, key: str | None, status: int) -> None:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    eventually(lambda: httpx.get(f"{server.url}/api/ai/queue", headers=headers).status_code == status, server)


def test_beyond_this_machine_a_key_is_enough_and_one_can_make_itself(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    beyond = {"host": "0.0.0.0"}  # noqa: S104 - that is the point
    server = start_server(first_key="true", **beyond)
    made = re.findall(r"shown only now: (paddock-\S+)", server.log_text())
    assert len(made) == 1
    wait_for_status(server, None, 401)
    wait_for_status(server, made[0], 200)
    server.stop()

    # not at every start, and it is enough for one that has not asked for it
    server.start()
    wait_for_status(server, made[0], 200)
    assert len(re.findall(r"shown only now", server.log_text())) == 1
