"""The server's view of a Ray cluster: which hosts there are now."""

import asyncio
import logging
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress

from server.engine.ray.nodes import ClusterView

log = logging.getLogger("paddock.cluster")

MONITOR = "server.engine.ray.monitor"

_LINE_BYTES = 2**22
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 15.0


async def cluster_views(address: str, environment: Mapping[str, str]) -> AsyncGenerator[ClusterView, None]:
    """The views of a cluster whenever it changes, for as long as they are read.

    The process that looks is started again if it ends: Ray ends its processes when the head is gone for a minute. The
    view then has an error, and no hosts.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            process = await _start(address, environment)
        except OSError as error:
            yield ClusterView(error=f"The cluster cannot be watched: {error.strerror}.")
            await asyncio.sleep(_LONGEST_PAUSE)
            continue
        try:
            async for view in _read(process):
                yield view
                if view.error is None:
                    pause = _FIRST_PAUSE
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def first_view(address: str, environment: Mapping[str, str]) -> ClusterView:
    """A cluster as it is now, or why it is not known."""
    views = cluster_views(address, environment)
    try:
        return await anext(views)
    finally:
        await views.aclose()


async def _start(address: str, environment: Mapping[str, str]) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", MONITOR, address),
        env=environment,
        stdin=DEVNULL,
        stdout=PIPE,
        limit=_LINE_BYTES,
        # Ctrl-C is for the server
        start_new_session=True,
    )


async def _read(process: Process) -> AsyncGenerator[ClusterView, None]:
    assert process.stdout is not None
    last: ClusterView | None = None
    with suppress(ValueError):
        # a process that is killed may leave half a line
        async for line in process.stdout:
            last = ClusterView.model_validate_json(line)
            yield last
    if last is None or last.error is None:
        yield ClusterView(error="The connection to the Ray cluster ended.")
