"""What an engine on a Ray cluster promises besides: every way in which a worker, its host or the bridge can be lost."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from pipelines.core.progress import Stage
from pipelines.core.request import RequestLora
from pipelines.demo.folder import demo_folder
from pipelines.models.catalogue import CatalogueEntry, read_catalogue
from server.engine.interface import (
    DeviceTakenError,
    DeviceUnavailableError,
    WeightsMissingError,
    WorkerDiedError,
    WorkerOptions,
)
from server.engine.ray.nodes import ClusterView
from server.engine.ray.options import BRIDGE, BRIDGE_EXITS, BridgeOptions, bridge_environment
from server.engine.ray.watch import MONITOR, cluster_views
from server.engine.subprocess.engine import SubprocessEngine
from server.runtime.draining import HostDrain
from tests.server.conftest import eventually
from tests.support.ray_cluster import RayCluster, ray_cluster
from tests.support.runs import LONG, PARAMS, job, run, start

ENTRY = next(iter(read_catalogue().values()))

MakeEngine = Callable[..., SubprocessEngine]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def cluster(hosts: Path) -> Iterator[RayCluster]:
    """Three hosts of two devices each; a test may lose the last."""
    with ray_cluster(hosts, hosts=3, devices=2) as started:
        yield started


@pytest_asyncio.fixture
async def make_engine(tmp_path: Path, weights_folder: Path, cluster: RayCluster) -> AsyncIterator[MakeEngine]:
    """Make engines on a host's first device; they are closed with the test."""
    engines = []

    def make(host: str = "host-0", index: int = 0, token: Path | None = None, **options: Any) -> SubprocessEngine:
        folders = {name: str(tmp_path / name) for name in ("artifacts", "checkpoints", "previews", "inputs")}
        for folder in folders.values():
            Path(folder).mkdir(exist_ok=True)
        given = {
            "device": "cpu",
            "cache": str(weights_folder.parent),
            "temporary": "",
            "demo": True,
            "address": cluster.address,
            "host": host,
            "node_id": cluster.nodes[host],
            "index": index,
            "checkpoint_interval": 1e-9,
        }
        engines.append(
            SubprocessEngine(
                f"{host}/{index}",
                BridgeOptions.model_validate({**given, **folders, **options}),
                cancel_grace=20,
                silence=60,
                worker=BRIDGE,
                environment=bridge_environment(cluster.address, token),
                blameless=BRIDGE_EXITS,
            )
        )
        return engines[-1]

    yield make
    for engine in engines:
        await engine.close()


def test_the_process_that_looks_for_hosts_ends_with_its_reader(cluster: RayCluster) -> None:
    command = [sys.executable, "-P", "-m", MONITOR, cluster.address]
    environment = bridge_environment(cluster.address, None)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as monitor:
        assert monitor.stdout is not None
        view = ClusterView.model_validate_json(monitor.stdout.readline())
        monitor.stdout.close()

        assert monitor.wait(30) == 0
    assert [host.name for host in view.hosts] == ["host-0", "host-1", "host-2"]
    assert view.error is None


def test_a_cluster_that_asks_for_no_token_is_not_used_by_who_has_one(cluster: RayCluster, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a" * 40)

    view = looked_at(cluster, token)

    assert view.hosts == ()
    assert view.error is not None
    assert view.error.startswith(f"The cluster at {cluster.address} asks for no token: ")
    assert view.is_permanent


def test_a_cluster_with_a_token_shows_its_hosts_to_who_has_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    token = tmp_path / "token"
    token.write_text("a" * 40)
    with ray_cluster(tmp_path_factory.mktemp("hosts"), token=token) as cluster:
        assert [host.name for host in looked_at(cluster, token).hosts] == ["host-0"]


def looked_at(cluster: RayCluster, token: Path | None) -> ClusterView:
    """What the process that looks for hosts says first."""
    command = [sys.executable, "-P", "-m", MONITOR, cluster.address]
    environment = bridge_environment(cluster.address, token)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as monitor:
        assert monitor.stdout is not None
        return ClusterView.model_validate_json(monitor.stdout.readline())


async def test_a_killed_worker_is_told_by_its_signal(make_engine: MakeEngine, cluster: RayCluster) -> None:
    engine = make_engine()
    await engine.load(ENTRY)
    running, _ = await start(engine, job(LONG))
    (worker,) = cluster.workers("host-0")

    worker.kill()

    with pytest.raises(WorkerDiedError, match=r"^it was killed by SIGKILL$"):
        await running
    # and the next one starts
    await engine.load(ENTRY)
    await run(engine, job())


async def test_a_killed_actor_is_no_lost_host(make_engine: MakeEngine, cluster: RayCluster) -> None:
    engine = make_engine()
    await engine.load(ENTRY)
    running, _ = await start(engine, job(LONG))
    (worker,) = cluster.workers("host-0")
    actor = worker.parent()
    assert actor is not None

    actor.kill()

    with pytest.raises(WorkerDiedError, match="its actor on host-0 has ended"):
        await running
    await eventually(lambda: not worker.is_running())


async def test_the_end_of_the_bridge_ends_the_worker(make_engine: MakeEngine, cluster: RayCluster) -> None:
    engine = make_engine()
    await engine.load(ENTRY)
    running, _ = await start(engine, job(LONG))
    (worker,) = cluster.workers("host-0")
    assert engine.state.pid is not None

    os.kill(engine.state.pid, signal.SIGKILL)

    with pytest.raises(WorkerDiedError):
        await running
    await eventually(lambda: not worker.is_running())


async def test_files_go_with_the_run_and_none_stays_on_the_host(
    make_engine: MakeEngine, hosts: Path, tmp_path: Path
) -> None:
    first, second = make_engine("host-0"), make_engine("host-1")
    params = replace(LONG, num_inference_steps=30)
    for engine in (first, second):
        await engine.load(ENTRY)
    await run(first, job(params, generation_id="whole"))
    running, _ = await start(first, job(params))
    await eventually((tmp_path / "checkpoints" / "g.1.ckpt").is_file)
    await first.close()
    with pytest.raises(WorkerDiedError):
        await running

    steps = [
        each.step
        for each in await run(second, job(params, attempt=2, resume_from="g.1.ckpt"))
        if each.stage is Stage.DENOISE
    ]

    assert steps[0] > 0
    made = tmp_path / "artifacts"
    assert (made / "g.2.mp4").read_bytes() == (made / "whole.1.mp4").read_bytes()
    scratch = hosts / "hosts" / "host-1" / "0"
    await eventually(
        lambda: not [each for name in ("artifacts", "checkpoints", "inputs") for each in (scratch / name).iterdir()]
    )


async def test_a_worker_whose_bridge_is_gone_ends_itself(make_engine: MakeEngine, cluster: RayCluster) -> None:
    """Ray may leave an actor for minutes whose node has died; here its bridge is frozen, and does not ping it."""
    engine = make_engine("host-1", index=1, lost_seconds=8)
    await engine.load(ENTRY)
    running, _ = await start(engine, job(LONG))
    (worker,) = cluster.workers("host-1")
    assert engine.state.pid is not None

    os.kill(engine.state.pid, signal.SIGSTOP)
    try:
        await eventually(lambda: not worker.is_running())
    finally:
        os.kill(engine.state.pid, signal.SIGCONT)
    with pytest.raises(WorkerDiedError):
        await running


async def test_a_device_that_another_server_uses_is_a_sentence(make_engine: MakeEngine, cluster: RayCluster) -> None:
    first = make_engine(index=1)
    await first.load(ENTRY)
    second = make_engine(index=1)

    with pytest.raises(DeviceTakenError, match=r"^Another server uses device 1 of host-0\.$"):
        await second.load(ENTRY)

    assert first.state.is_ready
    await first.close()
    await second.load(ENTRY)


async def test_the_cluster_says_which_devices_are_in_use(make_engine: MakeEngine, cluster: RayCluster) -> None:
    views = cluster_views(cluster.address, bridge_environment(cluster.address, None))
    engine = make_engine(index=1)

    async def until(in_use: bool) -> None:
        async for view in views:
            if (1 in next(host for host in view.hosts if host.name == "host-0").held) == in_use:
                return

    async with asyncio.timeout(60):
        await until(in_use=False)
        await engine.load(ENTRY)
        await until(in_use=True)
        await engine.close()
        await until(in_use=False)
    await views.aclose()


async def test_a_cluster_that_is_not_there_is_a_sentence(make_engine: MakeEngine) -> None:
    engine = make_engine(address="127.0.0.1:9", connect_seconds=3)

    with pytest.raises(DeviceUnavailableError, match=r"^The cluster at 127\.0\.0\.1:9 does not answer"):
        await engine.load(ENTRY)


async def test_a_lost_host_is_not_held_against_the_work(make_engine: MakeEngine, cluster: RayCluster) -> None:
    engine = make_engine("host-2")
    await engine.load(ENTRY)
    running, _ = await start(engine, job(LONG))

    for process in cluster.processes("host-2"):
        process.kill()

    with pytest.raises(DeviceUnavailableError, match="host host-2 is not reachable"):
        await running
    with pytest.raises(DeviceUnavailableError):
        await engine.load(ENTRY)


async def test_the_end_of_the_servers_own_node_is_not_held_against_the_work(
    make_engine: MakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Ray ends a process whose node has ended, and says nothing. On one address all processes are the first node's."""
    with ray_cluster(tmp_path_factory.mktemp("hosts"), hosts=2) as cluster:
        engine = make_engine("host-1", address=cluster.address, node_id=cluster.nodes["host-1"])
        await engine.load(ENTRY)
        running, _ = await start(engine, job(LONG))

        psutil.Process(cluster.raylets["host-0"]).kill()

        with pytest.raises(DeviceUnavailableError, match=r"^The Ray node on this machine has ended"):
            await running


async def test_a_video_has_the_bytes_of_one_made_on_this_machine(make_engine: MakeEngine, tmp_path: Path) -> None:
    there = make_engine()
    given = {name: value for name, value in there._options.model_dump().items() if name in WorkerOptions.model_fields}
    options = WorkerOptions.model_validate(given | {"temporary": str(tmp_path / "tmp")})
    here = SubprocessEngine("here", options, cancel_grace=20, silence=60)
    fingerprints = [(await engine.load(ENTRY)).fingerprint for engine in (there, here)]
    try:
        await run(there, job(generation_id="there"))
        await run(here, job(generation_id="here"))
    finally:
        await here.close()

    assert fingerprints[0] == fingerprints[1]
    made = tmp_path / "artifacts"
    assert (made / "there.1.mp4").read_bytes() == (made / "here.1.mp4").read_bytes()


async def test_weights_that_a_host_lacks_are_no_fault_of_the_work_and_leave_what_is_loaded(
    make_engine: MakeEngine, cluster: RayCluster
) -> None:
    engine = make_engine(demo=False)
    spec = replace(ENTRY.model.for_other_weights(), repo=str(demo_folder()), revision=None)
    there = CatalogueEntry(api=ENTRY.api, model=spec)
    missing = CatalogueEntry(api=ENTRY.api, model=replace(ENTRY.model, id="missing", repo="/nowhere/at/all"))
    with pytest.raises(WeightsMissingError, match=r"^On host-0: No weights of /nowhere/at/all on this machine"):
        await engine.load(missing)
    assert engine.state.model_id is None
    await engine.load(there)
    worker, plan = cluster.workers("host-0"), engine.state.plan

    with pytest.raises(WeightsMissingError, match=r"^On host-0: No weights of /nowhere/at/all on this machine"):
        await engine.load(missing)

    assert (engine.state.model_id, engine.state.plan) == (there.id, plan)
    assert (engine.state.error or "").startswith("On host-0: No weights")
    await run(engine, job())
    assert cluster.workers("host-0") == worker


async def test_a_lora_that_a_host_lacks_is_no_fault_of_the_work(make_engine: MakeEngine, cluster: RayCluster) -> None:
    engine = make_engine()
    await engine.load(ENTRY)
    (worker,) = cluster.workers("host-0")

    with pytest.raises(WeightsMissingError, match=r"^On host-0: The LoRA night is not on this machine"):
        await run(engine, job(replace(PARAMS, loras=(RequestLora("night"),))))

    assert engine.state.is_ready
    await run(engine, job(generation_id="next"))
    assert cluster.workers("host-0") == [worker]


async def test_a_host_that_is_drained_starts_no_worker_also_for_a_server_that_has_not_seen_it(
    make_engine: MakeEngine, cluster: RayCluster
) -> None:
    said: list[str] = []
    drain = HostDrain(cluster.address, bridge_environment(cluster.address, None), said.append)
    await drain.drain("host-1", 120)
    engine = make_engine("host-1")

    with pytest.raises(DeviceUnavailableError, match=r"^The host host-1 is drained\.$"):
        await engine.load(ENTRY)

    await eventually(lambda: not cluster.workers("host-1"))
    await drain.undrain("host-1")
    await drain.undrain("host-1")
    assert said == [
        "host-1 is drained: no worker has a device of it, and it takes no new work.",
        "host-1 takes work again.",
        "host-1 was not drained.",
    ]
    await engine.load(ENTRY)


async def test_a_wrong_token_is_a_sentence(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, weights_folder: Path
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("a" * 40)
    wrong.write_text("b" * 40)
    with ray_cluster(tmp_path_factory.mktemp("hosts"), token=right) as cluster:
        ((host, node_id),) = cluster.nodes.items()
        for token, refused in ((wrong, True), (None, True), (right, False)):
            options = BridgeOptions(
                device="cpu",
                **{name: str(tmp_path) for name in ("artifacts", "checkpoints", "previews", "inputs", "cache")},
                temporary="",
                demo=True,
                address=cluster.address,
                host=host,
                node_id=node_id,
                index=0,
            )
            engine = SubprocessEngine(
                host,
                options,
                cancel_grace=20,
                silence=60,
                worker=BRIDGE,
                environment=bridge_environment(cluster.address, token),
            )
            try:
                if refused:
                    with pytest.raises(DeviceUnavailableError, match="refuses this machine's token"):
                        await engine.load(ENTRY)
                else:
                    await engine.load(ENTRY)
            finally:
                await engine.close()
