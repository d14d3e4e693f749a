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

from ray.exceptions import ActorDiedError, RayError

from pipelines.core.processes import die_with_parent
from server.core.logging import configure, ids
from server.engine.protocol import (
    MAX_LINE_BYTES,
    MAX_SENTENCE_CHARS,
    ORDER,
    REPORT,
    Cancelled,
    Checkpointed,
    Done,
    Failed,
    Heartbeat,
    HostLost,
    LoadFailed,
    Previewed,
    Report,
    Run,
    Suspended,
    WorkerEnded,
)
from server.engine.ray.actor_calls import Actor, DeviceInUseError, HostLostError, make_actor
from server.engine.ray.connect import connect, nodes
from server.engine.ray.drain import marked_nodes
from server.engine.ray.failures import ClusterError
from server.engine.ray.files.folders import Folder, WorkerFolders
from server.engine.ray.files.relay import FileRelay
from server.engine.ray.options import BridgeOptions

log = logging.getLogger("paddock.bridge")

_PING_SECONDS = 5.0
_LOOK_SECONDS = 2.0
_UNCLEAR_SECONDS = 20.0
"""So long it may take until it is known whether a worker's host is gone, or only its actor."""

_HEAD_SECONDS = 40.0
"""So long the head may not answer. After a minute Ray would end this process."""


class Bridge:
    """Passes the orders of a server to one actor, and its reports back."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, options: BridgeOptions, actor: Actor
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._options = options
        self._actor = actor
        self._files = FileRelay(WorkerFolders(options), actor, self._show_life)
        self._heartbeat = Heartbeat()

    async def serve(self) -> None:
        """Serve until the server ends the connection, or the worker has ended; raises HostLostError."""
        pinging = asyncio.create_task(self._ping())
        try:
            await self._actor.start(self._options.start_seconds)
            await self._check_not_draining()
        finally:
            pinging.cancel()
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

    async def _check_not_draining(self) -> None:
        """Raise HostLostError if the host is to be drained, which this server may not have seen.

        The actor holds its device by now: who has marked the host waits until it is free.
        """
        if self._options.node_id in await asyncio.wait_for(asyncio.to_thread(marked_nodes), _PING_SECONDS):
            raise HostLostError(f"The host {self._options.host} is drained.")

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
                await self._actor.ping()
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
                await self._files.bring(order)
            await self._actor.send(line)

    async def _pass_reports(self) -> None:
        async for line in self._lines():
            report = REPORT.validate_json(line)
            match report:
                case Heartbeat():
                    self._heartbeat = report
                case LoadFailed(is_missing=True, message=message) | Failed(is_missing=True, message=message):
                    # another host may have them
                    message = f"On {self._options.host}: {message}"
                    report = report.model_copy(update={"message": message, "temporary": True})
            run = self._files.run_of(report.about)
            passed = report if run is None else await self._with_file(report, run)
            if passed is not None:
                await self.say(passed)
            if run is not None and isinstance(report, Done | Failed | Cancelled | Suspended):
                await self._files.end(run)
            if isinstance(report, WorkerEnded):
                return

    async def _lines(self) -> AsyncIterator[bytes]:
        rest = b""
        async for data in self._actor.reports():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line:
                    yield line
            if len(rest) > MAX_LINE_BYTES:
                raise ValueError("the worker sent a line that is too long")

    async def _with_file(self, report: Report, run: Run) -> Report | None:
        """A report once the file that it tells of is here; None if it is not, and the run can do without."""
        try:
            match report:
                case Checkpointed():
                    await self._files.fetch(Folder.CHECKPOINTS, run.checkpoint)
                case Previewed():
                    await self._files.fetch(Folder.PREVIEWS, run.preview)
                case Done():
                    await self._files.fetch(Folder.ARTIFACTS, run.artifact)
        except OSError as error:
            said = ids(run.generation_id, run.attempt)
            log.warning("a file of %s was not stored: %s", run.generation_id, error, extra=said)
            if not isinstance(report, Done):
                return None
            message = f"The video could not be stored: {error.strerror or error}."
            return Failed(generation_id=run.generation_id, attempt=run.attempt, message=message)
        return report

    async def _show_life(self) -> None:
        """Repeat the last heartbeat: those of the worker wait while a file is fetched."""
        await self.say(self._heartbeat)

    async def _ping(self) -> None:
        while True:
            await self._actor.ping()
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
        actor = await make_actor(options)
    except (ClusterError, DeviceInUseError) as error:
        writer.write(HostLost(message=str(error), is_taken=isinstance(error, DeviceInUseError)).line())
        await writer.drain()
        return
    bridge = Bridge(reader, writer, options, actor)
    try:
        await bridge.serve()
    except HostLostError as error:
        await bridge.say(HostLost(message=str(error)[:MAX_SENTENCE_CHARS]))
    except TimeoutError:
        await bridge.say(HostLost(message=f"The host {options.host} does not answer."))
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
    try:
        # the server may end first
        with suppress(ConnectionError):
            asyncio.run(_main(socket.socket(fileno=int(sys.argv[1])), options))
    except Exception:
        log.exception("%s: unexpected error", options.host)
        # apart from the status of BRIDGE_EXITS
        os._exit(2)
    # Ray's own end takes seconds, and leaves nothing that the death of its driver would not end
    os._exit(0)


if __name__ == "__main__":
    main()
