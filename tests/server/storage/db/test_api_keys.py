"""API keys: made and revoked while a server runs, kept as digests, each for its own generations only."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url

from server.storage.db.api_keys import (
    KeyNameTakenError,
    KeyNotFoundError,
    KeyRing,
    are_there_any,
    digest,
)
from server.storage.db.connection import opened
from tests.support.command_line import Typed
from tests.support.server_process import PATIENCE, ServerProcess, eventually


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'paddock.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def ring(url: str, request: pytest.FixtureRequest) -> Iterator[KeyRing]:
    with opened(url if request.param == "sqlite" else request.getfixturevalue("postgres_url")) as engine:
        yield KeyRing(engine)


def test_of_a_key_only_a_digest_is_kept(ring: KeyRing, tmp_path: Path) -> None:
    key = ring.add("laptop")

    assert re.fullmatch(r"paddock-[\w-]{43}", key)
    assert [(each.name, each.digest, each.revoked_at) for each in ring.all()] == [("laptop", digest(key), None)]
    for file in tmp_path.iterdir():
        assert key.removeprefix("paddock-").encode() not in file.read_bytes()
    assert ring.add("phone") != key


def test_a_derived_key_can_be_shown_again_and_only_its_digest_is_kept(ring: KeyRing, tmp_path: Path) -> None:
    assert ring.find_derived("lan", ["secret"]) is None
    key = ring.derived("lan", ["secret"])

    assert re.fullmatch(r"paddock-[\w-]{43}", key)
    assert ring.derived("lan", ["newer", "secret"]) == ring.find_derived("lan", ["secret"]) == key
    assert [(each.name, each.digest, each.is_admin) for each in ring.all()] == [("lan", digest(key), False)]
    for file in tmp_path.iterdir():
        assert key.removeprefix("paddock-").encode() not in file.read_bytes()


def test_a_revoked_derived_key_is_replaced_by_another(ring: KeyRing) -> None:
    former = ring.derived("lan", ["secret"])
    ring.revoke("lan")
    assert ring.find_derived("lan", ["secret"]) is None

    key = ring.derived("lan", ["secret"])
    assert key != former
    assert [(each.digest, each.is_valid) for each in ring.all()] == [(digest(key), True)]


def test_a_key_that_is_not_derived_is_not_replaced_while_it_is_valid(ring: KeyRing) -> None:
    made = ring.add("lan", is_admin=True)
    with pytest.raises(KeyNameTakenError):
        ring.derived("lan", ["secret"])
    assert [each.digest for each in ring.all()] == [digest(made)]

    ring.revoke("lan")
    derived = ring.derived("lan", ["secret"])
    assert [(each.digest, each.is_admin) for each in ring.all()] == [(digest(derived), False)]


def test_servers_that_start_at_once_have_the_same_derived_key(ring: KeyRing) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: ring.derived("lan", ["secret"]), range(8)))) == 1
    ring.revoke("lan")
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: ring.derived("lan", ["secret"]), range(8)))) == 1
    assert len(ring.all()) == 1


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


def test_an_admin_key_is_one_until_it_is_revoked(ring: KeyRing) -> None:
    ring.add("laptop")
    ring.add("boss", is_admin=True)
    assert {key.name: (key.is_admin, key.is_valid) for key in ring.all()} == {
        "laptop": (False, True),
        "boss": (True, True),
    }

    ring.revoke("boss")

    assert {key.name for key in ring.all() if key.is_admin and key.is_valid} == set()


def test_records_are_looked_into_without_being_made(url: str, tmp_path: Path) -> None:
    assert not are_there_any(make_url(url))
    assert not list(tmp_path.iterdir())
    (tmp_path / "paddock.db").write_text("no database")
    assert not are_there_any(make_url(url))
    (tmp_path / "paddock.db").unlink()
    with opened(url) as engine:
        ring = KeyRing(engine)
        assert not are_there_any(make_url(url))
        ring.add("laptop")
        ring.revoke("laptop")
        assert are_there_any(make_url(url))


# the command line, and a running server


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[31m", "a" * 101])
def test_a_name_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    refused = paddock("add", name, data_dir=tmp_path, is_refused=True)

    assert refused == "NAME must be 1 to 100 printable characters, such as the name of a person or a machine."
    assert not list(tmp_path.iterdir())


def paddock(*args: str, data_dir: Path, is_refused: bool = False) -> str:
    """What a `paddock key` command prints, on stderr if it is refused."""
    command = [sys.executable, "-m", "server.cli", "key", *args, "--data-dir", str(data_dir)]
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
        "A key named laptop exists or has been revoked. Choose another name."
    )

    wait_for_status(server, None, 401)
    seen = server.with_key(key)
    with closing(seen.http):
        assert seen.http.get("/queue").json()["generations"] == []
        # a generation without a key does not belong to the first key
        assert seen.http.get(f"/queue/{before}").status_code == 404
        assert seen.row(seen.enqueue(height=0))["status"] == "failed"
    listed = paddock("list", data_dir=server.data_dir)
    assert "laptop" in listed
    assert key not in listed

    paddock("revoke", "laptop", data_dir=server.data_dir)
    wait_for_status(server, key, 401)
    assert "no valid key named laptop" in paddock("revoke", "laptop", data_dir=server.data_dir, is_refused=True)
    assert key not in server.log_text()


def test_admin_keys_by_the_command_line(typed: Typed) -> None:
    def key(*args: str) -> subprocess.CompletedProcess[str]:
        done = typed("key", *args, "--data-dir", "data", COLUMNS="200")
        assert done.returncode == 0, done.stderr
        return done

    assert "admin" not in key("add", "laptop").stderr
    made = key("add", "boss", "--admin")
    assert re.fullmatch(r"paddock-[\w-]{43}\n", made.stdout)
    assert "only admin keys may load and unload models" in made.stderr
    key("add", "chief", "--admin")
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:3]] for line in key("list").stdout.splitlines()]
    assert [row for row in rows if len(row) == 2] == [
        ["name", "admin"],
        ["laptop", ""],
        ["boss", "yes"],
        ["chief", "yes"],
    ]

    assert "every key may load" not in key("revoke", "boss").stderr
    assert "No valid admin key is left: every key may load and unload models." in key("revoke", "chief").stderr
    assert "No valid key is left" in key("revoke", "laptop").stderr


def test_an_open_event_stream_of_a_revoked_key_ends_and_others_go_on(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server(api_keys="set")
    with opened(f"sqlite:///{server.data_dir / 'paddock.db'}") as engine:
        ring = KeyRing(engine)
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
            # no request comes meanwhile: the keys are looked up without one
            assert not any(line.startswith("data:") for line in theirs.iter_lines())
            assert time.monotonic() - began < PATIENCE / 2
            seen = server.with_key(good)
            with closing(seen.http):
                made = seen.enqueue()
                assert any(made in line for line in others.iter_lines())


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
