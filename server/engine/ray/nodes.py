"""The hosts of a cluster and their devices, as the nodes of Ray describe them."""

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from server import __version__
from server.engine.protocol import VERSION
from server.engine.ray.options import device_resource

_HOST, _KIND, _PROTOCOL, _VERSION = "paddock-host", "paddock-kind", "paddock-protocol", "paddock-version"
_MOST_LISTED = 50
_RESOURCE = re.compile(re.escape(device_resource(0)).removesuffix("0") + "([0-9]+)")

HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""What Ray takes as the value of a label."""


class DeviceKind(StrEnum):
    """What the devices of a host are: GPUs, or CPU devices for demo weights."""

    CUDA = "cuda"
    DEMO = "demo"


class ClusterHost(BaseModel):
    """A host that has joined a cluster. `devices` are the numbers of its devices, `protocol` that of its workers.

    `held` are the numbers of the devices that a worker has now. `is_draining`: it is to give back what it makes.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    node_id: str
    address: str
    is_alive: bool
    is_head: bool
    kind: DeviceKind
    devices: tuple[int, ...]
    protocol: int
    version: str
    held: tuple[int, ...] = ()
    is_draining: bool = False

    @property
    def is_drained(self) -> bool:
        """Whether it is to be drained, and no worker has a device of it any more."""
        return self.is_draining and not self.held

    def torch_device(self, index: int) -> str:
        """The torch name of one of its devices."""
        return f"cuda:{index}" if self.kind is DeviceKind.CUDA else "cpu"


class ClusterView(BaseModel):
    """The hosts of a cluster at a moment, or why they are not known: a sentence.

    `is_permanent`: nothing but a change of this machine or of the cluster helps.
    """

    model_config = ConfigDict(frozen=True)

    hosts: tuple[ClusterHost, ...] = ()
    error: str | None = None
    is_permanent: bool = False

    def find(self, name: str) -> ClusterHost:
        """The living host of that name, or with the name that tells it apart; raises UnknownHostError."""
        alive = [host for host in self.hosts if host.is_alive]
        own = [host for host in alive if distinct_name(host) == name]
        found = own or [host for host in alive if host.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownHostError(f"Several hosts are named {name}: {_listed(map(distinct_name, found))}. Name one.")
        known = _listed(host.name for host in alive) or "none"
        raise UnknownHostError(f"No host of the cluster is named {name}. Its hosts: {known}.")


class UnknownHostError(Exception):
    """No host is meant, or several; `str()` is a sentence that lists them."""


def distinct_name(host: ClusterHost) -> str:
    """A name that no other host has: that of a host whose name was taken when it joined."""
    return f"{host.name}-{host.node_id[:6]}"


def _listed(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = len(listed) - _MOST_LISTED
    return ", ".join(listed[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def host_labels(name: str, kind: str) -> dict[str, str]:
    """The labels of the Ray node of a host."""
    return {_HOST: name, _KIND: kind, _PROTOCOL: str(VERSION), _VERSION: __version__}


def hosts_of(
    nodes: Iterable[Mapping[str, Any]], free: Mapping[str, Collection[str]], draining: Collection[str] = ()
) -> list[ClusterHost]:
    """The hosts among the nodes of a cluster: those that Paddock has started. Several may have the same name.

    `free` are by node id the resources that nobody holds, `draining` the ids of the nodes that are to be drained.
    """
    hosts = []
    for node in nodes:
        labels = node.get("Labels") or {}
        resources = node.get("Resources") or {}
        # another version may have other labels
        with suppress(KeyError, ValueError):
            host = _host_of(node, labels, resources)
            unused = free.get(host.node_id, resources)
            held = tuple(index for index in host.devices if device_resource(index) not in unused)
            hosts.append(host.model_copy(update={"held": held, "is_draining": host.node_id in draining}))
    return sorted(hosts, key=lambda host: (host.name, not host.is_alive, host.node_id))


def _host_of(node: Mapping[str, Any], labels: Mapping[str, str], resources: Mapping[str, float]) -> ClusterHost:
    return ClusterHost(
        name=labels[_HOST],
        node_id=node["NodeID"],
        address=node["NodeManagerAddress"],
        is_alive=node["Alive"],
        is_head="node:__internal_head__" in resources,
        kind=DeviceKind(labels[_KIND]),
        devices=tuple(sorted(int(match[1]) for each in resources if (match := _RESOURCE.fullmatch(each)))),
        protocol=int(labels[_PROTOCOL]),
        version=labels[_VERSION],
    )
