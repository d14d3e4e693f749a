"""A worker that goes wrong as the prompt says: the real one, with its process and its link, but no model.

`python -P -m tests.support.faulty_worker FD OPTIONS`, started as `server.engine.worker` is. While loading it goes wrong
as the variable FAULTY_LOAD says.
"""

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

from pipelines.core.errors import NonFiniteOutputError
from pipelines.core.progress import Progress, Stage, VideoFile
from pipelines.core.request import VideoParams
from server.engine.protocol import MAX_LINE_BYTES, Failed, Progressed
from server.engine.worker import link
from server.engine.worker.__main__ import main as be_worker

STEPS = (
    Progress(Stage.PROMPT, 0, 1, 0.0, 0.1),
    Progress(Stage.DENOISE, 1, 2, 0.5, 0.2),
    Progress(Stage.DECODE, 1, 2, 0.9, 0.3),
)
EXIT_STATUS = 3
AFTERWARDS = 100
UNRELATED = Failed(generation_id="unrelated", attempt=1, message="x" * (MAX_LINE_BYTES // 2))


class Link(link.Link):
    """A link that can be misused."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.connection = connection
        Script.link = self


class Script:
    """Stands in for `pipelines.runner.oom_fallback.OutOfMemoryFallback`."""

    link: Link
    fingerprint = {"plan": "faulty"}  # noqa: RUF012 - never changed

    @classmethod
    def load(
        cls, _spec: object, _folder: Path, _device: str, on_load: Callable[[str, float], None], *_: object
    ) -> "Script":
        on_load("transformer", 0.5)
        go_wrong(os.environ.get("FAULTY_LOAD", ""), "load")
        return cls()

    def render(self, params: VideoParams, path: Path, callbacks: Any) -> "Rendered":
        for progress in STEPS:
            callbacks.on_progress(progress)
            go_wrong(params.prompt, progress.stage.name.lower())
        return Rendered(params, path)

    def adopt_compiled(self) -> None:
        """Nothing is compiled."""

    def release(self) -> None:
        """Nothing is held."""

    close = release


class Rendered:
    """Stands in for `pipelines.runner.result.RenderedVideo`."""

    def __init__(self, params: VideoParams, path: Path) -> None:
        self._params = params
        self._path = path

    def finish(self) -> VideoFile:
        go_wrong(self._params.prompt, "file")
        self._path.write_bytes(b"video")
        go_wrong(self._params.prompt, "rename")
        return VideoFile(self._path, self._params.width, self._params.height, self._params.num_frames, 16, 5)


def go_wrong(how: str, where: str) -> None:
    """Do what is asked for, if it is for here: "hang at denoise"."""
    what, _, place = how.partition(" at ")
    if place == where:
        WAYS[what]()


def exit_() -> None:
    os._exit(EXIT_STATUS)


def exit_amid_a_word() -> None:
    Script.link.connection.sendall(b'{"kind": "done", "gener')
    os._exit(EXIT_STATUS)


def hang() -> None:
    """The heart goes on beating, in a thread of its own."""
    threading.Event().wait()


def wait() -> None:
    """Until a file is there."""
    while not Path(os.environ["FAULTY_GO"]).exists():
        time.sleep(0.01)


def kill_server() -> None:
    """Once a file is there."""
    wait()
    os.kill(os.getppid(), signal.SIGKILL)
    hang()


def nan() -> None:
    raise NonFiniteOutputError("Not numbers.")


def break_device() -> None:
    sys.modules["torch"] = ModuleType("torch")
    raise RuntimeError("an illegal memory access was encountered")


def send_garbage() -> None:
    Script.link.connection.sendall(b'{"kind": "surprise"}\n')
    hang()


def send_a_long_line() -> None:
    Script.link.connection.sendall(b"x" * (4 * MAX_LINE_BYTES))
    hang()


def flood() -> None:
    """Say the same thing for ever."""
    while True:
        Script.link.send(
            Progressed(generation_id="g", attempt=1, stage=Stage.DENOISE, step=1, steps=2, fraction=0.5, seconds=0.2)
        )


def flood_afterwards() -> None:
    """Send large reports about another generation once the run has ended; the file `sent` counts them."""

    def send() -> None:
        time.sleep(0.3)
        for count in range(1, AFTERWARDS + 1):
            Script.link.send(UNRELATED)
            Path(os.environ["FAULTY_SENT"]).write_text(str(count), encoding="utf-8")

    threading.Thread(target=send).start()


WAYS: dict[str, Callable[[], None]] = {
    "exit": exit_,
    "exit amid a word": exit_amid_a_word,
    "hang": hang,
    "wait": wait,
    "kill the server": kill_server,
    "nan": nan,
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
    """Be the worker, without the libraries that take seconds to import."""
    for name, contents in (
        ("pipelines.runner.oom_fallback", {"OutOfMemoryFallback": Script}),
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
    be_worker(Link)


if __name__ == "__main__":
    main()
