"""A child of the server that stands in a worker's place, and has the worker run on a host of a Ray cluster.

`python -P -m server.engine.ray.bridge FD OPTIONS`, with an open socket and BridgeOptions as JSON. Lines pass through;
files come and go with the lines that name them. When Ray loses its head for a minute it ends its drivers: this
process, not the server.
"""

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.core.processes import die_with_parent
from server.core.logging import configure, ids
from server.engine.protocol import (
    MAX_LINE_BYTES,
    ORDER,
    REPORT,
    Attempt,
    Cancelled,
    Checkpointed,
    Done,
    Failed,
    HostLost,
    LoadFailed,
    Previewed,
    Report,
    Run,
    Suspended,
    WorkerEnded,
)
from server.engine.ray.actor import HostedWorker
from server.engine.ray.connect import connect, nodes
from server.engine.ray.failures import ClusterError
from server.engine.ray.files import Folder, WorkerFolders, read_by, written_by
from server.engine.ray.options import BridgeOptions, device_resource

log = logging.getLogger("paddock.bridge")

_PING_SECONDS = 5.0
_LOOK_SECONDS = 2.0
_UNCLEAR_SECONDS = 20.0
"""So long it may take until it is known whether a worker's host is gone, or only its actor."""

_HEAD_SECONDS = 40.0
"""So long the head may not answer. After a minute Ray would end this process."""


class HostLostError(Exception):
    """The worker's host, or the whole cluster, is out of reach; `str()` is a sentence."""


class Bridge:
    """Passes the orders of a server to one actor, and its reports back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, options: BridgeOptions) -> None:
        self._reader = reader
        self._writer = writer
        self._options = options
        self._folders = WorkerFolders(options)
        self._runs: dict[Attempt, Run] = {}
        self._actor: Any = (
            ray.remote(HostedWorker)
            .options(
                num_cpus=0,
                max_restarts=0,
                max_task_retries=0,
                resources={device_resource(options.index): 1},
                scheduling_strategy=NodeAffinitySchedulingStrategy(options.node_id, soft=False),
            )
            .remote(options.model_dump_json())
        )

    async def serve(self) -> None:
        """Serve until the server ends the connection, or the worker has ended; raises HostLostError."""
        try:
            await asyncio.wait_for(self._actor.start.remote(), self._options.start_seconds)
        except (TimeoutError, GetTimeoutError):
            raise HostLostError(
                f"No worker started on {self._options.host} within {self._options.start_seconds:g} s: "
                f"its device {self._options.index} may be in use."
            ) from None
        except RayTaskError as error:
            raise HostLostError(str(error.cause)) from error
        parts = (self._pass_orders(), self._pass_reports(), self._ping(), self._watch_cluster())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def say(self, report: Report) -> None:
        """Send the server a report of this process."""
        self._writer.write(report.line())
        await self._writer.drain()

    async def why(self, error: RayError) -> Report:
        """The report for the end of the actor: its own, or that of its host.

        Ray knows at once that an actor's process has ended; whether its host has, it knows after some seconds.
        """
        until = time.monotonic() + _UNCLEAR_SECONDS
        while time.monotonic() < until:
            if isinstance(error, ActorDiedError) and await self._has_host():
                return WorkerEnded(message=f"its actor on {self._options.host} has ended")
            if not await self._has_host():
                break
            await asyncio.sleep(0.5)
            try:
                await asyncio.wait_for(self._actor.ping.remote(), _LOOK_SECONDS)
            except RayError as now:
                error = now
            except TimeoutError:
                pass
        return HostLost(message=self._lost())

    async def _has_host(self) -> bool:
        try:
            return self._is_alive(await asyncio.wait_for(asyncio.to_thread(nodes), _LOOK_SECONDS))
        except (RayError, TimeoutError):
            return False

    async def _pass_orders(self) -> None:
        async for line in self._reader:
            order = ORDER.validate_json(line)
            if isinstance(order, Run):
                self._runs[order.about] = order
                for folder, key in read_by(order):
                    if self._folders.has(folder, key):
                        await self._put(folder, key)
            await self._actor.send.remote(line)

    async def _pass_reports(self) -> None:
        async for line in self._lines():
            report = REPORT.validate_json(line)
            if isinstance(report, LoadFailed) and report.is_missing:
                # another host may have them
                message = f"On {self._options.host}: {report.message}"
                report = report.model_copy(update={"message": message, "temporary": True})
            await self.say(await self._with_files(report))
            if isinstance(report, WorkerEnded):
                return

    async def _lines(self) -> AsyncIterator[bytes]:
        rest = b""
        async for reference in self._actor.reports.options(num_returns="streaming").remote():
            *lines, rest = (rest + await reference).split(b"\n")
            for line in lines:
                if line:
                    yield line
            if len(rest) > MAX_LINE_BYTES:
                raise ValueError("the worker sent a line that is too long")

    async def _with_files(self, report: Report) -> Report:
        """Fetch the files that a report tells of, before it is passed on."""
        run = None if report.about is None else self._runs.get(report.about)
        if run is None:
            return report
        try:
            match report:
                case Checkpointed():
                    await self._fetch(Folder.CHECKPOINTS, run.checkpoint)
                case Previewed():
                    await self._fetch(Folder.PREVIEWS, run.preview)
                case Done():
                    await self._fetch(Folder.ARTIFACTS, run.artifact)
        except OSError as error:
            said = ids(run.generation_id, run.attempt)
            log.warning("a file of %s was not stored: %s", run.generation_id, error, extra=said)
            if isinstance(report, Done):
                message = f"The video could not be stored: {error.strerror or error}."
                report = Failed(generation_id=run.generation_id, attempt=run.attempt, message=message)
        if isinstance(report, Done | Failed | Cancelled | Suspended):
            await self._clear(run)
        return report

    async def _clear(self, run: Run) -> None:
        """Remove the host's files of a run that is over, except those that another one needs."""
        del self._runs[run.about]
        needed = {each for other in self._runs.values() for each in (*read_by(other), *written_by(other))}
        for folder, key in {*read_by(run), *written_by(run)} - needed:
            await self._actor.remove.remote(folder, key)

    async def _put(self, folder: Folder, key: str) -> None:
        is_first = True
        async for chunk in self._folders.read(folder, key):
            await self._actor.append.remote(folder, key, chunk, is_first)
            is_first = False
        if not is_first:
            await self._actor.complete.remote(folder, key)

    async def _fetch(self, folder: Folder, key: str) -> None:
        is_first = True
        chunks = self._actor.read.options(num_returns="streaming", _generator_backpressure_num_objects=4)
        async for reference in chunks.remote(folder, key):
            await self._folders.append(folder, key, await reference, is_first=is_first)
            is_first = False
        if is_first:
            raise FileNotFoundError(None, f"{self._options.host} has no file {key}")
        await self._folders.complete(folder, key)

    async def _ping(self) -> None:
        while True:
            await self._actor.ping.remote()
            await asyncio.sleep(_PING_SECONDS)

    async def _watch_cluster(self) -> None:
        """Raise HostLostError when the host, or the head, is gone: a call to a frozen host would wait for it."""
        answered = time.monotonic()
        while True:
            try:
                found = await asyncio.wait_for(asyncio.to_thread(nodes), _PING_SECONDS)
            except (RayError, TimeoutError):
                if time.monotonic() - answered > _HEAD_SECONDS:
                    raise HostLostError(
                        f"The head of the Ray cluster at {self._options.address} does not answer."
                    ) from None
            else:
                answered = time.monotonic()
                if not self._is_alive(found):
                    raise HostLostError(self._lost())
            await asyncio.sleep(_LOOK_SECONDS)

    def _is_alive(self, found: list[dict[str, Any]]) -> bool:
        return any(node["NodeID"] == self._options.node_id and node["Alive"] for node in found)

    def _lost(self) -> str:
        return f"The host {self._options.host} is not reachable."


async def _main(connection: socket.socket, options: BridgeOptions) -> None:
    reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_LINE_BYTES)
    try:
        connect(options.address, options.connect_seconds)
    except ClusterError as error:
        writer.write(HostLost(message=str(error)).line())
        await writer.drain()
        return
    bridge = Bridge(reader, writer, options)
    try:
        await bridge.serve()
    except HostLostError as error:
        await bridge.say(HostLost(message=str(error)))
    except RayError as error:
        log.warning("%s: %s", options.host, " ".join(str(error).split())[:400])
        await bridge.say(await bridge.why(error))


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    die_with_parent()
    # libraries print to stdout, which belongs to the server
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    options = BridgeOptions.model_validate_json(sys.argv[2])
    configure("info", options.log_format)
    # the server may end first
    with suppress(ConnectionError):
        asyncio.run(_main(socket.socket(fileno=int(sys.argv[1])), options))
    # Ray's own end takes seconds, and leaves nothing that the death of its driver would not end
    os._exit(0)


if __name__ == "__main__":
    main()
