"""The hosts of a cluster and their devices, as the nodes of Ray describe them."""

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from server import __version__
from server.engine.protocol import VERSION
from server.engine.ray.options import actor_name, device_resource

_HOST, _KIND, _PROTOCOL, _VERSION = "paddock-host", "paddock-kind", "paddock-protocol", "paddock-version"
_RESOURCE = re.compile(re.escape(device_resource(0)).removesuffix("0") + "([0-9]+)")

HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""What Ray takes as the value of a label."""


class DeviceKind(StrEnum):
    """What the devices of a host are: GPUs, or CPU devices for demo weights."""

    CUDA = "cuda"
    DEMO = "demo"


class ClusterHost(BaseModel):
    """A host that has joined a cluster.

    `devices` are the numbers of its devices, `in_use` those that a server holds; `protocol` is that of its workers.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    node_id: str
    address: str
    is_alive: bool
    is_head: bool
    kind: DeviceKind
    devices: tuple[int, ...]
    in_use: tuple[int, ...] = ()
    protocol: int
    version: str

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


def host_labels(name: str, kind: str) -> dict[str, str]:
    """The labels of the Ray node of a host."""
    return {_HOST: name, _KIND: kind, _PROTOCOL: str(VERSION), _VERSION: __version__}


def hosts_of(nodes: Iterable[Mapping[str, Any]], actors: Collection[str] = ()) -> list[ClusterHost]:
    """The hosts among the nodes of a cluster: those that Paddock has started. Several may have the same name.

    `actors` are the names of the cluster's actors.
    """
    hosts = []
    for node in nodes:
        labels = node.get("Labels") or {}
        resources = node.get("Resources") or {}
        # another version may have other labels
        with suppress(KeyError, ValueError):
            hosts.append(_host_of(node, labels, resources, actors))
    return sorted(hosts, key=lambda host: (host.name, not host.is_alive, host.node_id))


def _host_of(
    node: Mapping[str, Any], labels: Mapping[str, str], resources: Mapping[str, float], actors: Collection[str]
) -> ClusterHost:
    devices = tuple(sorted(int(match[1]) for each in resources if (match := _RESOURCE.fullmatch(each))))
    return ClusterHost(
        name=labels[_HOST],
        node_id=node["NodeID"],
        address=node["NodeManagerAddress"],
        is_alive=node["Alive"],
        is_head="node:__internal_head__" in resources,
        kind=DeviceKind(labels[_KIND]),
        devices=devices,
        in_use=tuple(index for index in devices if actor_name(node["NodeID"], index) in actors),
        protocol=int(labels[_PROTOCOL]),
        version=labels[_VERSION],
    )
