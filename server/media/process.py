"""Runs the child processes from the server, each within a limit of time."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import Any

from server.core.errors import UnavailableError
from server.media.limits import REFUSED, UNAVAILABLE, RefusedInputError

SECONDS = 60.0
_MAX_ANSWER = 2**23
_KEPT = ("IMAGEIO_FFMPEG_EXE", "PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")


async def run_child(module: str, *arguments: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Return what a child prints within `seconds`. Raises RefusedInputError with its sentence, or UnavailableError."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_MAX_ANSWER,
            # with what it has started it is ended at once
            start_new_session=True,
            env={name: os.environ[name] for name in _KEPT if name in os.environ} | _search_path(),
        )
    except OSError as error:
        raise UnavailableError(f"The server cannot read inputs now: {os.strerror(error.errno or 0)}.", 5) from error
    assert process.stdout is not None
    try:
        async with asyncio.timeout(seconds):
            line = await process.stdout.readline()
            status = await process.wait()
    except (TimeoutError, ValueError):
        raise RefusedInputError("takes too long to be read") from None
    finally:
        # what it has started may live longer than itself
        _kill(process)
        await process.wait()
    if status not in (0, REFUSED, UNAVAILABLE) or not line:
        # the system ended it: it used more memory or time than it may
        raise RefusedInputError("needs too much memory or time to be read")
    answer: dict[str, Any] = json.loads(line)
    if status == UNAVAILABLE:
        raise UnavailableError(f"The server cannot keep inputs now: {answer['sentence']}.", 5)
    if status == REFUSED:
        raise RefusedInputError(answer["sentence"])
    return answer


def _search_path() -> dict[str, str]:
    """The children find this program's packages where this process does."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _kill(process: asyncio.subprocess.Process) -> None:
    """End a child and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
