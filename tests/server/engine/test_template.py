"""Workers that are forked from a template: each is a process of its own, and none outlives its server."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.engine.subprocess.environment import worker_environment
from server.engine.subprocess.template import ForkedProcess, TemplateFailedError, WorkerTemplate
from server.engine.template_protocol import Unfit
from server.engine.worker import template as process
from tests.support.server_process import is_alive
from tests.support.worker_template import shared_template

PROBE = "tests.support.probe_worker"
ENDS_WITHIN = 2.0


@pytest.fixture
async def template() -> AsyncIterator[WorkerTemplate]:
    """A connection of the test's own to the shared template."""
    made = WorkerTemplate({**worker_environment("cpu"), "PROBE_MARK": "mine"}, shared_template())
    yield made
    await made.close()


async def start(template: WorkerTemplate, exit_status: int | None = None) -> tuple[ForkedProcess, dict[str, Any]]:
    """Fork a probe; returns it with its facts."""
    ours, theirs = socket.socketpair()
    with theirs:
        worker = await template.fork(PROBE, json.dumps({"exit": exit_status}), theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    facts = json.loads(await reader.readline())
    writer.close()
    return worker, facts


async def until_dead(pid: int) -> float:
    """Seconds until a process is gone."""
    began = time.monotonic()
    while is_alive(pid):
        assert time.monotonic() - began < 30
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_a_worker_has_the_libraries_and_otherwise_only_what_is_its_own(
    template: WorkerTemplate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    worker, facts = await start(template)

    assert facts["has_pipelines"]
    assert facts["sum"] == 64**3
    assert (facts["threads"], facts["session"], facts["mark"]) == (1, True, "mine")
    assert (facts["cwd"], facts["home"]) == (str(tmp_path), os.environ.get("HOME"))
    # its connection and nothing of the template's: no listener, no other server's connection
    assert sum(name.startswith("socket:") for name in facts["opened"]) == 1
    assert not any("anon_inode" in name for name in facts["opened"])
    worker.kill()
    await worker.wait()


async def test_no_two_workers_draw_the_same_random_numbers(template: WorkerTemplate) -> None:
    drawn = [(await start(template, 0))[1]["random"] for _ in range(2)]

    assert not set(drawn[0]) & set(drawn[1])


@pytest.mark.parametrize("status", [0, 7])
async def test_the_exit_status_is_known(template: WorkerTemplate, status: int) -> None:
    worker, _ = await start(template, status)

    assert await worker.wait() == worker.returncode == status
    with pytest.raises(ProcessLookupError):
        worker.kill()


async def test_the_killing_signal_is_known(template: WorkerTemplate) -> None:
    killed, _ = await start(template)
    other, _ = await start(template)
    assert killed.returncode is None

    killed.kill()
    os.kill(other.pid, signal.SIGTERM)

    assert await killed.wait() == -signal.SIGKILL
    assert await other.wait() == -signal.SIGTERM


async def test_workers_end_with_their_servers_connection_even_if_they_are_stopped(template: WorkerTemplate) -> None:
    worker, _ = await start(template)
    os.kill(worker.pid, signal.SIGSTOP)
    elsewhere = WorkerTemplate(worker_environment("cpu"), shared_template())
    another_servers, _ = await start(elsewhere)

    await template.close()

    assert await until_dead(worker.pid) < ENDS_WITHIN
    assert is_alive(another_servers.pid)
    await elsewhere.close()
    assert await until_dead(another_servers.pid) < ENDS_WITHIN


async def test_workers_end_with_a_killed_template_and_the_next_starts_another() -> None:
    own = WorkerTemplate(worker_environment("cpu"))
    worker, _ = await start(own)
    (template,) = [p for p in psutil.Process().children() if process.__name__ in p.cmdline()][-1:]

    template.kill()

    assert await worker.wait() == -signal.SIGKILL
    assert await until_dead(worker.pid) < ENDS_WITHIN
    another, _ = await start(own)
    assert another.returncode is None
    await own.close()
    assert await until_dead(another.pid) < ENDS_WITHIN


async def test_another_environment_is_refused_and_so_is_a_template_that_is_not_there(tmp_path: Path) -> None:
    other = WorkerTemplate({**worker_environment("cpu"), "OMP_NUM_THREADS": "3"}, shared_template())
    missing = WorkerTemplate(worker_environment("cpu"), tmp_path / "missing")

    for template, why in ((other, "imported with another environment"), (missing, "could not be started")):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for _ in range(2):
                with pytest.raises(TemplateFailedError, match=why):
                    await template.fork(PROBE, "{}", theirs)
        await template.close()


def test_a_process_in_which_cuda_was_started_does_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from pipelines.runner.device_health import cuda_refuses_children

    assert not cuda_refuses_children()
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    assert cuda_refuses_children()


async def test_a_template_that_cannot_fork_says_why(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        made = WorkerTemplate(worker_environment("cpu"), path)
        await made.start()
        connection, _ = listener.accept()
        connection.send(Unfit(reason="a library has started CUDA").model_dump_json().encode())
        ours, theirs = socket.socketpair()
        with ours, theirs, connection, pytest.raises(TemplateFailedError, match="a library has started CUDA"):
            await made.fork(PROBE, "{}", theirs)
        await made.close()


def test_a_process_with_threads_or_an_open_gpu_does_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process.threads()
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    assert process.threads() == before + 1
    assert process.unfit_to_fork() == "it runs more than one thread"
    release.set()
    thread.join()

    monkeypatch.setattr(process, "threads", lambda: 1)
    with Path(os.devnull).open():
        assert os.devnull in process.open_files()
        assert process.unfit_to_fork() is None
        monkeypatch.setattr(process, "_DEVICE_FILES", os.devnull)
        assert process.unfit_to_fork() == "a library has opened the GPU's driver"
