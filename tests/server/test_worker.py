"""What a worker tells besides its work."""

import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from server.engine import worker
from server.engine.messages import REPORT, DeviceMemory, Heartbeat


def test_heartbeats_tell_a_cards_memory_once_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    is_used = False
    cuda = SimpleNamespace(is_initialized=lambda: is_used, mem_get_info=lambda device: (int(device[-1]), 80))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(worker, "MEMORY_SECONDS", 0.01)
    monkeypatch.setattr(worker, "HEARTBEAT_SECONDS", 0.02)
    # the process would end with its link: here its threads only stop
    monkeypatch.setattr(worker, "_leave", threading.Event().wait)
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as lines:
        link = worker.Link(theirs)
        link.start()
        worker.watch_memory(link, "cuda:7")
        reports = (REPORT.validate_json(line) for line in lines)

        assert next(reports) == Heartbeat()
        is_used = True
        deadline = time.monotonic() + 10
        while (report := next(reports)) == Heartbeat():
            assert time.monotonic() < deadline
        assert report == Heartbeat(memory=DeviceMemory(free=7, total=80))


def test_a_processor_has_no_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise AssertionError("nothing to watch")

    monkeypatch.setattr(worker.threading, "Thread", refuse)
    worker.watch_memory(SimpleNamespace(), "cpu")  # type: ignore[arg-type]
