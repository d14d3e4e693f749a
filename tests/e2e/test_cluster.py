"""A real server whose devices are those of a Ray cluster on loopback."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.ray_cluster import RayCluster, ray_cluster
from tests.support.server_process import SMALL, ServerProcess, eventually

LONG: dict[str, Any] = {**SMALL, "width": 256, "height": 256, "num_frames": 9, "num_inference_steps": 60, "seed": 5}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path / "hosts", hosts=2) as started:
        yield started


@pytest.fixture
def server(tmp_path: Path, cluster: RayCluster) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path / "data", ray_address=cluster.address, ray_checkpoint_interval="0.001")
    server.start()
    try:
        yield server
    finally:
        server.close()


def devices(server: ServerProcess) -> list[dict[str, Any]]:
    answer = httpx.get(f"{server.url}/readyz")
    return answer.json()["devices"] if answer.status_code == 200 else []


def test_a_lost_host_moves_its_generation_to_another_one(server: ServerProcess, cluster: RayCluster) -> None:
    eventually(lambda: len(devices(server)) == 2, server)
    assert sorted(device["device"] for device in devices(server)) == ["host-0/0", "host-1/0"]
    id_ = server.enqueue(**LONG)
    busy = eventually(lambda: [each["device"] for each in devices(server) if each["busy"]], server)[0]
    eventually(lambda: server.row(id_)["progress"] > 0.2, server)
    host = busy.partition("/")[0]
    lost = cluster.processes(host)
    for process in lost:
        process.kill()
    killed = time.monotonic()
    eventually(lambda: [each["device"] for each in devices(server)] != [busy] and len(devices(server)) == 1, server)
    print("gone from the list after", time.monotonic() - killed)
    row = server.wait_for(id_)
    assert row["status"] == "succeeded"
    print(server.log_text()[-3000:])
    psutil.wait_procs(lost, timeout=10)
