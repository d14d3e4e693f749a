"""The devices of a Ray cluster, which come and go while the server runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from server.engine.interface import Engine
from server.engine.protocol import VERSION
from server.engine.ray.nodes import ClusterHost, ClusterView, DeviceKind, distinct_name
from server.runtime.engines import device_name
from server.scheduler.dispatcher import Dispatcher

log = logging.getLogger("paddock.cluster")

EngineOf = Callable[[ClusterHost, int], Engine]

DRAIN_SECONDS = 600.0
"""So long a device that is drained may take to save what it makes: until the end of a step, or of decoding."""


@dataclass
class _Member:
    """A device that the dispatcher has: the node id of its host, and whether it is drained, or just being drained."""

    node_id: str
    is_drained: bool
    draining: "asyncio.Task[None] | None" = None


class ClusterDevices:
    """Keeps the devices of a dispatcher in step with a cluster. `demo`: the server serves demo weights.

    A device that is drained may take `drain_seconds` to save what it makes.
    """

    def __init__(
        self, dispatcher: Dispatcher, make_engine: EngineOf, *, demo: bool, drain_seconds: float = DRAIN_SECONDS
    ) -> None:
        self._dispatcher = dispatcher
        self._make_engine = make_engine
        self._demo = demo
        self._drain_seconds = drain_seconds
        self._view = ClusterView()
        self._changing = asyncio.Lock()
        self._names: dict[str, str] = {}
        """The name of each host in use, by its node id: a host keeps it while another one of that name joins."""
        self._members: dict[str, _Member] = {}
        """The devices by their names."""
        self._draining: set[asyncio.Task[None]] = set()
        self._told: set[tuple[str, str]] = set()

    async def follow(self, views: AsyncIterator[ClusterView]) -> None:
        """Add, drain and remove devices as the views of the cluster say, for as long as there are any."""
        error = None
        try:
            async for view in views:
                if view.error is None:
                    await self.use(view)
                elif view.error != error:
                    # the devices stay: each finds out for itself whether its host is there
                    log.error("%s Trying again.", view.error)
                error = view.error
        finally:
            for task in self._draining:
                task.cancel()

    async def use(self, view: ClusterView) -> None:
        """Have exactly the devices of a view, and have those of draining hosts drained."""
        self._view = view
        async with self._changing:
            await self._follow_view()

    async def _follow_view(self) -> None:
        view = self._view
        known = {host.node_id for host in view.hosts}
        self._told = {each for each in self._told if each[0] in known}
        wanted = {
            device_name(host, index): (host, index)
            for host in self._named([host for host in view.hosts if host.is_alive and self._fits(host)])
            for index in host.devices
        }
        leaving = [
            name
            for name, member in self._members.items()
            if name not in wanted or wanted[name][0].node_id != member.node_id
        ]
        for name in leaving:
            log.warning("%s: its host has left the cluster", name)
        returning = [
            name
            for name, member in self._members.items()
            if name not in leaving and member.is_drained and member.draining is None and not wanted[name][0].is_draining
        ]
        await asyncio.gather(*map(self._remove, [*leaving, *returning]))
        for name, (host, index) in wanted.items():
            member = self._members.get(name)
            if member is None:
                log.info("%s %s", name, "is drained" if host.is_draining else "has joined")
                self._dispatcher.add(self._make_engine(host, index), is_drained=host.is_draining)
                self._members[name] = _Member(host.node_id, host.is_draining)
            elif host.is_draining and not member.is_drained:
                log.info("%s is being drained", name)
                member.is_drained = True
                member.draining = task = asyncio.create_task(self._drain(name, member))
                self._draining.add(task)
                task.add_done_callback(self._draining.discard)
        self._dispatcher.note_held({name for name, (host, index) in wanted.items() if index in host.held})

    async def _drain(self, name: str, member: _Member) -> None:
        try:
            await self._dispatcher.drain(name, self._drain_seconds)
        except Exception:
            log.exception("%s did not stop cleanly", name)
        member.draining = None
        if self._members.get(name) is member:
            log.info("%s is drained", name)
        # it may have been let back meanwhile
        async with self._changing:
            await self._follow_view()

    def _named(self, hosts: Sequence[ClusterHost]) -> list[ClusterHost]:
        """Hosts with names that are all different."""
        here = {host.node_id for host in hosts}
        self._names = {node: name for node, name in self._names.items() if node in here}
        for host in hosts:
            taken = {*self._names.values()} if host.node_id not in self._names else set[str]()
            name = distinct_name(host) if host.name in taken else host.name
            self._names.setdefault(host.node_id, name)
        return [host.model_copy(update={"name": self._names[host.node_id]}) for host in hosts]

    async def _remove(self, name: str) -> None:
        try:
            await self._dispatcher.remove(name)
        except Exception:
            # it is gone all the same, and the others must be followed
            log.exception("%s did not stop cleanly", name)
        del self._members[name]

    def _fits(self, host: ClusterHost) -> bool:
        """Whether the server can use a host; if not, the log says why, once."""
        why = None
        if host.protocol != VERSION:
            why = f"it runs Paddock {host.version} with protocol {host.protocol}, the server has {VERSION}"
        elif host.kind is DeviceKind.DEMO and not self._demo:
            why = "its devices are for demo weights"
        if why is not None and (host.node_id, why) not in self._told:
            self._told.add((host.node_id, why))
            log.warning("the host %s is not used: %s", host.name, why)
        return why is None
