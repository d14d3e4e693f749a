"""Metrics for Prometheus: counts since the start, and the state now.

The counts come from the events that subscribers get, so they agree with what clients see. No label contains a prompt, a
key or an id.
"""

import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from pipelines.core.progress import Stage
from server.core.circuit_breaker import Health
from server.core.events import Broker, Event, Live
from server.scheduler.interface import DeviceStatus

CONTENT_TYPE = CONTENT_TYPE_LATEST

_WAIT_BUCKETS = (0.1, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_STEP_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
_TOTAL_BUCKETS = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 2 * 3600)


class Metrics:
    """The metrics of one server; `clock` gives Unix seconds, as in the records."""

    def __init__(
        self, broker: Broker, devices: Callable[[], Sequence[DeviceStatus]], clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._steps: dict[tuple[str, int], tuple[int, float]] = {}
        self._registry = CollectorRegistry()
        self._ended = Counter(
            "paddock_generations", "Generations that have ended", ("model", "outcome"), registry=self._registry
        )
        self._waits = Histogram(
            "paddock_queue_wait_seconds",
            "Seconds from submission to the start of the first attempt",
            buckets=_WAIT_BUCKETS,
            registry=self._registry,
        )
        self._step_seconds = Histogram(
            "paddock_step_seconds",
            "Seconds of a denoising step",
            ("model",),
            buckets=_STEP_BUCKETS,
            registry=self._registry,
        )
        self._seconds = Histogram(
            "paddock_generation_seconds",
            "Seconds from the start to the finished video, of generations that succeeded",
            ("model",),
            buckets=_TOTAL_BUCKETS,
            registry=self._registry,
        )
        self._now = _Now(broker, devices)
        self._registry.register(self._now)
        broker.observe(self._note)

    def render(self, queued: int, free_bytes: int | None) -> bytes:
        """The metrics in Prometheus' text format, with the length of the queue and the free bytes on disk, if known."""
        self._now.queued, self._now.free_bytes = queued, free_bytes
        return generate_latest(self._registry)

    def _note(self, event: Event) -> None:
        if event.is_elsewhere:
            # that server counts it
            return
        generation = event.generation
        run = generation.id, generation.attempt
        if event.live is not None:
            self._note_progress(event, event.live, run)
            return
        self._steps.pop(run, None)
        self._ended.labels(generation.model, generation.status).inc()
        began, ended = generation.started_at, generation.completed_at
        if generation.artifact is not None and began is not None and ended is not None:
            self._seconds.labels(generation.model).observe(ended - began)

    def _note_progress(self, event: Event, live: Live, run: tuple[str, int]) -> None:
        now, generation = self._clock(), event.generation
        if live.stage is None:
            # an attempt has begun, and its worker has reported nothing yet
            self._steps.pop((generation.id, generation.attempt - 1), None)
            if generation.attempt == 1:
                self._waits.observe(max(0.0, now - generation.enqueued_at))
            return
        if live.stage != Stage.DENOISE or live.step is None:
            self._steps.pop(run, None)
            return
        before = self._steps.get(run)
        self._steps[run] = live.step, now
        if before is not None and live.step > before[0]:
            self._step_seconds.labels(generation.model).observe((now - before[1]) / (live.step - before[0]))


class _Now(Collector):
    """The state at the time of a request."""

    def __init__(self, broker: Broker, devices: Callable[[], Sequence[DeviceStatus]]) -> None:
        self._broker = broker
        self._devices = devices
        self.queued = 0
        self.free_bytes: int | None = None

    def collect(self) -> Iterable[Metric]:
        """The gauges, and the counts that devices keep themselves."""
        yield GaugeMetricFamily("paddock_queued", "Generations that wait", value=self.queued)
        yield GaugeMetricFamily(
            "paddock_subscribers", "Event streams, and requests that wait for a video", value=self._broker.subscribers
        )
        if self.free_bytes is not None:
            yield GaugeMetricFamily(
                "paddock_disk_free_bytes", "Free space on the disk of the data directory", value=self.free_bytes
            )
        devices = self._devices()
        yield _by_device(
            "paddock_device_busy", "1 while the device computes a video", devices, lambda device: device.is_busy
        )
        yield _by_device(
            "paddock_device_healthy",
            "0 while the device is quarantined after repeated failures, or has no room",
            devices,
            lambda device: device.health is not Health.UNHEALTHY,
        )
        yield _by_device(
            "paddock_device_draining",
            "1 while the device's host is drained, or is being drained",
            devices,
            lambda device: device.drain is not None,
        )
        memory = GaugeMetricFamily(
            "paddock_device_memory_bytes", "Memory of the device, free and in total", labels=("device", "kind")
        )
        for device in devices:
            if (seen := device.memory) is not None:
                memory.add_metric((device.name, "free"), seen.free)
                memory.add_metric((device.name, "total"), seen.total)
        yield memory
        starts = CounterMetricFamily("paddock_worker_starts", "Worker processes started", labels=("device",))
        for device in devices:
            starts.add_metric((device.name,), device.worker_starts)
        yield starts
        yield _counted(
            "paddock_prompt_cache_requests",
            "Prompts of finished videos, by whether they were in the cache",
            "result",
            [
                (device, {"hit": device.stats.prompts_cached, "miss": device.stats.prompts_encoded})
                for device in devices
            ],
        )
        yield _counted(
            "paddock_denoising_steps",
            "Denoising steps of finished videos, by whether the step cache skipped them",
            "how",
            [
                (device, {"computed": device.stats.steps_computed, "skipped": device.stats.steps_skipped})
                for device in devices
            ],
        )


def _counted(
    name: str, about: str, label: str, counts: Iterable[tuple[DeviceStatus, dict[str, int]]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, about, labels=("device", label))
    for device, by_value in counts:
        for value, count in by_value.items():
            family.add_metric((device.name, value), count)
    return family


def _by_device(
    name: str, about: str, devices: Sequence[DeviceStatus], value: Callable[[DeviceStatus], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=("device",))
    for device in devices:
        family.add_metric((device.name,), value(device))
    return family
