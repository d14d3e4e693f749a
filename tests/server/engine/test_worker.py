"""What a worker does besides its work."""

import errno
import os
import queue
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.core.errors import LoraError, LoraNotFoundError, WeightFormatError
from pipelines.models.catalogue import read_catalogue
from server.engine.interface import WorkerOptions
from server.engine.protocol import DeviceMemory, Load, Run
from server.engine.subprocess.environment import ALLOCATOR, CARD_ALLOCATOR, NUMPY, WAITING, environment
from server.engine.worker import memory, worker
from server.engine.worker.folders import use_folders
from tests.support.runs import job


def wait_for_memory(link: SimpleNamespace) -> None:
    deadline = time.monotonic() + 10
    while link.memory is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_cards_memory_is_looked_at_once_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    cuda = SimpleNamespace(is_initialized=lambda: len(looks) > 2 or looks.append("not used"))
    cuda.mem_get_info = lambda device: (int(device[-1]), 80)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(memory, "MEMORY_SECONDS", 0.01)
    link = SimpleNamespace(memory=None)

    memory.watch_memory(link, "cuda:7")  # type: ignore[arg-type]

    wait_for_memory(link)
    assert link.memory == DeviceMemory(free=7, total=80)
    assert len(looks) == 3, "not before"


def test_a_card_that_refuses_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def mem_get_info(_device: str) -> tuple[int, int]:
        asked.append(1)
        if len(asked) < 3:
            raise RuntimeError("CUDA error: out of memory")
        return 7, 80

    cuda = SimpleNamespace(is_initialized=lambda: True, mem_get_info=mem_get_info)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(memory, "MEMORY_SECONDS", 0.01)
    link = SimpleNamespace(memory=None)

    memory.watch_memory(link, "cuda:0")  # type: ignore[arg-type]

    wait_for_memory(link)


def lack(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "cause", "words"),
    [
        (lack(errno.EMFILE), None, "Too many open files"),
        (WeightFormatError("It could not be converted."), lack(errno.ENFILE), "Too many open files in system"),
        (ImportError("libtorch.so: cannot open shared object file: Too many open files"), None, "Too many open files"),
        (RuntimeError("no pipeline"), ImportError("x.so: Cannot allocate memory"), "Cannot allocate memory"),
        (lack(errno.ENOENT), None, None),
        (ImportError("No module named 'torch'"), None, None),
    ],
)
def test_what_the_system_has_no_more_of_is_found(error: Exception, cause: Exception | None, words: str | None) -> None:
    error.__cause__ = cause

    assert worker.lacking(error) == words


def test_a_processor_has_no_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise AssertionError("nothing to watch")

    monkeypatch.setattr(memory.threading, "Thread", refuse)
    memory.watch_memory(SimpleNamespace(), "cpu")  # type: ignore[arg-type]


class EnoughError(Exception):
    """Ends a worker that would run for ever."""


def test_a_worker_without_orders_takes_up_what_was_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    improved: list[int] = []

    def adopt_compiled() -> None:
        improved.append(1)
        if len(improved) == 3:
            raise EnoughError

    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.01)
    link = SimpleNamespace(orders=queue.SimpleQueue())
    idle = worker.Worker(link, SimpleNamespace())  # type: ignore[arg-type]
    model = SimpleNamespace(adopt_compiled=adopt_compiled, compile_error="no compiler")
    idle._loaded = (SimpleNamespace(), model)  # type: ignore[assignment]

    with pytest.raises(EnoughError):
        idle.serve()

    assert len(improved) == 3
    assert link.compile_error == "no compiler"


class Model:
    """A loaded model whose videos fail."""

    compile_error = None

    def __init__(self, error: Exception | None = None) -> None:
        self.is_closed = False
        self._error = error

    def render(self, *_: object, **__: object) -> None:
        assert self._error is not None
        raise self._error

    def release(self) -> None:
        """Hold nothing."""

    def close(self) -> None:
        self.is_closed = True


def carried_out(order: Load | Run, model: Model) -> list[Any]:
    """What a worker that holds a model reports of an order."""
    sent: list[Any] = []
    link = SimpleNamespace(send=sent.append, forget_stops=lambda: None, upcoming=lambda: ())
    options = SimpleNamespace(demo=False, artifacts="", checkpoint_interval=0, preview_interval=0, cache="", loras=None)
    holding = worker.Worker(link, options)  # type: ignore[arg-type]
    holding._loaded = (SimpleNamespace(), model)  # type: ignore[assignment]
    holding._carry_out(order)
    return sent


def test_weights_that_are_missing_leave_what_is_loaded() -> None:
    model = Model()
    spec = replace(next(iter(read_catalogue().values())).model, repo="/nowhere/at/all")

    (answer,) = carried_out(Load(model_id="other", spec=spec), model)

    assert (answer.kind, answer.is_missing, answer.has_kept) == ("load_failed", True, True)
    assert not model.is_closed


@pytest.mark.parametrize(
    ("error", "is_missing"),
    [(LoraNotFoundError("It is not on this machine."), True), (LoraError("It does not fit."), False)],
)
def test_only_a_lora_that_is_not_there_may_be_elsewhere(error: Exception, is_missing: bool) -> None:
    (answer,) = carried_out(job(), Model(error))

    assert (answer.kind, answer.message, answer.is_missing) == ("failed", str(error), is_missing)


def test_threads_sleep_where_there_are_many_of_them() -> None:
    assert environment("cpu", 16) == NUMPY | ALLOCATOR | WAITING
    assert environment("cpu", 2) == environment("cpu", None) == NUMPY | ALLOCATOR
    assert environment("cuda:0", 16) == NUMPY | CARD_ALLOCATOR


def test_a_worker_writes_to_folders_of_its_own_and_removes_what_a_dead_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "tmp" / "cpu" / "inductor" / "left"
    left.parent.mkdir(parents=True)
    left.touch()
    beside = tmp_path / "tmp" / "cuda-0"
    beside.mkdir()
    monkeypatch.setattr(os, "environ", {"TRITON_CACHE_DIR": "/mine", "TMPDIR": "/small"})
    monkeypatch.setattr(tempfile, "tempdir", "/remembered")
    folders = dict.fromkeys(("artifacts", "checkpoints", "previews", "inputs"), str(tmp_path))

    use_folders(WorkerOptions(device="cpu", cache="/cache", temporary=str(tmp_path / "tmp" / "cpu"), **folders))

    assert not left.exists()
    assert beside.exists()
    assert tempfile.gettempdir() == str(tmp_path / "tmp" / "cpu")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "tmp" / "cpu" / "inductor")
    assert os.environ["CUDA_CACHE_PATH"] == "/cache/cuda"
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"
