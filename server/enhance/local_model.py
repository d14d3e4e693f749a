"""Asks a language model from a folder of this machine, in a process that is started for it and ends when it is idle."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from server.enhance.backend import ModelDownError, Question
from server.enhance.guards import UnfitAnswerError

log = logging.getLogger("paddock.enhance")

LOAD_SECONDS = 600.0
"""A model on a slow disk is given up after so long."""

MAX_ANSWER_BYTES = 65_536

_MARGIN_SECONDS = 10.0
"""The process ends an answer in time by itself; one that does not is killed so much later."""

_SAID_BYTES = 2000
"""So much of the end of what the process says is logged when it fails."""

_SEEDS = 2**31
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "HOME", "SYSTEMROOT")

T = TypeVar("T")


class LocalModel:
    """A model of transformers, a folder or a GGUF file, on the CPU. It answers one question at a time.

    `seconds` is what an answer may take; after `idle` seconds without a question its process ends (0: never). Loading,
    and an answer that has begun, go on without whoever asked: a model takes long to load.
    """

    place = "language model"

    def __init__(self, path: Path, seconds: float, idle: float) -> None:
        self.model = path.name
        self._path = path
        self._seconds = seconds
        self._idle = idle
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._said: IO[bytes] | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._work: set[asyncio.Task[Any]] = set()
        self._leaving: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def start(self) -> None:
        """Load the model now, so that the memory which it takes is known before videos are planned."""
        try:
            await self._in_turn(self._loaded)
        except (ModelDownError, UnfitAnswerError) as error:
            log.warning("the language model %s %s", self._path, error)

    async def ask(self, question: Question) -> str:
        """The model's answer. Raises ModelDownError, and UnfitAnswerError for one that is not complete."""
        answer = await self._in_turn(partial(self._answer, question))
        if (longest := answer.get("longest")) is not None:
            raise UnfitAnswerError(f"does not come: with its instructions the prompt has more than {longest} tokens")
        if (error := answer.get("error")) is not None:
            log.warning("the language model %s failed: %s", self._path, error)
            raise ModelDownError("fails; the server's log says why")
        if answer.get("is_late"):
            raise ModelDownError(f"does not answer within {self._seconds:g} seconds")
        if not answer.get("is_complete"):
            raise UnfitAnswerError("is not complete")
        return str(answer.get("text"))

    async def close(self) -> None:
        """End the process."""
        self._is_closed = True
        for each in [*self._work]:
            each.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        self._stop()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _in_turn(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do work when its turn comes. Once it has begun, it is not cancelled with who waits for it."""
        await self._turn.acquire()
        task = _task(self._busy(work), self._work)
        # also of one that is cancelled before it has begun
        task.add_done_callback(lambda _: self._turn.release())
        return await asyncio.shield(task)

    async def _busy(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._ending is not None:
            self._ending.cancel()
        try:
            return await work()
        finally:
            if self._idle and not self._is_closed:
                self._ending = asyncio.get_running_loop().call_later(self._idle, self._stop)

    async def _answer(self, question: Question) -> dict[str, Any]:
        process = await self._loaded()
        asked = {
            "system": question.system,
            # half of a pair, which JSON may have, is no text
            "prompt": question.prompt.encode(errors="replace").decode(),
            "seed": question.seed % _SEEDS,
            "temperature": question.temperature,
            "seconds": self._seconds,
        }
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            late = f"does not answer within {self._seconds:g} seconds"
            answer = await self._line(process, self._seconds + _MARGIN_SECONDS, late)
        except BaseException:
            # whoever asks next must not get this answer
            self._stop()
            raise
        if self._said is not None:
            # libraries may warn at each answer
            self._said.truncate(0)
        return answer

    async def _loaded(self) -> asyncio.subprocess.Process:
        """The process, with the model in it."""
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._stop()
        if self._is_closed:
            raise ModelDownError("has been ended with the server")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "pipelines.tools.chat", str(self._path)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._said,
                limit=MAX_ANSWER_BYTES,
                # Ctrl-C is for the server, which ends it
                start_new_session=True,
                env={name: os.environ[name] for name in _KEPT if name in os.environ} | _offline(),
            )
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise ModelDownError(f"cannot be started: {reason}", may_pass=True) from error
        try:
            said = await self._line(process, LOAD_SECONDS, f"is not loaded within {LOAD_SECONDS:g} seconds")
            if (why := said.get("error")) is not None:
                # it may name folders of this machine
                log.warning("the language model %s cannot be loaded: %s", self._path, why)
                raise ModelDownError("cannot be loaded; the server's log says why")
        except BaseException:
            self._stop()
            raise
        return process

    async def _line(self, process: asyncio.subprocess.Process, seconds: float, late: str) -> dict[str, Any]:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await process.stdout.readline()
        except TimeoutError:
            raise ModelDownError(late) from None
        except ValueError:
            raise UnfitAnswerError(f"is longer than {MAX_ANSWER_BYTES} bytes") from None
        if not line:
            status = await process.wait()
            log.warning("the language model %s has ended (exit status %d): %s", self._path, status, self._last_words())
            why = ": its machine may lack memory" if status == -signal.SIGKILL else "; the server's log says more"
            raise ModelDownError(f"has ended (exit status {status}){why}", may_pass=True)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ModelDownError("answers with what is no answer")
        return answer

    def _last_words(self) -> str:
        """The end of what the process has said."""
        if self._said is None:
            return ""
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - _SAID_BYTES))
        return self._said.read().decode("utf-8", "replace").strip()

    def _stop(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            # to the end of its output, too: this closes both pipes
            _task(self._process.communicate(b""), self._leaving)
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None


def _task(work: Coroutine[Any, Any, T], kept: set[asyncio.Task[Any]]) -> "asyncio.Task[T]":
    """Begin work that is kept until it is done."""
    task = asyncio.create_task(work)
    kept.add(task)
    task.add_done_callback(kept.discard)
    # nobody may wait for its error any more
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def _offline() -> dict[str, str]:
    # nothing is fetched, whatever a model's folder names
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
