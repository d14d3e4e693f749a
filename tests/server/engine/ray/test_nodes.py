"""Which hosts and devices there are, from what Ray says of its nodes."""

from typing import Any

import pytest

from server import __version__
from server.engine.protocol import VERSION
from server.engine.ray.nodes import HOST_NAME, DeviceKind, host_labels, hosts_of
from server.engine.ray.options import actor_name, device_resource


def node(node_id: str, name: str | None, kind: str = "cuda", devices: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "NodeID": node_id,
        "Alive": True,
        "NodeManagerAddress": "10.0.0.1",
        "Resources": {"memory": 1.0, **{device_resource(index): 1.0 for index in range(devices)}},
        "Labels": {"ray.io/node-id": node_id, **({} if name is None else host_labels(name, kind))},
        **changes,
    }


def test_hosts_have_the_devices_that_they_joined_with() -> None:
    head = node("a", "server", devices=0)
    head["Resources"]["node:__internal_head__"] = 1.0

    gaming, server = hosts_of([head, node("b", "gaming", devices=12)])

    assert (gaming.name, gaming.devices, gaming.is_head) == ("gaming", tuple(range(12)), False)
    assert (server.name, server.devices, server.is_head) == ("server", (), True)
    assert gaming.torch_device(3) == "cuda:3"
    assert (gaming.protocol, gaming.version) == (VERSION, __version__)


def test_a_device_is_in_use_while_its_actor_lives() -> None:
    (host,) = hosts_of([node("a", "pc", devices=3)], {actor_name("a", 1), actor_name("b", 2)})

    assert host.in_use == (1,)


def test_demo_devices_compute_on_the_cpu() -> None:
    (host,) = hosts_of([node("a", "laptop", "demo")])

    assert host.kind is DeviceKind.DEMO
    assert host.torch_device(0) == "cpu"


def test_nodes_that_paddock_has_not_started_are_no_hosts() -> None:
    assert hosts_of([node("a", None), {**node("b", None), "Labels": None}]) == []


def test_hosts_of_one_name_are_all_there_the_living_first() -> None:
    hosts = hosts_of([node("aaaaaaaa", "pc", Alive=False, Resources={}), node("bbbbbbbb", "pc")])

    assert [(host.name, host.node_id, host.is_alive) for host in hosts] == [
        ("pc", "bbbbbbbb", True),
        ("pc", "aaaaaaaa", False),
    ]


@pytest.mark.parametrize("label", ["paddock-kind", "paddock-protocol"])
def test_labels_of_another_version_are_no_host_and_no_error(label: str) -> None:
    other = node("a", "pc")
    other["Labels"][label] = "quantum"

    assert [host.name for host in hosts_of([other, node("b", "other")])] == ["other"]


@pytest.mark.parametrize("name", ["pc", "gpu-1.example", "a", "A_b"])
def test_host_names_that_a_label_can_hold(name: str) -> None:
    assert HOST_NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", "-pc", "pc.", "a b", "a/b", "x" * 64, "ü"])
def test_host_names_that_a_label_cannot_hold(name: str) -> None:
    assert not HOST_NAME.fullmatch(name)
