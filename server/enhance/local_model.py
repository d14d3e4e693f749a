"""Asks a language model from a folder of this machine, in a process that is started for it and ends when it is idle."""

import asyncio
import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from server.enhance.backend import ModelDownError, Question
from server.enhance.guards import UnfitAnswerError

log = logging.getLogger("paddock.enhance")

LOAD_SECONDS = 600.0
"""A model on a slow disk is given up after so long."""

MAX_ANSWER_BYTES = 65_536

_MARGIN_SECONDS = 10.0
"""The process ends an answer in time by itself; one that does not is killed so much later."""

_SEEDS = 2**31
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "HOME", "SYSTEMROOT")


class LocalModel:
    """A model of transformers, a folder or a GGUF file, on the CPU. It answers one question at a time.

    `seconds` is what an answer may take; after `idle` seconds without a question its process ends (0: never).
    """

    place = "language model"

    def __init__(self, path: Path, seconds: float, idle: float) -> None:
        self.model = path.name
        self._path = path
        self._seconds = seconds
        self._idle = idle
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._leaving: set[asyncio.Task[tuple[bytes, bytes]]] = set()

    async def start(self) -> None:
        """Load the model now, so that the memory which it takes is known before videos are planned."""
        async with self._turn:
            try:
                await self._loaded()
            except ModelDownError as error:
                log.warning("the language model %s %s", self._path, error)
            else:
                self._end_when_idle()

    async def ask(self, question: Question) -> str:
        """The model's answer. Raises ModelDownError, and UnfitAnswerError for one that is not complete."""
        async with self._turn:
            if self._ending is not None:
                self._ending.cancel()
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
                answer = await self._line(process, self._seconds + _MARGIN_SECONDS)
            except BaseException:
                # whoever asks next must not get this answer
                self._stop()
                raise
            self._end_when_idle()
        if "error" in answer:
            raise ModelDownError(str(answer["error"]))
        if not answer["is_complete"]:
            raise UnfitAnswerError("is not complete")
        return str(answer["text"])

    async def close(self) -> None:
        """End the process."""
        self._stop()
        await asyncio.gather(*self._leaving)

    def _stop(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            # to the end of its output, too: this closes both pipes
            leaving = asyncio.create_task(self._process.communicate(b""))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            self._process = None

    async def _loaded(self) -> asyncio.subprocess.Process:
        """The process, with the model in it."""
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._stop()
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "pipelines.tools.chat", str(self._path)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=MAX_ANSWER_BYTES,
                env={name: os.environ[name] for name in _KEPT if name in os.environ} | _offline(),
            )
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise ModelDownError(f"cannot be started: {reason}", may_pass=True) from error
        try:
            said = await self._line(process, LOAD_SECONDS)
        except BaseException:
            self._stop()
            raise
        if "error" in said:
            self._stop()
            raise ModelDownError(f"cannot be loaded: {said['error']}")
        return process

    async def _line(self, process: asyncio.subprocess.Process, seconds: float) -> dict[str, Any]:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await process.stdout.readline()
        except TimeoutError:
            raise ModelDownError(f"does not answer within {self._seconds:g} seconds") from None
        except ValueError:
            raise UnfitAnswerError(f"is longer than {MAX_ANSWER_BYTES} bytes") from None
        if not line:
            status = await process.wait()
            raise ModelDownError(f"has ended (exit status {status}): its machine may lack memory", may_pass=True)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end_when_idle(self) -> None:
        if self._idle:
            self._ending = asyncio.get_running_loop().call_later(self._idle, self._stop)


def _offline() -> dict[str, str]:
    # nothing is fetched, whatever a model's folder names
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
