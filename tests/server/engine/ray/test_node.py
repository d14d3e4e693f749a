"""How a machine's part of a cluster is started."""

import json
import stat
from pathlib import Path

import pytest

from server.engine.ray.actor import host_environment
from server.engine.ray.node import NodeOptions, make_token, node_environment, start_command
from server.engine.ray.nodes import DeviceKind
from server.engine.ray.options import BridgeOptions, is_loopback, ray_environment


def options(head: str | None = "10.0.0.1:6379", port: int = 7000) -> NodeOptions:
    return NodeOptions(head, "pc", port, DeviceKind.CUDA, (0, 1), Path("/data"), Path("/data/cluster-token"))


def value(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_the_head_listens_on_the_port_and_shows_no_dashboard() -> None:
    command = start_command(options(head=None))

    assert "--head" in command
    assert value(command, "--port") == "7000"
    assert "--include-dashboard=false" in command
    # it would listen on port 44217, for everybody
    assert "--no-monitor" in command
    assert "--block" in command


def test_a_node_joins_with_its_devices_and_nothing_that_others_could_use() -> None:
    command = start_command(options())

    assert value(command, "--address") == "10.0.0.1:6379"
    assert json.loads(value(command, "--resources")) == {"paddock-device-0": 1, "paddock-device-1": 1}
    assert (value(command, "--num-cpus"), value(command, "--num-gpus")) == ("0", "0")
    assert "paddock-host=pc" in value(command, "--labels").split(",")


def test_the_ports_of_a_node_follow_each_other() -> None:
    command = start_command(options())
    names = ("node-manager-port", "object-manager-port", "runtime-env-agent-port", "dashboard-agent-grpc-port")

    assert [int(value(command, f"--{name}")) for name in names] == [7001, 7002, 7003, 7004]
    assert [int(value(command, f"--{end}-worker-port")) for end in ("min", "max")] == [7006, 7133]


def test_the_token_is_named_by_its_file_never_on_the_command_line(tmp_path: Path) -> None:
    token = tmp_path / "new" / "cluster-token"
    assert make_token(token)
    content = token.read_text()
    assert not make_token(token)
    environment = node_environment(options(), {})

    assert token.read_text() == content
    assert len(content) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert (environment["RAY_AUTH_MODE"], environment["RAY_AUTH_TOKEN_PATH"]) == ("token", "/data/cluster-token")
    assert content not in " ".join(start_command(options()))


def test_a_worker_has_the_environment_that_its_host_was_started_with() -> None:
    started = node_environment(options(), {"HF_HOME": "/hub", "OMP_NUM_THREADS": "6", "RAY_ADDRESS": "elsewhere"})
    assert "RAY_ADDRESS" not in started
    # what Ray adds to an actor's
    found = {**started, "OMP_NUM_THREADS": "1", "RAY_JOB_ID": "01000000"}

    environment = host_environment(found, "cuda:1")

    assert environment["OMP_NUM_THREADS"] == "6"
    assert environment["HF_HOME"] == "/hub"
    assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert not [name for name in environment if name.startswith("RAY_")]
    assert "OMP_NUM_THREADS" not in host_environment({"OMP_NUM_THREADS": "1"}, "cpu")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:6379", True),
        ("[::1]:6379", True),
        ("localhost:1", True),
        ("10.0.0.5:6379", False),
        ("gpu-1:6379", False),
        ("auto", False),
    ],
)
def test_only_loopback_needs_no_token(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected
    assert ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in ray_environment(address, None)) is expected


def test_a_bridge_is_told_no_secret() -> None:
    assert not [name for name in BridgeOptions.model_fields if "token" in name]
