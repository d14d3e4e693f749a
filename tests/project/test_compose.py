"""The compose files: what they name exists, and Paddock accepts the settings that they give it."""

import os
import re
import shutil
import subprocess
from ipaddress import ip_network
from typing import Any

import pytest
import yaml

from server.core.settings.settings import ENV_PREFIX, Settings
from tests.support.compose import ROOT, filled

FILES = ("compose.yaml", "compose.public.yaml")
GIVEN = {"PROXY_DOMAIN": "videos.example.org", "POSTGRES_PASSWORD": "a b:c@d/e", "HOME": "/home/someone"}
CADDYFILE = ROOT / "configs" / "proxy" / "Caddyfile"


def services(*files: str, **given: str) -> dict[str, Any]:
    """The services of these files, the environments of one in several files together."""
    found: dict[str, Any] = {}
    for file in files:
        content = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
        for name, service in content["services"].items():
            known = found.setdefault(name, {"environment": {}, "volumes": []})
            known["environment"] |= {
                key: filled(value, {**GIVEN, **given}) for key, value in service.get("environment", {}).items()
            }
            known["volumes"] += service.get("volumes", [])
            known["ports"] = [*known.get("ports", []), *service.get("ports", [])]
    return found


@pytest.mark.parametrize("files", [FILES[:1], FILES], ids="+".join)
@pytest.mark.parametrize("prefix", ["", "/paddock"])
def test_the_settings_exist_and_are_valid(files: tuple[str, ...], prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = services(*files, PROXY_PREFIX=prefix)["paddock"]["environment"]
    ours = {name.removeprefix(ENV_PREFIX).lower() for name in environment if name.startswith(ENV_PREFIX)}
    assert ours
    assert ours <= Settings.model_fields.keys()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    settings = Settings.load()

    if len(files) > 1:
        assert settings.public_url == f"https://videos.example.org{prefix}"
        assert settings.public_path == prefix
        assert settings.database_url is not None
        # the password is not in it: any of its characters are fine
        assert GIVEN["POSTGRES_PASSWORD"] not in settings.database_url


def test_only_the_containers_network_is_trusted_and_only_the_proxy_is_published() -> None:
    public = yaml.safe_load((ROOT / FILES[1]).read_text(encoding="utf-8"))
    ((subnet,),) = (network["ipam"]["config"] for network in public["networks"].values())
    found = services(*FILES)

    assert filled(subnet["subnet"], GIVEN) == found["paddock"]["environment"]["PADDOCK_TRUSTED_PROXIES"]
    assert ip_network(filled(subnet["subnet"], GIVEN)).is_private
    assert found["paddock"]["ports"] == ["127.0.0.1:8000:8000"]
    assert found["postgres"]["ports"] == []
    assert found["caddy"]["ports"] == ["80:80", "443:443"]


def test_files_and_volumes_exist() -> None:
    declared = {name for file in FILES for name in yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["volumes"]}
    sources = [volume.split(":")[0] for service in services(*FILES).values() for volume in service["volumes"]]

    local = [source for source in sources if source.startswith("./")]
    assert local == ["./configs/proxy/Caddyfile"]
    assert all((ROOT / source).is_file() for source in local)
    assert {source for source in sources if source[0] not in "./$"} == declared


def test_the_caddyfile_reads_the_variables_that_it_is_given() -> None:
    environment = services(*FILES)["caddy"]["environment"]

    assert environment.keys() == set(re.findall(r"\{\$(\w+)[:}]", CADDYFILE.read_text(encoding="utf-8")))
    host, port = environment["PROXY_UPSTREAM"].split(":")
    assert host in services(*FILES)
    assert f"EXPOSE {port}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_what_must_be_given_has_no_default() -> None:
    for name in ("PROXY_DOMAIN", "POSTGRES_PASSWORD"):
        text = (ROOT / FILES[1]).read_text(encoding="utf-8")
        with pytest.raises(KeyError, match=name):
            filled(text, {key: value for key, value in GIVEN.items() if key != name})


@pytest.mark.parametrize("files", [FILES, ("compose.servers.yaml",)], ids="+".join)
def test_compose_itself_accepts_the_files(files: tuple[str, ...]) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    options = [part for file in files for part in ("-f", file)]

    subprocess.run(
        [docker, "compose", *options, "config", "--quiet"], cwd=ROOT, env={**os.environ, **GIVEN}, check=True
    )
