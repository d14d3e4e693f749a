"""Which hosts and devices there are, from what Ray says of its nodes."""

from typing import Any

import pytest

from server import __version__
from server.engine.protocol import VERSION
from server.engine.ray.nodes import HOST_NAME, ClusterView, DeviceKind, UnknownHostError, host_labels, hosts_of
from server.engine.ray.options import device_resource


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

    gaming, server = hosts_of([head, node("b", "gaming", devices=12)], {})

    assert (gaming.name, gaming.devices, gaming.is_head) == ("gaming", tuple(range(12)), False)
    assert (server.name, server.devices, server.is_head) == ("server", (), True)
    assert gaming.torch_device(3) == "cuda:3"
    assert (gaming.protocol, gaming.version) == (VERSION, __version__)


def test_demo_devices_compute_on_the_cpu() -> None:
    (host,) = hosts_of([node("a", "laptop", "demo")], {})

    assert host.kind is DeviceKind.DEMO
    assert host.torch_device(0) == "cpu"


def test_nodes_that_paddock_has_not_started_are_no_hosts() -> None:
    assert hosts_of([node("a", None), {**node("b", None), "Labels": None}], {}) == []


def test_hosts_of_one_name_are_all_there_the_living_first() -> None:
    hosts = hosts_of([node("aaaaaaaa", "pc", Alive=False, Resources={}), node("bbbbbbbb", "pc")], {})

    assert [(host.name, host.node_id, host.is_alive) for host in hosts] == [
        ("pc", "bbbbbbbb", True),
        ("pc", "aaaaaaaa", False),
    ]


@pytest.mark.parametrize("label", ["paddock-kind", "paddock-protocol"])
def test_labels_of_another_version_are_no_host_and_no_error(label: str) -> None:
    other = node("a", "pc")
    other["Labels"][label] = "quantum"

    assert [host.name for host in hosts_of([other, node("b", "other")], {})] == ["other"]


@pytest.mark.parametrize("name", ["pc", "gpu-1.example", "a", "A_b"])
def test_host_names_that_a_label_can_hold(name: str) -> None:
    assert HOST_NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", "-pc", "pc.", "a b", "a/b", "x" * 64, "ü"])
def test_host_names_that_a_label_cannot_hold(name: str) -> None:
    assert not HOST_NAME.fullmatch(name)


def test_a_host_is_drained_once_no_worker_has_a_device_of_it() -> None:
    nodes = [node("a", "busy", devices=2), node("b", "free"), node("c", "marked", devices=2)]
    free = {"a": {device_resource(1)}, "b": {device_resource(0), "memory"}, "c": set[str]()}

    found = {host.name: host for host in hosts_of(nodes, free, draining={"c"})}

    assert {name: host.held for name, host in found.items()} == {"busy": (0,), "free": (), "marked": (0, 1)}
    assert [name for name, host in found.items() if host.is_draining] == ["marked"]
    assert not found["marked"].is_drained
    (free_now,) = hosts_of([node("c", "marked", devices=2)], {}, draining={"c"})
    assert free_now.is_drained
    assert not found["free"].is_drained


def test_a_host_is_found_by_its_name_and_by_the_one_that_tells_it_apart() -> None:
    nodes = [node("aaaaaaaa", "pc"), node("bbbbbbbb", "pc"), node("c", "tower"), node("d", "gone", Alive=False)]
    view = ClusterView(hosts=tuple(hosts_of(nodes, {})))

    assert view.find("tower").node_id == "c"
    assert view.find("pc-bbbbbb").node_id == "bbbbbbbb"
    with pytest.raises(UnknownHostError, match=r"^Several hosts are named pc: pc-aaaaaa, pc-bbbbbb\. Name one\.$"):
        view.find("pc")
    for name in ("gone", "laptop"):
        with pytest.raises(UnknownHostError, match=rf"^No host .* is named {name}\. Its hosts: pc, pc, tower\.$"):
            view.find(name)
    with pytest.raises(UnknownHostError, match="Its hosts: none"):
        ClusterView().find("pc")


def test_a_large_cluster_is_not_listed_in_full() -> None:
    view = ClusterView(hosts=tuple(hosts_of([node(str(number), f"n{number:03}") for number in range(60)], {})))

    with pytest.raises(UnknownHostError, match=r"n049 and 10 more\.$"):
        view.find("pc")
