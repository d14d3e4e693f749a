"""The project's own rules: structure of the packages, versions, pins, documented commands, the container."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
import yaml

from server import __version__

ROOT = Path(__file__).parents[2]
PACKAGES = ("server", "pipelines", "paddock")
UNLIMITED = ("server/storage/db/migrations/versions", "pipelines/demo/weights")
"""Folders whose number of files is not a matter of design."""

MOST_ENTRIES = 12
MOST_LINES = 350


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version_everywhere() -> None:
    newest = re.search(r"^## v(\S+)", read("CHANGELOG.md"), re.MULTILINE)

    assert newest is not None
    assert newest[1] == __version__ == version("paddock")
    assert (ROOT / "tests" / "data" / f"v{__version__}").is_dir(), "each release keeps a data directory for the next"


def test_documented_commands_and_links_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert {"install", "demo", "serve", "test", "check", "fix"} <= targets
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = read(document)
        assert set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= targets
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / link).exists(), f"{document}: {link}"


def tracked(*patterns: str) -> list[Path]:
    """Files under version control, as paths relative to the project's folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    # a file that is moved but not committed yet is listed, too
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).exists()]


def is_module(name: str) -> bool:
    """Whether `python -m name` finds something to run: a module, or a package with a `__main__`."""
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize(
    "document", tracked("*.md", "*.toml", "Makefile", "Dockerfile", "compose.yaml", ".ci/*"), ids=str
)
def test_documented_modules_can_be_run(document: Path) -> None:
    ours = "|".join(path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file() or path.name == "docs")
    named = re.findall(rf"python3? (?:-\w+ )*-m ((?:{ours})(?:\.\w+)+)", read(str(document)))

    assert [name for name in named if not is_module(name)] == []


def test_no_folder_is_too_full() -> None:
    entries: dict[Path, set[str]] = {}
    for path in tracked(*PACKAGES):
        for child, folder in zip((path, *path.parents), path.parents, strict=False):
            entries.setdefault(folder, set()).add(child.name)

    counts = {
        str(folder): len(names - {"__init__.py"})
        for folder, names in entries.items()
        if folder != Path() and not f"{folder}/".startswith(tuple(f"{name}/" for name in UNLIMITED))
    }
    assert {folder: count for folder, count in counts.items() if count > MOST_ENTRIES} == {}


def test_no_module_is_too_long() -> None:
    lengths = {str(path): len(read(str(path)).splitlines()) for path in tracked("*.py") if path.parts[0] in PACKAGES}

    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("path", tracked("*__init__.py"), ids=str)
def test_a_package_says_what_it_is_for_and_does_nothing_else(path: Path) -> None:
    if path.parts[0] == "tests" and not read(str(path)):
        return
    docstring, *rest = ast.parse(read(str(path))).body

    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
    assert isinstance(docstring.value.value, str)
    if path == Path("paddock/__init__.py"):
        # the public API
        assert all(isinstance(each, ast.Import | ast.ImportFrom | ast.Assign) for each in rest)
    elif path == Path("server/__init__.py"):
        assert [ast.unparse(each).partition(" ")[0] for each in rest] == ["__version__"]
    else:
        assert rest == []


def test_every_package_that_is_installed_is_pinned() -> None:
    pins = dict(line.split("==") for line in read("constraints.txt").splitlines() if "==" in line)
    # a library may put what it has vendored on the path
    installed_to = [path for path in sys.path if Path(path).name == "site-packages"]
    pinned = {canonical(name): number for name, number in pins.items()}
    installed = {
        canonical(found.metadata["Name"]): found.version.split("+")[0] for found in distributions(path=installed_to)
    }

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
    paths = tracked()

    assert not {"uv.lock", "poetry.lock", "Pipfile.lock", "package-lock.json"} & {path.name for path in paths}
    registries = re.compile("|".join(("pypi" + r"\.org", "pythonhosted" + r"\.org", "registry" + r"\.npmjs")))
    for path in paths:
        if path.suffix in (".py", ".toml", ".md", ".txt", ".yaml", ".yml") or path.name in ("Makefile", "Dockerfile"):
            assert not registries.search(read(str(path))), path
