"""Sharing on the local network: what `paddock serve --lan` shows, and what it leaves in files."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import segno

from tests.support.command_line import Typed
from tests.support.server_process import ServerProcess, eventually, free_port
from tests.support.terminal import terminal

ADDRESS = r"http://127\.0\.0\.1:\d+/#key=paddock-[\w-]{43}"
LOOPBACK = ("--host", "127.0.0.1")
MODULES = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
"""The two modules of a QR code, one above the other, that a character shows: 1 is dark."""


def drawn(lines: list[str]) -> list[list[int]]:
    """The modules of a QR code that a terminal shows, without the border."""
    rows = [[MODULES[each][half] for each in line] for line in lines for half in (0, 1)]
    return [row[2:-2] for row in rows[2 : 2 + len(rows[0]) - 4]]


def status(address: str, key: str | None = None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{address}/api/ai/queue", headers=headers).status_code


def key_lan(server: ServerProcess, typed: Typed) -> tuple[str, str]:
    """The address and the key that `paddock key lan` prints."""
    ended = typed("key", "lan", *LOOPBACK, "--port", str(server.port), "--data-dir", str(server.data_dir))
    (address,) = re.findall(ADDRESS, ended.stdout)
    url, _, key = address.partition("/#key=")
    assert url == server.url
    return address, key


def test_a_terminal_shows_the_address_as_text_and_as_a_qr_code(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ("--demo", "--lan", *LOOPBACK, "--port", str(free_port()), "--data-dir", str(tmp_path / "data"))
    with terminal("serve", *options, cwd=tmp_path, log=log) as shown:
        address = shown.wait_for(rf"\n({ADDRESS})\n")[1]
        url, _, key = address.partition("/#key=")
        eventually(lambda: "startup complete" in log.read_text())

        assert status(url, key) == 200
        assert status(url) == 401
        assert "Only this machine reaches this address." in shown.text
    lines = [line for line in shown.text.splitlines() if set(line) <= MODULES.keys() and line.strip()]
    assert drawn(lines) == [[*row] for row in segno.make_qr(address, error="l").matrix]
    assert key not in log.read_text()


@pytest.mark.parametrize("where", [{"columns": 40}, {"term": "dumb"}, {"PYTHONIOENCODING": "ascii"}])
def test_without_room_or_characters_for_a_qr_code_the_address_is_text(tmp_path: Path, where: dict[str, str]) -> None:
    options = ("--demo", "--lan", *LOOPBACK, "--port", str(free_port()), "--data-dir", str(tmp_path / "data"))
    with terminal("serve", *options, cwd=tmp_path, log=tmp_path / "log", **where) as shown:  # type: ignore[arg-type]
        shown.wait_for(rf"\n{ADDRESS}\n")

    assert not set(shown.text) & {"█", "▀", "▄"}
    assert "\\u25" not in shown.text


def test_where_a_log_is_kept_the_key_is_not_shown_and_stays_the_same(
    start_server: Callable[..., ServerProcess], typed: Typed
) -> None:
    server = start_server("--lan", *LOOPBACK, log_level="debug")
    address, key = key_lan(server, typed)
    assert status(server.url, key) == 200
    assert status(server.url) == 401
    server.stop()

    server.start()
    assert key_lan(server, typed) == (address, key)
    assert status(server.url, key) == 200
    assert server.log_text().count(f"Shared on the local network: {server.url}/\n") == 2
    for file in [server.log, *server.data_dir.rglob("*")]:
        assert file.is_dir() or key.removeprefix("paddock-").encode() not in file.read_bytes(), file
    listed = typed("key", "list", "--data-dir", str(server.data_dir)).stdout
    assert len(re.findall(r"\blan\b", listed)) == 1


def test_a_revoked_key_is_replaced_at_the_next_start(start_server: Callable[..., ServerProcess], typed: Typed) -> None:
    server = start_server("--lan", *LOOPBACK, api_keys="set")
    _, former = key_lan(server, typed)
    assert typed("key", "revoke", "lan", "--data-dir", str(server.data_dir)).returncode == 0
    eventually(lambda: status(server.url, former) == 401, server)
    refused = typed("key", "lan", "--data-dir", str(server.data_dir))
    assert refused.returncode == 2
    assert "`paddock serve --lan` makes one" in refused.stderr
    server.stop()

    server.start()
    _, key = key_lan(server, typed)
    assert key != former
    # beside those of the settings
    assert [status(server.url, each) for each in (key, former, "set")] == [200, 401, 200]
    assert len(re.findall(r"\blan\b", typed("key", "list", "--data-dir", str(server.data_dir)).stdout)) == 1


def test_before_the_first_start_there_is_nothing_to_show(typed: Typed, tmp_path: Path) -> None:
    ended = typed("key", "lan", "--data-dir", "nowhere")

    assert ended.returncode == 2
    assert "`paddock serve --lan` makes one" in ended.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_key_of_the_operators_that_has_the_name_is_not_replaced(typed: Typed, tmp_path: Path) -> None:
    typed("key", "add", "lan", "--data-dir", "data")
    ended = typed("serve", "--demo", "--lan", *LOOPBACK, "--port", str(free_port()), "--data-dir", "data")

    assert ended.returncode == 2
    assert "A key named lan was made with `paddock key add`" in ended.stderr
