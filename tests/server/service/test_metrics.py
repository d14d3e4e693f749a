"""Metrics: valid for Prometheus' own parser, true to what happened, and without private data."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.core.progress import Stage
from server.core.events import Broker, Event, Live
from server.core.generation import Generation, Origin, Status
from server.service.metrics import Metrics
from tests.support.server_process import MODEL, ServerProcess

DASHBOARD = json.loads((Path(__file__).parents[3] / "configs" / "grafana.json").read_text())

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def gained(before: Samples, after: Samples, name: str, label: str) -> dict[str, float]:
    """By how much a figure grew, by the values of a label."""
    return {dict(of)[label]: value - before[each, of] for (each, of), value in after.items() if each == name}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def scraped(broker: Broker, clock: Clock) -> Callable[[], Samples]:
    metrics = Metrics(broker, list, clock)
    return lambda: samples(metrics.render(3, 5000).decode())


GENERATION = Generation(
    id="an-id",
    tenant="a-key",
    origin=Origin.QUEUE,
    model="a-model",
    status=Status.PROCESSING,
    parameters={"prompt": "a secret"},
    enqueued_at=990.0,
    started_at=1000.0,
    attempt=1,
)


def test_waits_and_steps_are_timed(broker: Broker, clock: Clock, scraped: Callable[[], Samples]) -> None:
    broker.publish(Event(GENERATION, Live(0.0)))
    for step, seconds in ((0, 5.0), (1, 2.0), (2, 2.0), (4, 6.0)):
        clock.now += seconds
        broker.publish(Event(GENERATION, Live(0.1, stage=Stage.DENOISE, step=step, steps=4)))
    clock.now += 30
    broker.publish(Event(GENERATION, Live(0.9, stage=Stage.DECODE, step=1, steps=4)))

    found = scraped()

    assert (of(found, "paddock_queue_wait_seconds_count"), of(found, "paddock_queue_wait_seconds_sum")) == (1, 10)
    # what comes before the first step and after the last is no step; two at once are two
    assert of(found, "paddock_step_seconds_count", model="a-model") == 3
    assert of(found, "paddock_step_seconds_sum", model="a-model") == 2 + 2 + 3


def test_a_second_attempt_is_no_second_wait(broker: Broker, scraped: Callable[[], Samples]) -> None:
    broker.publish(Event(GENERATION, Live(0.0)))
    broker.publish(Event(replace(GENERATION, attempt=2), Live(0.0)))

    assert of(scraped(), "paddock_queue_wait_seconds_count") == 1


def test_outcomes_are_counted_for_all_tenants(broker: Broker, scraped: Callable[[], Samples]) -> None:
    done = replace(GENERATION, status=Status.SUCCEEDED, artifact="a-file", completed_at=1042.0)
    for generation in (done, replace(done, tenant="another"), replace(done, artifact=None, status=Status.FAILED)):
        broker.publish(Event(generation))

    found = scraped()

    assert of(found, "paddock_generations_total", model="a-model", outcome="succeeded") == 2
    assert of(found, "paddock_generations_total", model="a-model", outcome="failed") == 1
    assert of(found, "paddock_generation_seconds_sum", model="a-model") == 2 * 42
    assert (of(found, "paddock_queued"), of(found, "paddock_disk_free_bytes")) == (3, 5000)


def test_a_running_server_tells_what_it_did(server: ServerProcess) -> None:
    address = f"{server.url}/metrics"
    before = samples(httpx.get(address).text)
    server.wait_for(server.enqueue(prompt="a secret wish", num_inference_steps=3), "succeeded")

    answer = httpx.get(address)
    found = samples(answer.text)

    assert answer.headers["content-type"].startswith("text/plain; version=")
    about = {"model": MODEL, "outcome": "succeeded"}
    key = "paddock_generations_total", frozenset(about.items())
    assert found[key] >= before.get(key, 0) + 1
    assert of(found, "paddock_step_seconds_count", model=MODEL) >= 2
    assert of(found, "paddock_generation_seconds_count", model=MODEL) >= 1
    assert of(found, "paddock_device_healthy", device="cpu") == 1
    assert of(found, "paddock_worker_starts_total", device="cpu") >= 1
    assert "secret" not in answer.text
    # prompt and negative prompt, then both again
    server.wait_for(server.enqueue(prompt="a secret wish", num_inference_steps=3), "succeeded")
    again = samples(httpx.get(address).text)
    assert gained(found, again, "paddock_prompt_cache_requests_total", "result") == {"hit": 2, "miss": 0}
    assert gained(found, again, "paddock_denoising_steps_total", "how") == {"computed": 3, "skipped": 0}
    # all metrics that the dashboard queries exist
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    asked = set(re.findall(r"paddock_\w+", " ".join(queries)))
    there = set(re.findall(r"^(paddock_\w+)[ {]", answer.text, re.MULTILINE))
    described = set(re.findall(r"^# TYPE (paddock_\w+) ", answer.text, re.MULTILINE))
    assert len(asked) >= 10
    # a CPU has no memory of its own to report; the metric is described all the same
    assert asked <= there | described


def test_where_keys_are_needed_figures_need_one_too(keyed_server: ServerProcess, key: str) -> None:
    address = f"{keyed_server.url}/metrics"

    assert httpx.get(address).status_code == 401
    assert httpx.get(address, headers={"Authorization": f"Bearer {key}"}).status_code == 200
