"""What a scheduler publishes of its devices, and that health, metrics and models need nothing else."""

from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.core.progress import GenerationStats
from server.api.routes.health import readiness
from server.core.circuit_breaker import Health
from server.core.errors import UnavailableError
from server.core.events import Broker
from server.engine.protocol import DeviceMemory
from server.scheduler.interface import DeviceStatus, Drain, Scheduler
from server.service.metrics import Metrics
from tests.server.conftest import Inside, eventually
from tests.server.fakes import load_failure
from tests.server.scheduler.test_dispatcher import MODEL, busy

WELL = DeviceStatus(
    name="host-a/cuda:0",
    model=MODEL,
    plan="streamed",
    is_busy=True,
    memory=DeviceMemory(free=3, total=80),
    compile_error="no compiler",
    worker_starts=2,
    stats=GenerationStats(1, 2, 30, 4),
)
FAILING = DeviceStatus(
    name="host-b/cuda:0",
    loading=0.5,
    error="it fell off the bus",
    health=Health.UNHEALTHY,
    failures=7,
    retry_in=30.2,
)

DRAINED = DeviceStatus(name="host-c/0", drain=Drain.DRAINED)


class OtherScheduler:
    """Another scheduler than ours, of which only the devices are known."""

    def __init__(self, *devices: DeviceStatus) -> None:
        self._devices = devices

    def devices(self) -> Sequence[DeviceStatus]:
        return self._devices


def schedule_by(inside: Inside, *devices: DeviceStatus) -> None:
    inside.service._scheduler = cast("Scheduler", OtherScheduler(*devices))


async def test_a_snapshot_says_what_a_device_does_and_stays_as_it_is(inside: Inside) -> None:
    (idle,) = inside.dispatcher.devices()
    assert idle == DeviceStatus(name="fake:0")

    running = await busy(inside)
    (now,) = inside.dispatcher.devices()
    assert (now.model, now.loading, now.is_busy) == (MODEL, None, True)
    assert not idle.is_busy
    with pytest.raises(FrozenInstanceError):
        now.is_busy = False  # type: ignore[misc]

    await inside.service.cancel("", running.id)
    (done,) = await inside.enqueue()
    await inside.until(done)
    await eventually(lambda: not inside.dispatcher.devices()[0].is_busy)
    assert inside.dispatcher.devices()[0].stats == GenerationStats(1, 1, 2, 0)


async def test_a_snapshot_says_how_far_a_load_is_and_why_it_failed(inside: Inside) -> None:
    inside.engine.loading.clear()
    inside.engine.load_errors.append(load_failure("No weights."))
    inside.dispatcher.activate(inside.service.entry(MODEL))
    await eventually(lambda: inside.dispatcher.devices()[0].loading == 0.0)

    inside.engine.loading.set()
    await eventually(lambda: inside.dispatcher.devices()[0].error == "No weights.")
    (status,) = inside.dispatcher.devices()
    assert (status.model, status.loading, status.health, status.failures) == (None, None, Health.HEALTHY, 0)


async def test_readiness_and_plans_come_from_the_snapshots_of_any_scheduler(inside: Inside) -> None:
    schedule_by(inside, WELL, FAILING)

    well, failing = (await readiness(inside.service))["devices"]

    assert well["memory"] == {"free": 3, "total": 80}
    assert (well["compile_error"], failing["compile_error"]) == ("no compiler", None)
    assert (well["device"], well["busy"], well["error"], well["retry_in"]) == ("host-a/cuda:0", True, None, None)
    assert {name: failing[name] for name in ("loading", "health", "failures", "retry_in", "error")} == {
        "loading": 0.5,
        "health": "unhealthy",
        "failures": 7,
        "retry_in": 30.2,
        "error": "it fell off the bus",
    }
    assert (well["drain"], failing["drain"]) == (None, None)
    assert inside.service.plan(MODEL) == "streamed"
    assert inside.service.plan("another") is None
    schedule_by(inside, FAILING)
    with pytest.raises(UnavailableError, match=r"host-b/cuda:0 .* it fell off the bus\. .* in 31 seconds"):
        await readiness(inside.service)


async def test_a_drained_device_is_told_and_does_not_count_as_ready(inside: Inside) -> None:
    schedule_by(inside, WELL, DRAINED)
    assert [device["drain"] for device in (await readiness(inside.service))["devices"]] == [None, "drained"]

    schedule_by(inside, DRAINED, DeviceStatus(name="host-d/0", drain=Drain.DRAINING), FAILING)
    with pytest.raises(UnavailableError) as refused:
        await readiness(inside.service)

    said = str(refused.value)
    assert "The device host-c/0 is drained: `paddock cluster undrain` lets its host back." in said
    assert "The device host-d/0 is being drained" in said
    assert "it fell off the bus" in said


def test_metrics_tell_devices_apart_by_their_names() -> None:
    metrics = Metrics(Broker(), lambda: [WELL, FAILING, DRAINED])

    families = text_string_to_metric_families(metrics.render(0, None).decode())

    found: dict[tuple[str, ...], Any] = {}
    for family in families:
        for sample in family.samples:
            if "device" in sample.labels:
                found[sample.name, *sorted(sample.labels.values())] = sample.value
    assert found == {
        ("paddock_device_busy", "host-a/cuda:0"): 1,
        ("paddock_device_busy", "host-b/cuda:0"): 0,
        ("paddock_device_busy", "host-c/0"): 0,
        ("paddock_device_healthy", "host-a/cuda:0"): 1,
        ("paddock_device_healthy", "host-b/cuda:0"): 0,
        ("paddock_device_healthy", "host-c/0"): 1,
        ("paddock_device_draining", "host-a/cuda:0"): 0,
        ("paddock_device_draining", "host-b/cuda:0"): 0,
        ("paddock_device_draining", "host-c/0"): 1,
        ("paddock_device_memory_bytes", "free", "host-a/cuda:0"): 3,
        ("paddock_device_memory_bytes", "host-a/cuda:0", "total"): 80,
        ("paddock_worker_starts_total", "host-a/cuda:0"): 2,
        ("paddock_worker_starts_total", "host-b/cuda:0"): 0,
        ("paddock_worker_starts_total", "host-c/0"): 0,
        ("paddock_prompt_cache_requests_total", "hit", "host-a/cuda:0"): 2,
        ("paddock_prompt_cache_requests_total", "host-a/cuda:0", "miss"): 1,
        ("paddock_prompt_cache_requests_total", "hit", "host-b/cuda:0"): 0,
        ("paddock_prompt_cache_requests_total", "host-b/cuda:0", "miss"): 0,
        ("paddock_denoising_steps_total", "computed", "host-a/cuda:0"): 30,
        ("paddock_denoising_steps_total", "host-a/cuda:0", "skipped"): 4,
        ("paddock_denoising_steps_total", "computed", "host-b/cuda:0"): 0,
        ("paddock_denoising_steps_total", "host-b/cuda:0", "skipped"): 0,
        ("paddock_prompt_cache_requests_total", "hit", "host-c/0"): 0,
        ("paddock_prompt_cache_requests_total", "host-c/0", "miss"): 0,
        ("paddock_denoising_steps_total", "computed", "host-c/0"): 0,
        ("paddock_denoising_steps_total", "host-c/0", "skipped"): 0,
    }
