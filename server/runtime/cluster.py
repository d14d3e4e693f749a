"""The devices of a Ray cluster, which come and go while the server runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from server.engine.interface import Engine
from server.engine.protocol import VERSION
from server.engine.ray.nodes import ClusterHost, ClusterView, DeviceKind
from server.runtime.engines import device_name
from server.scheduler.dispatcher import Dispatcher

log = logging.getLogger("paddock.cluster")

EngineOf = Callable[[ClusterHost, int], Engine]


class ClusterDevices:
    """Keeps the devices of a dispatcher in step with a cluster. `demo`: the server serves demo weights."""

    def __init__(self, dispatcher: Dispatcher, make_engine: EngineOf, *, demo: bool) -> None:
        self._dispatcher = dispatcher
        self._make_engine = make_engine
        self._demo = demo
        self._names: dict[str, str] = {}
        """The name of each host in use, by its node id: a host keeps it while another one of that name joins."""
        self._devices: dict[str, str] = {}
        """The node id of each device's host, by the device's name."""
        self._told: set[tuple[str, str]] = set()

    async def follow(self, views: AsyncIterator[ClusterView]) -> None:
        """Add and remove devices as the views of the cluster say, for as long as there are any."""
        error = None
        async for view in views:
            if view.error is None:
                await self.use(view)
            elif view.error != error:
                # the devices stay: each finds out for itself whether its host is there
                log.error("%s Trying again.", view.error)
            error = view.error

    async def use(self, view: ClusterView) -> None:
        """Have exactly the devices of a view."""
        known = {host.node_id for host in view.hosts}
        self._told = {each for each in self._told if each[0] in known}
        wanted = {
            device_name(host, index): (host, index)
            for host in self._named([host for host in view.hosts if host.is_alive and self._fits(host)])
            for index in host.devices
        }
        leaving = [
            name for name, node in self._devices.items() if name not in wanted or wanted[name][0].node_id != node
        ]
        for name in leaving:
            log.warning("%s: its host has left the cluster", name)
        await asyncio.gather(*map(self._remove, leaving))
        for name, (host, index) in wanted.items():
            if name not in self._devices:
                log.info("%s has joined", name)
                self._dispatcher.add(self._make_engine(host, index))
                self._devices[name] = host.node_id
        self._dispatcher.note_taken({name for name, (host, index) in wanted.items() if index in host.in_use})

    def _named(self, hosts: Sequence[ClusterHost]) -> list[ClusterHost]:
        """Hosts with names that are all different."""
        here = {host.node_id for host in hosts}
        self._names = {node: name for node, name in self._names.items() if node in here}
        for host in hosts:
            taken = {*self._names.values()} if host.node_id not in self._names else set[str]()
            name = f"{host.name}-{host.node_id[:6]}" if host.name in taken else host.name
            self._names.setdefault(host.node_id, name)
        return [host.model_copy(update={"name": self._names[host.node_id]}) for host in hosts]

    async def _remove(self, name: str) -> None:
        try:
            await self._dispatcher.remove(name)
        except Exception:
            # it is gone all the same, and the others must be followed
            log.exception("%s did not stop cleanly", name)
        del self._devices[name]

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
