"""Calls of the actor of a worker, made by its bridge."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from server.engine.ray.actor import HostedWorker
from server.engine.ray.files.folders import Folder
from server.engine.ray.options import BridgeOptions, actor_name, device_resource

_CALL_SECONDS = 30.0
"""How long a call of the actor, or a chunk of a file, may take."""

_TAKEN_SECONDS = 5.0
"""So long the actor of an ended bridge may still hold the device; after that another server does."""


class HostLostError(Exception):
    """The worker's host, or the whole cluster, is out of reach; `str()` is a sentence."""


class DeviceInUseError(Exception):
    """Another server uses the device; `str()` is a sentence."""


class Actor:
    """Calls of one actor, each within some seconds; they raise HostLostError."""

    def __init__(self, options: BridgeOptions) -> None:
        """Make the actor; raises ValueError while there is another one for its device."""
        self._host = options.host
        self._index = options.index
        self._handle: Any = (
            ray.remote(HostedWorker)
            .options(
                name=actor_name(options.node_id, options.index),
                num_cpus=0,
                max_restarts=0,
                max_task_retries=0,
                resources={device_resource(options.index): 1},
                scheduling_strategy=NodeAffinitySchedulingStrategy(options.node_id, soft=False),
            )
            .remote(options.model_dump_json())
        )

    async def start(self, seconds: float) -> None:
        """Start the worker."""
        late = f"No worker started on {self._host} within {seconds:g} s: its device {self._index} may be in use."
        await self._answer(self._handle.start.remote(), seconds, late)

    async def ping(self) -> None:
        """Say that the bridge is there; raises RayError as well."""
        await asyncio.wait_for(self._handle.ping.remote(), _CALL_SECONDS)

    async def send(self, line: bytes) -> None:
        """Pass an order to the worker."""
        await self._answer(self._handle.send.remote(line))

    async def reports(self) -> AsyncIterator[bytes]:
        """What the worker sends, and at last how it ended."""
        async for reference in self._handle.reports.options(num_returns="streaming").remote():
            yield await reference

    async def read(self, folder: Folder, key: str) -> AsyncIterator[bytes]:
        """A file of the host, in chunks."""
        reading = self._handle.read.options(num_returns="streaming", _generator_backpressure_num_objects=4)
        chunks = reading.remote(folder, key)
        while True:
            try:
                reference = await self._answer(anext(chunks))
            except StopAsyncIteration:
                return
            yield await self._answer(reference)

    async def append(self, folder: Folder, key: str, chunk: bytes, is_first: bool) -> None:
        """Add a chunk to a file of the host."""
        await self._answer(self._handle.append.remote(folder, key, chunk, is_first))

    async def complete(self, folder: Folder, key: str) -> None:
        """Complete a file of the host."""
        await self._answer(self._handle.complete.remote(folder, key))

    async def remove(self, folder: Folder, key: str) -> None:
        """Remove a file of the host."""
        await self._answer(self._handle.remove.remote(folder, key))

    async def _answer(self, call: Any, seconds: float = _CALL_SECONDS, late: str | None = None) -> Any:
        try:
            return await asyncio.wait_for(call, seconds)
        except TimeoutError:
            raise HostLostError(
                late
                or f"The host {self._host} did not answer within {seconds:g} s. If this comes again, see whether a "
                "firewall closes a port of the cluster."
            ) from None
        except RayTaskError as error:
            # an error on the host, such as a full disk
            raise HostLostError(f"On {self._host}: {error.cause}") from error


async def make_actor(options: BridgeOptions) -> Actor:
    """Make the actor of the device; raises DeviceInUseError if another server holds it."""
    until = time.monotonic() + _TAKEN_SECONDS
    while True:
        try:
            return await asyncio.to_thread(Actor, options)
        except ValueError:
            if time.monotonic() > until:
                raise DeviceInUseError(f"Another server uses device {options.index} of {options.host}.") from None
        await asyncio.sleep(0.2)
