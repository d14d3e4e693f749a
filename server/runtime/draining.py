"""Has a host of a cluster drained, or lets it back, from any machine that has joined the cluster."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress

from server.engine.ray.failures import ClusterError
from server.engine.ray.nodes import ClusterHost, ClusterView
from server.engine.ray.watch import cluster_views, first_view

_MARKER = "server.engine.ray.drain"

_MARK_SECONDS = 60.0
"""Within so long a mark is made: the cluster itself has 30 s to answer."""

_SETTLED_SECONDS = 5.0
"""So long the devices must stay free: a server may have started a worker before it saw the mark, which ends it."""


class NotDrainedError(Exception):
    """A host was not drained in time, or was let back; `str()` is a sentence."""


class HostDrain:
    """Drains hosts of the cluster at `address`; `environment` is a monitor's. Its methods raise ClusterError.

    `tell` is called with sentences about what happens.
    """

    def __init__(self, address: str, environment: Mapping[str, str], tell: Callable[[str], None]) -> None:
        self._address = address
        self._environment = environment
        self._tell = tell

    async def drain(self, name: str, seconds: float) -> None:
        """Have a host drained, and return once its devices are free.

        Raises UnknownHostError, or NotDrainedError if that takes longer than so many seconds.
        """
        host = (await self._look()).find(name)
        await self._mark("drain", host)
        views: asyncio.Queue[ClusterView] = asyncio.Queue()
        reading = asyncio.create_task(_pass_on(cluster_views(self._address, self._environment), views))
        waiting = _Waiting(name, host.node_id, self._tell)
        try:
            async with asyncio.timeout(seconds):
                await waiting.until_drained(views)
        except TimeoutError:
            raise NotDrainedError(
                f"{name} is not drained after {seconds:g} s. {waiting.reason} It takes no new work. To wait again, run "
                f"the same command; to let it work again: paddock cluster undrain {name}"
            ) from None
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def undrain(self, name: str) -> None:
        """Let a host take work again; raises UnknownHostError."""
        host = (await self._look()).find(name)
        await self._mark("undrain", host)
        self._tell(f"{name} takes work again." if host.is_draining else f"{name} was not drained.")

    async def _look(self) -> ClusterView:
        view = await first_view(self._address, self._environment)
        if view.error is not None:
            raise ClusterError(view.error)
        return view

    async def _mark(self, mark: str, host: ClusterHost) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", _MARKER, self._address, mark, host.node_id),
            env=self._environment,
            stdin=DEVNULL,
            stdout=PIPE,
        )
        try:
            async with asyncio.timeout(_MARK_SECONDS):
                said, _ = await process.communicate()
        except TimeoutError:
            raise ClusterError(f"The head of the Ray cluster does not answer within {_MARK_SECONDS:g} s.") from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if said or process.returncode:
            raise ClusterError(said.decode(errors="replace").strip() or "The host could not be marked; see above.")


class _Waiting:
    """Waits until a host is drained; `reason` says what for."""

    def __init__(self, name: str, node_id: str, tell: Callable[[str], None]) -> None:
        self._name = name
        self._node_id = node_id
        self._tell = tell
        self.reason = "The cluster was not seen."

    async def until_drained(self, views: asyncio.Queue[ClusterView]) -> None:
        """Return once the host's devices are free, or it has left; raises NotDrainedError if it was let back."""
        is_free = False
        while True:
            try:
                async with asyncio.timeout(_SETTLED_SECONDS if is_free else None):
                    view = await views.get()
            except TimeoutError:
                self._tell(f"{self._name} is drained: no worker has a device of it, and it takes no new work.")
                return
            host = next((each for each in view.hosts if each.node_id == self._node_id and each.is_alive), None)
            is_free = host is not None and host.is_drained
            if view.error is not None:
                self._wait_for(view.error)
            elif host is None:
                self._tell(f"{self._name} has left the cluster.")
                return
            elif not host.is_draining:
                raise NotDrainedError(f"{self._name} was let back meanwhile.")
            elif host.held:
                which = ", ".join(map(str, host.held))
                self._wait_for(f"A worker has its {'device' if len(host.held) == 1 else 'devices'} {which}.")
            else:
                self.reason = "Its devices have just become free."

    def _wait_for(self, reason: str) -> None:
        if reason != self.reason:
            self.reason = reason
            self._tell(f"Waiting for {self._name}. {reason}")


async def _pass_on(views: AsyncGenerator[ClusterView, None], to: asyncio.Queue[ClusterView]) -> None:
    try:
        async for view in views:
            to.put_nowait(view)
    finally:
        await views.aclose()
