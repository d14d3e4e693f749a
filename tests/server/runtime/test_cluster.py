"""Devices come and go with the hosts of a cluster."""

import asyncio
import logging
from collections.abc import Collection
from typing import Any, cast

import pytest

from server.engine.interface import Engine
from server.engine.protocol import VERSION
from server.engine.ray.nodes import ClusterHost, ClusterView, DeviceKind
from server.runtime.cluster import ClusterDevices
from server.scheduler.dispatcher import Dispatcher
from tests.server.conftest import eventually


class FakeDispatcher:
    """Remembers which devices it has; `broken` cannot be removed cleanly, draining waits for `may_drain`."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.log: list[str] = []
        self.broken: set[str] = set()
        self.held: set[str] = set()
        self.may_drain = asyncio.Event()
        self.may_drain.set()

    def add(self, engine: Any, *, is_drained: bool) -> None:
        self.names.append(engine)
        self.log.append(f"+{engine}{' (drained)' if is_drained else ''}")

    async def drain(self, name: str, grace: float) -> None:
        self.log.append(f"~{name} {grace:g}")
        await self.may_drain.wait()
        if name in self.broken:
            raise RuntimeError("its records are out of reach")
        self.log.append(f"={name}")

    def note_held(self, names: Collection[str]) -> None:
        self.held = {*names}

    async def remove(self, name: str) -> None:
        self.names.remove(name)
        self.log.append(f"-{name}")
        if name in self.broken:
            raise RuntimeError("its worker does not end")


def host(name: str, node_id: str | None = None, devices: int = 1, **changes: Any) -> ClusterHost:
    given = {"address": "10.0.0.1", "is_alive": True, "is_head": False, "kind": DeviceKind.CUDA}
    known = {"protocol": VERSION, "version": "1", "devices": tuple(range(devices))}
    return ClusterHost(name=name, node_id=node_id or name, **{**given, **known, **changes})


@pytest.fixture
def dispatcher() -> FakeDispatcher:
    return FakeDispatcher()


def devices_of(dispatcher: FakeDispatcher, *, demo: bool = False) -> ClusterDevices:
    def engine(host: ClusterHost, index: int) -> Engine:
        return cast("Engine", f"{host.name}/{index}")

    return ClusterDevices(cast("Dispatcher", dispatcher), engine, demo=demo, drain_seconds=7)


async def test_the_devices_are_those_of_the_living_hosts(dispatcher: FakeDispatcher) -> None:
    devices = devices_of(dispatcher)

    await devices.use(ClusterView(hosts=(host("a", devices=2), host("b"))))
    assert dispatcher.names == ["a/0", "a/1", "b/0"]
    await devices.use(ClusterView(hosts=(host("a", devices=2, is_alive=False), host("b"), host("c"))))
    assert dispatcher.names == ["b/0", "c/0"]
    await devices.use(ClusterView())
    assert dispatcher.names == []


async def test_the_dispatcher_learns_which_devices_are_held(dispatcher: FakeDispatcher) -> None:
    devices = devices_of(dispatcher)

    await devices.use(ClusterView(hosts=(host("a", devices=2, held=(1,)), host("b", held=(0,), is_alive=False))))
    assert dispatcher.held == {"a/1"}
    await devices.use(ClusterView(hosts=(host("a", devices=2),)))
    assert dispatcher.held == set()


async def test_a_host_that_was_restarted_has_new_devices(dispatcher: FakeDispatcher) -> None:
    devices = devices_of(dispatcher)
    await devices.use(ClusterView(hosts=(host("a", "old"),)))

    await devices.use(ClusterView(hosts=(host("a", "new"),)))
    await devices.use(ClusterView(hosts=(host("a", "new"),)))

    assert dispatcher.log == ["+a/0", "-a/0", "+a/0"]


async def test_a_host_keeps_its_name_and_its_work_when_another_of_that_name_joins(dispatcher: FakeDispatcher) -> None:
    devices = devices_of(dispatcher)
    await devices.use(ClusterView(hosts=(host("pc", "bbbbbbbb"),)))

    await devices.use(ClusterView(hosts=(host("pc", "aaaaaaaa"), host("pc", "bbbbbbbb"))))
    assert dispatcher.log == ["+pc/0", "+pc-aaaaaa/0"]
    await devices.use(ClusterView(hosts=(host("pc", "aaaaaaaa"),)))
    assert dispatcher.names == ["pc-aaaaaa/0"]


async def test_a_device_that_does_not_stop_cleanly_is_gone_all_the_same(dispatcher: FakeDispatcher) -> None:
    devices = devices_of(dispatcher)
    await devices.use(ClusterView(hosts=(host("a"), host("b"))))
    dispatcher.broken.add("a/0")

    await devices.use(ClusterView(hosts=(host("c"),)))

    assert dispatcher.names == ["c/0"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"protocol": VERSION + 1, "version": "9"}, f"it runs Paddock 9 with protocol {VERSION + 1}"),
        ({"kind": DeviceKind.DEMO}, "its devices are for demo weights"),
    ],
)
async def test_a_host_that_does_not_fit_is_passed_over_and_the_log_says_so_once(
    dispatcher: FakeDispatcher, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], why: str
) -> None:
    devices = devices_of(dispatcher)

    for _ in range(2):
        await devices.use(ClusterView(hosts=(host("a", **changes),)))

    assert dispatcher.names == []
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(f"the host a is not used: {why}")


async def test_demo_weights_run_on_every_host(dispatcher: FakeDispatcher) -> None:
    await devices_of(dispatcher, demo=True).use(ClusterView(hosts=(host("a", kind=DeviceKind.DEMO), host("b"))))

    assert dispatcher.names == ["a/0", "b/0"]


async def test_without_a_view_the_devices_stay(dispatcher: FakeDispatcher, caplog: pytest.LogCaptureFixture) -> None:
    async def views() -> Any:
        yield ClusterView(hosts=(host("a"),))
        yield ClusterView(error="The head does not answer.")
        yield ClusterView(error="The head does not answer.")

    await devices_of(dispatcher).follow(views())

    assert dispatcher.names == ["a/0"]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "The head does not answer. Trying again."
    ]


async def test_the_devices_of_a_marked_host_are_drained_once_and_come_back(dispatcher: FakeDispatcher) -> None:
    devices = devices_of(dispatcher)
    await devices.use(ClusterView(hosts=(host("a", devices=2), host("b"))))
    dispatcher.log.clear()

    for held in ((0, 1), (1,), ()):
        await devices.use(ClusterView(hosts=(host("a", devices=2, is_draining=True, held=held), host("b"))))
    await eventually(lambda: len(dispatcher.log) == 4)
    assert sorted(dispatcher.log) == ["=a/0", "=a/1", "~a/0 7", "~a/1 7"]
    dispatcher.log.clear()
    await devices.use(ClusterView(hosts=(host("a", devices=2), host("b"))))

    assert sorted(dispatcher.log) == ["+a/0", "+a/1", "-a/0", "-a/1"]


async def test_a_host_that_is_let_back_too_soon_comes_back_once_its_devices_are_free(
    dispatcher: FakeDispatcher,
) -> None:
    devices = devices_of(dispatcher)
    await devices.use(ClusterView(hosts=(host("a"),)))
    dispatcher.may_drain.clear()

    await devices.use(ClusterView(hosts=(host("a", is_draining=True),)))
    await devices.use(ClusterView(hosts=(host("a"),)))
    await eventually(lambda: dispatcher.log == ["+a/0", "~a/0 7"])
    dispatcher.may_drain.set()

    await eventually(lambda: dispatcher.log == ["+a/0", "~a/0 7", "=a/0", "-a/0", "+a/0"])


async def test_a_host_that_leaves_while_it_is_drained_is_gone(dispatcher: FakeDispatcher) -> None:
    devices = devices_of(dispatcher)
    await devices.use(ClusterView(hosts=(host("a"),)))
    dispatcher.may_drain.clear()
    await devices.use(ClusterView(hosts=(host("a", is_draining=True),)))

    await devices.use(ClusterView(hosts=(host("a", "new"),)))
    dispatcher.may_drain.set()

    assert [each for each in dispatcher.log if each[0] in "+-"] == ["+a/0", "-a/0", "+a/0"]
    await eventually(lambda: "=a/0" in dispatcher.log)
    assert dispatcher.names == ["a/0"]


async def test_a_host_that_was_drained_before_the_server_began_is_there_and_takes_nothing(
    dispatcher: FakeDispatcher,
) -> None:
    devices = devices_of(dispatcher)

    await devices.use(ClusterView(hosts=(host("a", is_draining=True),)))
    assert dispatcher.log == ["+a/0 (drained)"]
    await devices.use(ClusterView(hosts=(host("a"),)))

    assert dispatcher.log == ["+a/0 (drained)", "-a/0", "+a/0"]


async def test_a_device_that_cannot_be_drained_cleanly_comes_back_all_the_same(
    dispatcher: FakeDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    devices = devices_of(dispatcher)
    await devices.use(ClusterView(hosts=(host("a"),)))
    dispatcher.broken.add("a/0")

    await devices.use(ClusterView(hosts=(host("a", is_draining=True),)))
    await eventually(lambda: "a/0 did not stop cleanly" in caplog.text)
    await devices.use(ClusterView(hosts=(host("a"),)))

    assert dispatcher.log[-1] == "+a/0"
