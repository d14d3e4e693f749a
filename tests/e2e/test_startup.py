"""The start of the server: memory, imports, the worker's start, and refused starts."""

import gc
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from server.core.settings.settings import Settings
from server.runtime.server import serve as serve_as
from tests.support.command_line import Typed
from tests.support.server_process import PATIENCE, ServerProcess, eventually, free_port, model_on

MEMORY_LIMIT = 150 * 2**20


@pytest.fixture
def serve(typed: Typed) -> Typed:
    """Run a `paddock serve` that is expected to exit by itself."""
    return lambda *args, **env: typed("serve", "--port", str(free_port()), *args, **{"CUDA_VISIBLE_DEVICES": "", **env})


def test_the_server_stays_small_and_does_not_map_torch(server: ServerProcess) -> None:
    server.wait_for(server.enqueue(), "succeeded")
    assert server.process is not None
    process = psutil.Process(server.process.pid)

    assert process.memory_info().rss < MEMORY_LIMIT
    mapped = {Path(region.path).name for region in process.memory_maps()}
    assert not {name for name in mapped if "torch" in name}


def test_the_server_does_not_import_torch() -> None:
    program = "import sys, json, server.runtime.app, server.cli.main; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(
        subprocess.run([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, check=True, text=True).stdout
    )

    assert not {"torch", "diffusers", "transformers", "numpy"} & set(modules)


def test_garbage_collection_is_enabled_after_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("configure", "run_checks", "_Server.run"):
        monkeypatch.setattr(f"server.runtime.server.{name}", lambda *_, **__: ["cpu"])
    gc.disable()
    try:
        serve_as(Settings(demo=True, data_dir=tmp_path, port=free_port()))
        assert gc.isenabled()
    finally:
        gc.enable()


def test_the_worker_starts_at_the_first_request_or_with_preload_at_start(
    start_server: Callable[..., ServerProcess],
) -> None:
    lazy = start_server(name="lazy")
    assert lazy.worker_pids() == []
    eager = start_server(name="eager", preload="wan-ai-wan2-1-t2v-14b-diffusers")
    assert len(eventually(eager.worker_pids, eager)) == 1


def test_an_idle_worker_exits_and_another_starts_on_demand(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(idle_unload="2")
    server.wait_for(server.enqueue(), "succeeded")
    (first,) = server.worker_pids()

    psutil.wait_procs([psutil.Process(first)], timeout=PATIENCE)

    assert server.worker_pids() == []
    server.wait_for(server.enqueue(), "succeeded")
    assert server.worker_pids() != [first]


def test_the_current_directory_cannot_shadow_the_packages(tmp_path: Path) -> None:
    for package in ("server", "pipelines"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('shadowed')")
    server = ServerProcess(tmp_path / "data")
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        server.start()
        server.wait_for(server.enqueue(), "succeeded")
    finally:
        os.chdir(before)
        server.close()


def test_without_weights_the_error_says_what_to_do(serve: Typed, tmp_path: Path) -> None:
    ended = serve("--data-dir", str(tmp_path), HF_HUB_CACHE=str(tmp_path / "empty"))

    assert ended.returncode == 2
    assert "No weights of Wan-AI/Wan2.1-T2V-14B-Diffusers" in ended.stderr
    assert "--demo" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_a_cuda_device_the_error_says_what_to_do(serve: Typed, tmp_path: Path, weights_folder: Path) -> None:
    ended = serve("--data-dir", str(tmp_path / "data"), PADDOCK_MODELS_DIR=str(model_on(weights_folder, tmp_path)))

    assert ended.returncode == 2
    assert "No CUDA device was found" in ended.stderr
    assert "--demo" in ended.stderr


@pytest.mark.parametrize(
    ("args", "env", "sentence"),
    [
        (["--demo", "--host", "0.0.0.0"], {}, "PADDOCK_API_KEYS"),  # noqa: S104 - it is refused
        (["--demo", "--port", "70000"], {}, "port: "),
        (["--demo", "--config", "missing.toml"], {}, "The configuration file missing.toml does not exist."),
        (["--demo"], {"PADDOCK_DEVICE": "tpu"}, "device: "),
        (["--demo"], {"PADDOCK_DATABASE_URL": "mysql://host/paddock"}, "database_url: "),
        (
            ["--demo"],
            {"PADDOCK_DATABASE_URL": "postgresql://me@/it?host=/nowhere"},
            "cannot be used: connection",
        ),
        (["--demo"], {"PADDOCK_PRELOAD": "nope"}, "preload: Model not found: nope"),
        (["--demo"], {"PADDOCK_MODELS_DIR": "/nowhere"}, "/nowhere: no such folder of models"),
        (
            ["--demo"],
            {"PADDOCK_LORAS_DIR": "/nowhere"},
            "loras_dir: The folder of LoRAs /nowhere cannot be read: No such",
        ),
        (["--demo", "--data-dir", "/proc/paddock"], {}, "The data directory /proc/paddock cannot be used: "),
        (["--demo", "--device", "cuda:7"], {}, "No CUDA device cuda:7 was found"),
    ],
)
def test_a_refused_start_prints_a_sentence_and_exits_with_2(
    args: list[str], env: dict[str, str], sentence: str, serve: Typed, tmp_path: Path
) -> None:
    if "--data-dir" not in args:
        args = [*args, "--data-dir", str(tmp_path)]
    ended = serve(*args, **env)

    assert ended.returncode == 2, ended.stderr
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_prints_a_sentence(server: ServerProcess, serve: Typed, tmp_path: Path) -> None:
    ended = serve("--demo", "--data-dir", str(tmp_path), "--port", str(server.port))

    assert ended.returncode == 2
    assert f"Cannot listen on 127.0.0.1 port {server.port}: Address already in use" in ended.stderr


def test_a_database_of_a_newer_version_prints_a_sentence(serve: Typed, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "paddock.db")) as newer, newer:
        newer.execute("CREATE TABLE alembic_version (version_num VARCHAR)")
        newer.execute("INSERT INTO alembic_version VALUES ('9999')")

    ended = serve("--demo", "--data-dir", str(tmp_path))

    assert ended.returncode == 2, ended.stderr
    assert "The database is of a newer version of Paddock" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_server_listens_beyond_loopback_with_a_key(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server("--host", "0.0.0.0", api_keys="secret")  # noqa: S104 - with a key

    assert server.http.get("/models").status_code == 401
    assert httpx.get(f"{server.url}/api/ai/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_a_refused_start_names_every_problem_at_once_and_changes_nothing(
    server: ServerProcess, serve: Typed, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    ended = serve(
        *("--data-dir", str(data), "--port", str(server.port), "--no-demo"),
        HF_HUB_CACHE=str(tmp_path / "empty"),
        PADDOCK_LORAS_DIR="/nowhere",
        PADDOCK_PRELOAD="nope",
        PADDOCK_DATABASE_URL="postgresql://me@/it?host=/nowhere",
    )

    assert ended.returncode == 2
    assert [sentence.split(":")[0] for sentence in ended.stderr.splitlines()] == [
        f"Cannot listen on 127.0.0.1 port {server.port}",
        "preload",
        "No weights of Wan-AI/Wan2.1-T2V-14B-Diffusers on this machine",
        "loras_dir",
        "No CUDA device was found. To try the server without one, run `paddock serve --demo`. To run the real weights "
        "on the CPU, which is very slow, run `paddock serve --device cpu`.",
        "The database postgresql+psycopg",
    ]
    assert not (data / "paddock.db").exists()
