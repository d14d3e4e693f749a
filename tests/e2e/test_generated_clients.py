"""Clients that widely used generators make of the OpenAPI document generate a video and understand an error.

The generators and the libraries of their clients are installed into folders of the tests' own: with Paddock's they have
dependencies of other versions.
"""

import json
import os
import shutil
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

import server
from tests.support.server_process import ServerProcess, needs

# installing them takes minutes
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1200)]

OURS = Path(__file__).parent / "generated_clients"
SWAGGER_UI = Path(server.__file__).parent / "web" / "reference" / "swagger-ui"


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Run a program and return what it prints."""
    ended = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, check=False, text=True, timeout=900
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def install(command: Sequence[str | Path], cwd: Path) -> None:
    """Install packages. Without a source of packages the test is skipped, but fails in CI."""
    ended = subprocess.run(command, cwd=cwd, capture_output=True, check=False, text=True, timeout=900)
    if ended.returncode != 0:
        why = f"{command[0]} cannot install the generators: {(ended.stderr or ended.stdout).strip()[-500:]}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


@pytest.fixture(scope="module")
def python_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the generators in Python."""
    folder = tmp_path_factory.mktemp("python")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install([*pip, "--requirement", OURS / "requirements.txt"], folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of Node: a generator, the compiler and Swagger UI."""
    needs("node")
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(OURS / "package.json", folder)
    options = ("--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    install([needs("npm"), "install", *options], folder)
    return folder / "node_modules"


@pytest.fixture
def document(tenant: ServerProcess, tmp_path: Path) -> Path:
    """The running server's document, in a file."""
    path = tmp_path / "openapi.json"
    path.write_bytes(httpx.get(f"{tenant.url}/openapi.json").content)
    return path


def check(printed: str, server: ServerProcess) -> None:
    """Compare what a client has printed with the server's records."""
    said = json.loads(printed)
    row = server.row(said["generation"])
    assert row["status"] == said["status"] == "succeeded"
    assert len(httpx.get(row["result_url"]).content) == said["bytes"]
    assert httpx.get(said["url"]).headers["content-type"] == "video/mp4"
    assert said["error"] == "Model not found: unknown"


def compiled(folder: Path, node_modules: Path, main: str) -> Path:
    """Compile a program and the generated client beside it, with all of the compiler's strictness."""
    shutil.copy(OURS / main, folder / "main.ts")
    shutil.copy(OURS / "tsconfig.json", folder)
    (folder / "node_modules").symlink_to(node_modules)
    run(node_modules / ".bin" / "tsc", "--project", ".", cwd=folder)
    return folder / "built" / "main.js"


def test_openapi_python_client(
    tenant: ServerProcess, key: str, document: Path, python_tools: Path, tmp_path: Path
) -> None:
    generator = (python_tools / "openapi-python-client", "generate", "--meta", "none", "--fail-on-warning")
    config = ("--config", OURS / "openapi_python_client.yaml")
    # it formats the code with its own ruff
    path = f"{python_tools}:{os.environ['PATH']}"
    run(*generator, *config, "--path", document, "--output-path", "generated", cwd=tmp_path, PATH=path)
    main = shutil.copy(OURS / "openapi_python_client.py", tmp_path)

    check(run(python_tools / "python", main, tenant.url, key, cwd=tmp_path), tenant)


def generate_with_java(language: str, document: Path, python_tools: Path, folder: Path, *more: str) -> None:
    needs("java")
    command = (python_tools / "openapi-generator-cli", "generate", "--generator-name", language)
    run(*command, "--input-spec", document, "--output", folder, *more, cwd=document.parent)


def test_the_python_client_of_openapi_generator(
    tenant: ServerProcess, key: str, document: Path, python_tools: Path, tmp_path: Path
) -> None:
    generate_with_java("python", document, python_tools, tmp_path, "--package-name", "generated")
    main = shutil.copy(OURS / "openapi_generator.py", tmp_path)

    check(run(python_tools / "python", main, tenant.url, key, cwd=tmp_path), tenant)


def test_the_typescript_client_of_openapi_generator(
    tenant: ServerProcess, key: str, document: Path, python_tools: Path, node_modules: Path, tmp_path: Path
) -> None:
    generate_with_java("typescript-fetch", document, python_tools, tmp_path / "generated")
    main = compiled(tmp_path, node_modules, "openapi_generator.ts")

    check(run(needs("node"), main, tenant.url, key, cwd=tmp_path), tenant)


def test_openapi_typescript(
    tenant: ServerProcess, key: str, document: Path, node_modules: Path, tmp_path: Path
) -> None:
    run(node_modules / ".bin" / "openapi-typescript", document, "--output", "generated.ts", cwd=tmp_path)
    main = compiled(tmp_path, node_modules, "openapi_typescript.ts")

    check(run(needs("node"), main, tenant.url, key, cwd=tmp_path), tenant)


def test_the_files_of_swagger_ui_are_those_of_its_package(node_modules: Path) -> None:
    version = json.loads((OURS / "package.json").read_text())["dependencies"]["swagger-ui-dist"]
    assert f"`swagger-ui-dist` {version}," in (SWAGGER_UI / "README.md").read_text()
    for path in SWAGGER_UI.iterdir():
        if path.name != "README.md":
            assert path.read_bytes() == (node_modules / "swagger-ui-dist" / path.name).read_bytes(), path.name
