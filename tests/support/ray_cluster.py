"""A Ray cluster on loopback for tests: `python -m tests.support.ray_cluster NODES DEVICES` runs it until stdin ends."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from server.engine.ray.options import HOST_THREADS, ray_environment

_LOOPBACK = "127.0.0.1"
_STORE_BYTES = 80_000_000


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A running cluster: its address (`host:port`), and by the names of its hosts their node ids and Ray processes."""

    address: str
    nodes: dict[str, str]
    raylets: dict[str, int]

    def processes(self, host: str) -> list[psutil.Process]:
        """All processes of a host, its workers among them."""
        raylet = psutil.Process(self.raylets[host])
        return [raylet, *raylet.children(recursive=True)]

    def workers(self, host: str) -> list[psutil.Process]:
        """The worker processes of a host, each below its actor."""
        found = []
        for process in self.processes(host):
            # it may end just now
            with suppress(psutil.NoSuchProcess):
                if "server.engine.worker" in " ".join(process.cmdline()):
                    found.append(process)
        return found


@contextmanager
def ray_cluster(data_dir: Path, *, hosts: int = 1, devices: int = 1, token: Path | None = None) -> Iterator[RayCluster]:
    """A cluster of some hosts, each with some CPU devices; all of them are processes of this machine."""
    environment = {**os.environ, **ray_environment(f"{_LOOPBACK}:0", token), "PADDOCK_DATA_DIR": str(data_dir)}
    if "OMP_NUM_THREADS" in environment:
        environment[HOST_THREADS] = environment["OMP_NUM_THREADS"]
    # a socket's path must be short
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    Path(folder, "ray").mkdir()
    environment["RAY_TMPDIR"] = folder
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.ray_cluster", str(hosts), str(devices)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the cluster did not start"
        yield RayCluster(**json.loads(line))
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Start a cluster, print where it is, and stop it when stdin ends."""
    hosts, devices = int(sys.argv[1]), int(sys.argv[2])
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from ray.cluster_utils import Cluster

    from server.engine.ray.nodes import host_labels
    from server.engine.ray.options import device_resource

    cluster = Cluster()
    nodes, raylets = {}, {}
    for number in range(hosts):
        name = f"host-{number}"
        node = cluster.add_node(
            node_ip_address=_LOOPBACK,
            num_cpus=0,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            resources={device_resource(index): 1 for index in range(devices)},
            labels=host_labels(name, "demo"),
        )
        nodes[name] = node.node_id
        raylets[name] = node.all_processes["raylet"][0].process.pid
    print(json.dumps({"address": cluster.address, "nodes": nodes, "raylets": raylets}), file=answer, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
