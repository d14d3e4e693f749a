"""What the documents promise, held against the house: versions, commands, pins, who can reach the container."""

import re
import subprocess
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path

import yaml

from server import __version__

ROOT = Path(__file__).parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version_everywhere() -> None:
    newest = re.search(r"^## v(\S+)", read("CHANGELOG.md"), re.MULTILINE)

    assert newest is not None
    assert newest[1] == __version__ == version("paddock")
    assert (ROOT / "tests" / "data" / f"v{__version__}").is_dir(), "each release keeps a data directory for the next"


def test_the_readmes_commands_and_links_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert {"install", "demo", "serve", "test", "check", "fix"} <= targets
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = read(document)
        assert set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= targets
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / link).exists(), f"{document}: {link}"
        for module in re.findall(r"python -m ([\w.]+)", text):
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), f"{document}: {module}"


def test_every_package_that_is_installed_is_pinned() -> None:
    pins = dict(line.split("==") for line in read("constraints.txt").splitlines() if "==" in line)
    pinned = {canonical(name): number for name, number in pins.items()}
    installed = {canonical(found.metadata["Name"]): found.version.split("+")[0] for found in distributions()}

    for name, number in installed.items():
        if name not in ("paddock", "pip", "setuptools"):
            assert pinned.get(name) == number, name


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_container_is_published_on_this_machine_only() -> None:
    service = yaml.safe_load(read("compose.yaml"))["services"]["paddock"]

    assert service["ports"] == ["127.0.0.1:8000:8000"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_the_wheel_and_the_container_carry_the_same_folders() -> None:
    packages = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert sorted(packages) == sorted(re.findall(r"^COPY (\w+) \w+$", read("Dockerfile"), re.MULTILINE))
    assert {f"!{package}" for package in packages} <= set(read(".dockerignore").split())


def test_no_lock_file_and_no_registry_is_named() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
    ).stdout.split()

    assert not {"uv.lock", "poetry.lock", "Pipfile.lock", "package-lock.json"} & {Path(name).name for name in tracked}
    registries = re.compile("|".join(("pypi" + r"\.org", "pythonhosted" + r"\.org", "registry" + r"\.npmjs")))
    for name in tracked:
        if Path(name).suffix in (".py", ".toml", ".md", ".txt", ".yaml", ".yml") or name in ("Makefile", "Dockerfile"):
            assert not registries.search(read(name)), name
