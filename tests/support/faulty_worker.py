"""A worker that fails as the prompt says: the real process and link, without a model.

`python -P -m tests.support.faulty_worker FD OPTIONS`, started like `server.engine.worker`. The variable FAULTY_LOAD
makes it fail while loading.
"""

import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from pipelines.core.errors import MachineBusyError, NonFiniteOutputError
from pipelines.core.progress import Progress, Stage, VideoFile
from pipelines.core.request import VideoParams
from server.engine.protocol import MAX_LINE_BYTES, Failed, Progressed
from server.engine.worker import link
from server.engine.worker.__main__ import main as run_worker

STEPS = (
    Progress(Stage.PROMPT, 0, 1, 0.0, 0.1),
    Progress(Stage.DENOISE, 1, 2, 0.5, 0.2),
    Progress(Stage.DECODE, 1, 2, 0.9, 0.3),
)
EXIT_STATUS = 3
EXCESS_REPORTS = 100
UNRELATED = Failed(generation_id="unrelated", attempt=1, message="x" * (MAX_LINE_BYTES // 2))


class Link(link.Link):
    """A link whose socket the faults can use directly."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.connection = connection
        FakeModel.link = self


class FakeModel:
    """Replaces `pipelines.runner.oom_fallback.OutOfMemoryFallback`."""

    link: Link
    fingerprint = {"plan": "faulty"}  # noqa: RUF012 - never changed
    video_fingerprint = fingerprint
    compile_error = "InductorError: no /usr/bin/gcc"

    @classmethod
    def load(
        cls, _spec: object, _folder: Path, _device: str, on_load: Callable[[str, float], None], *_: object
    ) -> "FakeModel":
        on_load("transformer", 0.5)
        fail(os.environ.get("FAULTY_LOAD", ""), "load")
        return cls()

    def render(self, params: VideoParams, path: Path, callbacks: Any, *images: Any, **files: Any) -> "FakeVideo":
        for progress in STEPS:
            callbacks.on_progress(progress)
            fail(params.prompt, progress.stage.name.lower())
        return FakeVideo(params, path)

    def adopt_compiled(self) -> None:
        """Do nothing: no blocks are compiled."""

    def release(self) -> None:
        """Do nothing: no memory is held."""

    close = release


class FakeVideo:
    """Replaces `pipelines.runner.result.RenderedVideo`."""

    def __init__(self, params: VideoParams, path: Path) -> None:
        self._params = params
        self._path = path

    def finish(self) -> VideoFile:
        fail(self._params.prompt, "file")
        self._path.write_bytes(b"video")
        fail(self._params.prompt, "rename")
        return VideoFile(self._path, self._params.width, self._params.height, self._params.num_frames, 16, 5)


def fail(how: str, where: str) -> None:
    """Carry out a fault such as "hang at denoise", if this is its place."""
    what, _, place = how.partition(" at ")
    if place == where:
        FAULTS[what]()


def exit_() -> None:
    os._exit(EXIT_STATUS)


def exit_within_a_message() -> None:
    FakeModel.link.connection.sendall(b'{"kind": "done", "gener')
    os._exit(EXIT_STATUS)


def hang() -> None:
    """Block this thread; heartbeats go on in their own thread."""
    threading.Event().wait()


def wait() -> None:
    """Wait for the file FAULTY_GO."""
    while not Path(os.environ["FAULTY_GO"]).exists():
        time.sleep(0.01)


def kill_server() -> None:
    """Kill the server as soon as the file FAULTY_GO exists."""
    wait()
    # not the parent, which may be the template that this process is forked from
    os.kill(int(os.environ["FAULTY_SERVER_PID"]), signal.SIGKILL)
    hang()


def nan() -> None:
    raise NonFiniteOutputError("Not numbers.")


def find_busy() -> None:
    raise MachineBusyError("Other programs hold the memory of cpu: 1.0 GiB of 8.0 GiB is free.")


def find_no_files() -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def break_device() -> None:
    sys.modules["torch"] = ModuleType("torch")
    raise RuntimeError("an illegal memory access was encountered")


def send_garbage() -> None:
    FakeModel.link.connection.sendall(b'{"kind": "surprise"}\n')
    hang()


def send_a_long_line() -> None:
    FakeModel.link.connection.sendall(b"x" * (4 * MAX_LINE_BYTES))
    hang()


def flood() -> None:
    """Send the same report for ever."""
    while True:
        FakeModel.link.send(
            Progressed(generation_id="g", attempt=1, stage=Stage.DENOISE, step=1, steps=2, fraction=0.5, seconds=0.2)
        )


def flood_afterwards() -> None:
    """Send large reports about another generation once the run has ended; the file `sent` counts them."""

    def send() -> None:
        time.sleep(0.3)
        for count in range(1, EXCESS_REPORTS + 1):
            FakeModel.link.send(UNRELATED)
            Path(os.environ["FAULTY_SENT"]).write_text(str(count), encoding="utf-8")

    threading.Thread(target=send).start()


FAULTS: dict[str, Callable[[], None]] = {
    "exit": exit_,
    "exit within a message": exit_within_a_message,
    "hang": hang,
    "wait": wait,
    "kill the server": kill_server,
    "nan": nan,
    "busy": find_busy,
    "no files": find_no_files,
    "break": break_device,
    "garbage": send_garbage,
    "long line": send_a_long_line,
    "flood": flood,
    "flood afterwards": flood_afterwards,
}


def module(name: str, **contents: object) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(contents)
    return made


def main() -> None:
    """Run the worker without the libraries that take seconds to import."""
    fail(os.environ.get("FAULTY_LOAD", ""), "start")
    for name, contents in (
        ("pipelines.runner.oom_fallback", {"OutOfMemoryFallback": FakeModel}),
        ("pipelines.loading.load", {"silence_progress_bars": lambda: None}),
        ("pipelines.stages.checkpoint", {"Checkpoint": lambda *_, **__: None}),
        ("pipelines.stages.preview.preview", {"Preview": lambda *_, **__: None}),
        ("pipelines.runner.callbacks", {"Callbacks": SimpleNamespace}),
        (
            "pipelines.runner.device_health",
            {"fault": lambda device: f"The device {device} fails: it fell off the bus."},
        ),
    ):
        sys.modules[name] = module(name, **contents)
    run_worker(Link)


if __name__ == "__main__":
    main()
