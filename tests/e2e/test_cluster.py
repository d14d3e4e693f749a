"""A real server whose devices are those of a Ray cluster on loopback, and the commands that start one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipelines.demo.folder import demo_folder
from pipelines.models.registry import family_of
from tests.support.models.loras import write_lora
from tests.support.ray_cluster import RayCluster, ray_cluster
from tests.support.server_process import ENDLESS, PATIENCE, SMALL, ServerProcess, eventually, needs
from tests.support.video import read_video

LONG: dict[str, Any] = {**SMALL, "width": 256, "height": 256, "num_frames": 9, "num_inference_steps": 40, "seed": 5}


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


def devices(server: ServerProcess) -> dict[str, dict[str, Any]]:
    """The devices by their names; none while the server is not ready."""
    answer = httpx.get(f"{server.url}/readyz")
    return {each["device"]: each for each in answer.json()["devices"]} if answer.status_code == 200 else {}


def test_a_lost_host_moves_its_generation_to_another_one(
    server: ServerProcess, cluster: RayCluster, tmp_path: Path
) -> None:
    eventually(lambda: len(devices(server)) == 2, server)
    assert set(devices(server)) == {"host-0/0", "host-1/0"}
    whole = server.video(server.enqueue(**LONG))
    id_ = server.enqueue(**LONG)
    eventually(lambda: server.row(id_)["progress"] > 0.2, server)
    (busy,) = [name for name, device in devices(server).items() if device["busy"]]
    lost = cluster.processes(busy.partition("/")[0])

    for process in lost:
        process.kill()

    assert server.video(id_) == whole
    row = server.row(id_)
    assert row["status"] == "succeeded"
    assert {row["execution"]["host"], busy.partition("/")[0]} == {"host-0", "host-1"}
    (other,) = eventually(lambda: found if len(found := devices(server)) == 1 else None, server)
    assert other != busy
    said = server.log_text()
    assert f"{busy}: its host has left the cluster" in said
    assert "the worker died" not in said
    assert not list((tmp_path / "data" / "checkpoints").iterdir())


@pytest.mark.heavy
def test_two_servers_share_the_devices_and_one_goes_on_when_the_other_is_killed(
    cluster: RayCluster, tmp_path: Path, bucket_url: str, postgres_url: str
) -> None:
    shared = {"files_url": bucket_url, "database_url": postgres_url, "ray_address": cluster.address, "lease": "3"}
    first, second = (
        ServerProcess(tmp_path / name, ray_checkpoint_interval="0.001", **shared) for name in ("first", "second")
    )
    try:
        first.start()
        eventually(lambda: len(devices(first)) == 2, first)
        whole = first.video(first.enqueue(**LONG))
        # the others need a device too
        first.video(first.enqueue())
        second.start()
        eventually(lambda: [each["used_elsewhere"] for each in devices(second).values()].count(True) >= 1, second)

        id_ = second.enqueue(**LONG)
        eventually(lambda: second.row(id_)["progress"] > 0.2, second)
        first.kill()

        assert second.video(id_) == whole
        eventually(lambda: not any(each["used_elsewhere"] for each in devices(second).values()), second)
        assert "Another server uses" not in second.log_text()
    finally:
        first.close()
        second.close()


def paddock(*arguments: str, data_dir: Path) -> "subprocess.CompletedProcess[str]":
    """A command of the cluster, as typed on a machine that has joined it."""
    command = [sys.executable, "-P", "-m", "server.cli", "cluster", *arguments, "--data-dir", str(data_dir)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)


def is_denoising(server: ServerProcess, id_: str) -> bool:
    return float(server.row(id_)["progress"]) > 0.2


def test_a_drained_host_saves_its_generation_and_takes_nothing_until_it_is_let_back(
    server: ServerProcess, cluster: RayCluster, tmp_path: Path
) -> None:
    eventually(lambda: len(devices(server)) == 2, server)
    whole = server.video(server.enqueue(**LONG))
    id_ = server.enqueue(**LONG)
    eventually(lambda: is_denoising(server, id_), server)
    (busy,) = [name for name, device in devices(server).items() if device["busy"]]
    host = busy.partition("/")[0]
    (other,) = {"host-0", "host-1"} - {host}
    data = tmp_path / "elsewhere"

    drained = paddock("drain", host, cluster.address, data_dir=data)

    assert drained.returncode == 0, (drained, server.log_text())
    assert drained.stdout.endswith(f"{host} is drained: no worker has a device of it, and it takes no new work.\n")
    assert cluster.workers(host) == []
    assert devices(server)[busy]["drain"] == "drained"
    assert f'paddock_device_draining{{device="{busy}"}} 1.0' in httpx.get(f"{server.url}/metrics").text
    listed = paddock("status", cluster.address, data_dir=data).stdout
    assert [line for line in listed.splitlines() if host in line and "drained" in line]
    assert server.video(id_) == whole
    assert "the worker died" not in server.log_text()

    assert server.video(server.enqueue(**SMALL))
    assert cluster.workers(host) == []
    assert paddock("undrain", host, cluster.address, data_dir=data).stdout == f"{host} takes work again.\n"
    eventually(lambda: devices(server)[busy]["drain"] is None, server)
    assert paddock("drain", other, cluster.address, data_dir=data).returncode == 0
    assert server.video(server.enqueue(**SMALL))
    assert cluster.workers(host)


def test_a_host_that_is_not_drained_in_time_or_not_there_is_a_sentence(
    server: ServerProcess, cluster: RayCluster, tmp_path: Path
) -> None:
    eventually(lambda: len(devices(server)) == 2, server)
    id_ = server.enqueue(**ENDLESS)
    eventually(lambda: server.row(id_)["progress"] > 0, server)
    (host,) = [name for name in cluster.nodes if cluster.workers(name)]
    unknown = paddock("drain", "nowhere", cluster.address, data_dir=tmp_path)
    (worker,) = cluster.workers(host)
    # its bridge lives on, and so does the claim
    worker.suspend()

    try:
        late = paddock("drain", host, cluster.address, "--timeout", "20", data_dir=tmp_path)
    finally:
        # the server may have ended it
        with suppress(psutil.NoSuchProcess):
            worker.resume()

    assert late.returncode == 1, late
    assert late.stdout == f"Waiting for {host}. A worker has its device 0.\n"
    assert f"{host} is not drained after 20 s. A worker has its device 0. It takes no new work." in late.stderr
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "No host of the cluster is named nowhere. Its hosts: host-0, host-1." in unknown.stderr


@pytest.mark.heavy
def test_a_lora_that_no_host_has_is_waited_for_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its file has come to the hosts it is tried again by itself, which takes up to half a minute."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    width = family_of("WanPipeline").read_shape(demo_folder()).transformer.width
    write_lora(here / "night.safetensors", width, ("blocks.0.attn1.to_q",))
    monkeypatch.setenv("PADDOCK_LORAS_DIR", str(there))
    with ray_cluster(tmp_path / "hosts", hosts=2) as cluster:
        server = ServerProcess(tmp_path / "data", ray_address=cluster.address, loras_dir=str(here))
        server.start()
        try:
            eventually(lambda: len(devices(server)) == 2, server)
            id_ = server.enqueue(loras=[{"name": "night", "strength": 1.0}])
            (said,) = eventually(lambda: server.row(id_)["warnings"], server)
            assert said == (
                "It waits, since every machine lacks files. On host-0: The LoRA night is not on this machine, or not "
                "any more. On host-1: The LoRA night is not on this machine, or not any more."
            )
            assert server.row(id_)["status"] == "queued"
            assert server.row(id_)["eta_seconds"] is None
            assert server.video(server.enqueue())

            (here / "night.safetensors").rename(there / "night.safetensors")

            assert server.video(id_)
            assert server.row(id_)["warnings"] == []
        finally:
            server.close()


def test_a_server_without_a_cluster_accepts_work_and_says_that_it_waits(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", ray_address="127.0.0.1:9")
    server.start()
    try:
        id_ = server.enqueue()
        answer = httpx.get(f"{server.url}/readyz")

        assert answer.status_code == 503
        assert "No device has joined the cluster." in answer.text
        assert server.row(id_)["status"] == "queued"
    finally:
        server.close()


def test_a_cluster_that_others_can_reach_needs_a_token(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "server.cli", "serve", "--demo", "--data-dir", str(tmp_path / "data")]
    environment = {**os.environ, "PADDOCK_RAY_ADDRESS": "10.0.0.5:6379"}

    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert refused.returncode == 2
    assert "The cluster's token is missing" in refused.stderr


SCRIPT = """
set -e
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
ip link set lo up
head="paddock cluster head --demo-devices 1 --name one --data-dir one"
join="paddock cluster join 127.0.0.1:6379 --demo-devices 2 --name two --port 7000 --data-dir two"
$head > head.log 2>&1 &
HEAD=$!
until grep -q "The head runs at" head.log; do sleep 0.2; kill -0 $HEAD; done
$join > early.log 2>&1 || true
mkdir -p two && echo 00000000000000000000000000000000 > two/cluster-token
$join > wrong.log 2>&1 || true
cp one/cluster-token two/
$join > join.log 2>&1 &
JOIN=$!
until grep -q "has joined" join.log; do sleep 0.2; kill -0 $JOIN; done
paddock cluster status 127.0.0.1:6379 --data-dir one > status.log 2>&1
mkdir data && cp one/cluster-token data/
paddock serve --demo --data-dir data --port 8123 > server.log 2>&1 &
SERVER=$!
until grep -q "two/1 has joined" server.log; do sleep 0.2; kill -0 $SERVER; done
paddock generate "a red circle" --url http://127.0.0.1:8123 --width 64 --height 64 --frames 5 --steps 2 -o video.mp4 \
    > generate.log 2>&1
ss -ltn > ports.log
kill -TERM $JOIN; wait $JOIN
until grep -q "two/0: its host has left" server.log; do sleep 0.2; kill -0 $SERVER; done
kill -TERM $SERVER; wait $SERVER || true
kill -TERM $HEAD; wait $HEAD
ss -ltn > open.log
"""


def alone(script: str, folder: Path) -> dict[str, str]:
    """Run a script in a folder and return its logs by their names.

    It has a network of its own, since `ray start` listens on the network card's address where there is one, and does
    not see the processes of others: `ray start` refuses the address of a head that it sees, even of another network.
    """
    unshare = needs("unshare")
    needs("ip")
    # a socket's path must be short
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PADDOCK_RAY_ADDRESS": "127.0.0.1:6379",
        "PADDOCK_RAY_TOKEN_FILE": "",
    }
    assert shutil.which("paddock", path=environment["PATH"])

    ran = subprocess.run(
        [unshare, "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--map-root-user", "bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )

    logs = {path.stem: path.read_text() for path in folder.glob("*.log")}
    assert ran.returncode == 0, (ran.stderr, logs)
    return logs


@pytest.mark.heavy
def test_two_commands_make_a_cluster_and_a_server_uses_it(tmp_path: Path) -> None:
    logs = alone(SCRIPT, tmp_path)

    assert "Copy the file to each machine" in logs["head"]
    assert "Copy the file cluster-token" in logs["early"]
    assert "refuses this machine's token" in logs["wrong"]
    assert [line.split()[1] for line in logs["status"].splitlines() if line.startswith("│")] == ["one", "two"]
    assert read_video(tmp_path / "video.mp4").shape == (5, 64, 64, 3)
    assert len(logs["open"].splitlines()) == 1
    ports = {int(line.split()[3].rpartition(":")[2]) for line in logs["ports"].splitlines()[1:]}
    documented = {8123, *range(6379, 6513), *range(7000, 7134)}
    assert {6379, 6380, 6381, 7001, 7002} <= ports <= documented
    token = (tmp_path / "one" / "cluster-token").read_text()
    assert not [name for name, text in logs.items() if token in text]


OPEN = """
set -e
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
ip link set lo up
export RAY_TMPDIR=$(mktemp -d /tmp/ray-XXXX)
python -m ray.scripts.scripts start --head --port 6379 --node-ip-address 127.0.0.1 --num-cpus 0 --block \
    --include-dashboard=false --no-monitor --disable-usage-stats --object-store-memory 80000000 > head.log 2>&1 &
HEAD=$!
until grep -q "Ray runtime started" head.log; do sleep 0.2; kill -0 $HEAD; done
mkdir two && echo 00000000000000000000000000000000 > two/cluster-token
join="paddock cluster join 127.0.0.1:6379 --demo-devices 1 --name two --port 7000 --data-dir two"
$join > join.log 2>&1 || echo $? > status.log
kill -TERM $HEAD; wait $HEAD || true
rm -r $RAY_TMPDIR
"""


@pytest.mark.heavy
def test_a_machine_does_not_stay_in_a_cluster_that_asks_for_no_token(tmp_path: Path) -> None:
    logs = alone(OPEN, tmp_path)

    assert "asks for no token" in logs["join"]
    assert "has joined" not in logs["join"]
    assert logs["status"].strip() == "1"
