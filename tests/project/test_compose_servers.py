"""compose.servers.yaml: what its services name exists, waits for what it needs, and keeps secrets in files."""

import json
import os
import re
import subprocess
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from server.core.settings.settings import ENV_PREFIX, Settings
from server.runtime.server import STOP_SECONDS
from server.storage.db.connection import database_of
from server.storage.files.object_store.credentials import read_credentials
from tests.support.compose import ROOT, composed, image_environment

FILE = "compose.servers.yaml"
GIVEN = {"PROXY_DOMAIN": "videos.example.org", "HOME": "/home/someone"}
SERVERS = ("one", "two")
MOUNTED = "/run/secrets/"


@pytest.fixture
def content() -> dict[str, Any]:
    return composed(FILE, GIVEN)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the documented command makes."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run(["sh", ROOT / "configs" / "compose" / "secrets.sh", folder], check=True, capture_output=True)
    return folder


def seconds(duration: str) -> float:
    (number, unit) = re.fullmatch(r"(\d+)(s|m)", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


@pytest.mark.parametrize("prefix", ["", "/paddock"])
def test_the_settings_exist_and_are_valid(prefix: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = composed(FILE, {**GIVEN, "PROXY_PREFIX": prefix})["services"]
    assert services["one"]["environment"] == services["two"]["environment"]
    environment = image_environment() | services["one"]["environment"]
    for name in environment:
        assert not name.startswith(ENV_PREFIX) or name.removeprefix(ENV_PREFIX).lower() in {
            "config",
            *Settings.model_fields,
        }
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace(MOUNTED, f"{secrets}/"))

    settings = Settings.load()

    assert settings.public_url == f"https://videos.example.org{prefix}"
    assert settings.first_key
    assert settings.files_credentials == secrets / "object-store"
    assert database_of(settings).password == (secrets / "postgres-password").read_text()
    assert settings.stop_grace + STOP_SECONDS < seconds(services["one"]["stop_grace_period"])


def test_secrets_are_in_files_that_the_command_makes(content: dict[str, Any], secrets: Path) -> None:
    files = {name: secret["file"] for name, secret in content["secrets"].items()}
    assert {Path(file).name for file in files.values()} == {path.name for path in secrets.iterdir()} == set(files)
    assert {str(Path(file).parent) for file in files.values()} == {"secrets"}
    assert "/secrets/" in (ROOT / ".gitignore").read_text().split()
    for service in content["services"].values():
        named = re.findall(rf"{MOUNTED}([\w.-]+)", json.dumps(service))
        assert sorted(named) == sorted(service.get("secrets", []))
        assert not [name for name in service.get("environment", {}) if re.search(r"PASSWORD$|SECRET|ACCESS_KEY", name)]

    assert secrets.stat().st_mode & 0o777 == 0o700
    # users of containers, whose numbers are not this one's, read the files
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o644}
    (identity,) = json.loads((secrets / "seaweedfs.json").read_text())["identities"]
    (key,) = identity["credentials"]
    known = read_credentials(secrets / "object-store")
    assert known == {"AWS_ACCESS_KEY_ID": key["accessKey"], "AWS_SECRET_ACCESS_KEY": key["secretKey"]}
    bucket = content["services"]["one"]["environment"]["PADDOCK_FILES_URL"].removeprefix("s3://")
    assert identity["actions"] == [f"Read:{bucket}", f"Write:{bucket}", f"List:{bucket}"]
    assert f"-name {bucket} -owner {identity['name']}" in content["services"]["bucket"]["command"][0]
    kept = tomllib.loads((secrets / "paddock.toml").read_text())
    assert kept.keys() == {"storage"}
    assert kept["storage"].keys() == {"database_url"}


def test_secrets_are_not_made_twice(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}

    again = subprocess.run(
        ["sh", ROOT / "configs" / "compose" / "secrets.sh", secrets],
        env={**os.environ, "LC_ALL": "C"},
        check=False,
        capture_output=True,
        text=True,
    )

    assert again.returncode != 0
    assert "File exists" in again.stderr
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before


def test_hosts_networks_volumes_and_files_exist(content: dict[str, Any]) -> None:
    services = content["services"]
    networks = {name: set(service["networks"]) for name, service in services.items()}
    asked = set()
    for name, service in services.items():
        told = json.dumps([service.get("environment", {}), service.get("command", [])])
        for host in re.findall(r"(?:[ /@=\"])([a-z]+):\d+", told):
            assert networks[host] & networks[name], f"{name} cannot reach {host}"
            asked.add(host)
    assert asked == {*SERVERS, "seaweedfs"}
    database = tomllib.loads(re.sub(r"\$\w+", "x", _written("paddock.toml")))["storage"]["database_url"]
    assert "@postgres/paddock" in database
    assert services["postgres"]["environment"]["POSTGRES_USER"] == "paddock"
    assert set().union(*networks.values()) == content["networks"].keys()
    assert networks["caddy"] == {"proxy"}
    assert content["networks"]["storage"]["internal"]
    (subnet,) = content["networks"]["proxy"]["ipam"]["config"]
    assert subnet["subnet"] == services["one"]["environment"]["PADDOCK_TRUSTED_PROXIES"]
    assert ip_network(subnet["subnet"]).is_private
    sources = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    assert {source for source in sources if source[0] not in "./"} == content["volumes"].keys()
    assert all((ROOT / source).is_file() for source in sources if source.startswith("./"))
    assert [name for name, service in services.items() if "ports" in service] == ["caddy"]
    assert services["caddy"]["environment"]["PROXY_UPSTREAM"] == " ".join(f"{name}:8000" for name in SERVERS)
    # with a tag, so that a restart is no upgrade
    images = [service["image"] for service in services.values() if "image" in service]
    assert all(re.fullmatch(r"[\w/]+:[\w.]*\d[\w.]*", image) for image in images)


def _written(name: str) -> str:
    """What the command writes into a file, with its variables."""
    script = (ROOT / "configs" / "compose" / "secrets.sh").read_text()
    (text,) = re.findall(rf'/{re.escape(name)}" <<END\n(.*?)END\n', script, re.DOTALL)
    return str(text)


def test_services_start_in_order_and_share_no_gpu_or_folder(content: dict[str, Any]) -> None:
    services = content["services"]
    waits = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert {name: each["condition"] for name, each in waits["one"].items()} == {
        "postgres": "service_healthy",
        "bucket": "service_completed_successfully",
    }
    assert waits["bucket"] == {"seaweedfs": {"condition": "service_healthy"}}
    assert waits["two"] == {"one": {"condition": "service_healthy"}}
    for name, wanted in waits.items():
        for other, how in wanted.items() if isinstance(wanted, dict) else ():
            # the servers have the image's
            has_check = "healthcheck" in services[other] or "build" in services[other]
            assert has_check or how["condition"] != "service_healthy", f"{name} would wait for {other} for ever"
    gpus = [
        gpu
        for name in SERVERS
        for reserved in services[name]["deploy"]["resources"]["reservations"]["devices"]
        for gpu in reserved["device_ids"]
    ]
    assert len(set(gpus)) == len(gpus) == len(SERVERS)
    data = [
        volume.split(":")[0] for name in SERVERS for volume in services[name]["volumes"] if volume.endswith(":/data")
    ]
    assert len(set(data)) == len(SERVERS)
