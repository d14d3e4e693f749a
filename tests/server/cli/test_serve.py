"""`paddock serve --lan` listens where other machines reach it, and only it is shared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.cli.commands import serve as command
from server.core.settings.settings import Settings

ANY = "0.0.0.0"  # noqa: S104 - compared, not listened on


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, bool]]:
    """The host of each server that was started, and whether it is shared."""
    found: list[tuple[str, bool]] = []

    def load(_config: Path | None, **options: Any) -> Settings:
        return Settings.load(None, **{**options, "data_dir": tmp_path})

    def run(settings: Settings, show: Callable[..., None] | None) -> None:
        found.append((settings.host, show is not None))

    monkeypatch.setattr(command, "load_settings", load)
    monkeypatch.setattr("server.runtime.server.serve", run)
    monkeypatch.setattr("gc.disable", lambda: None)
    return found


def test_without_a_host_it_listens_on_all_addresses(started: list[tuple[str, bool]]) -> None:
    command.serve(lan=True)
    command.serve()

    assert started == [(ANY, True), ("127.0.0.1", False)]


def test_a_host_that_is_named_is_kept(started: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch) -> None:
    command.serve(lan=True, host="127.0.0.1")
    command.serve(lan=True, host="workstation.local")
    monkeypatch.setenv("PADDOCK_HOST", "192.168.1.7")
    command.serve(lan=True)
    monkeypatch.setenv("PADDOCK_HOST", "localhost")
    command.serve(lan=True)

    assert started == [("127.0.0.1", True), ("workstation.local", True), ("192.168.1.7", True), (ANY, True)]
