"""`paddock doctor` finds what is wrong with a machine, and says how to fix it."""

import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipelines.core.compile_failures import CompileFailure, compile_failures
from pipelines.models.catalogue import DEFAULT_MODEL
from pipelines.planning.layout import GIB
from server.cli import plan
from server.cli.doctor import devices, machine
from server.cli.doctor import models as models_check
from server.cli.doctor.examine import examine
from server.cli.doctor.finding import Finding, Verdict
from server.core.settings.settings import Settings
from server.runtime import preflight
from tests.support.chat_server import MODEL, ChatServer, sending
from tests.support.object_store import nowhere
from tests.support.server_process import ServerProcess, free_port, model_on

GPU = {"name": "cuda:0", "description": "Some GPU", "memory": 24 * GIB, "capability": [8, 9]}


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The CUDA devices that are found, with a PyTorch that supports them."""
    found = [dict(GPU)]
    for module in (devices, plan, preflight):
        monkeypatch.setattr(module, "cuda_devices", lambda: found)
        if hasattr(module, "version"):
            monkeypatch.setattr(module, "version", lambda _: "2.13.0")
    return found


def examined(tmp_path: Path, **settings: Any) -> dict[str, Finding]:
    """The findings by subject."""
    chosen = {"data_dir": tmp_path / "data", "port": free_port(), "demo": True, **settings}
    return {found.about: found for found in examine(Settings(**chosen))}


def failures(found: dict[str, Finding]) -> dict[str, str]:
    return {about: each.sentence for about, each in found.items() if each.verdict is Verdict.FAIL}


def test_a_good_machine_passes_and_is_left_unchanged(tmp_path: Path) -> None:
    found = examined(tmp_path)

    assert failures(found) == {}
    assert list(found)[:2] == ["data directory", "disk"]
    assert found["device"].sentence == "The demo runs on cpu."
    assert "H.264" in found["ffmpeg"].sentence
    assert not list(tmp_path.iterdir())


def test_the_folder_of_loras_is_looked_at(tmp_path: Path) -> None:
    assert "LoRAs" not in examined(tmp_path)
    assert examined(tmp_path, loras_dir=tmp_path)["LoRAs"].verdict is Verdict.WARN
    (tmp_path / "film.safetensors").touch()
    assert examined(tmp_path, loras_dir=tmp_path)["LoRAs"].sentence == f"1 in {tmp_path}."
    missing = examined(tmp_path, loras_dir=tmp_path / "missing")
    assert "Set loras_dir to another folder" in failures(missing)["LoRAs"]


def test_a_gpu_is_reported_with_the_plan_of_its_weights(
    gpus: list[dict[str, Any]], tmp_path: Path, weights_folder: Path
) -> None:
    found = examined(tmp_path, demo=False, models_dir=model_on(weights_folder, tmp_path))

    assert failures(found) == {}
    assert found["cuda:0"].sentence == "Some GPU, 26 GB, compute capability 8.9, PyTorch 2.13.0."
    assert any("GiB of GPU memory" in each.sentence for each in found.values())


def test_the_free_memory_of_a_gpu_is_told_if_it_is_known(tmp_path: Path, gpus: list[dict[str, Any]]) -> None:
    gpus[0]["free"] = 2 * 10**9

    found = examined(tmp_path, demo=False)

    assert found["cuda:0"].sentence.startswith("Some GPU, 26 GB, of which 2 GB are free, compute capability 8.9")


@pytest.mark.parametrize(
    ("capability", "verdict", "word"),
    [
        ([6, 1], Verdict.FAIL, "6.1: PyTorch has no kernels"),
        ([7, 5], Verdict.WARN, "slowly"),
        ([12, 0], Verdict.OK, "12.0"),
    ],
)
def test_a_gpu_is_judged_by_its_compute_capability(
    gpus: list[dict[str, Any]], tmp_path: Path, capability: list[int], verdict: Verdict, word: str
) -> None:
    gpus[0]["capability"] = capability

    found = examined(tmp_path, demo=False)["cuda:0"]

    assert found.verdict is verdict
    assert word in found.sentence


def test_a_model_that_does_not_fit_is_reported_with_the_shortfall(
    gpus: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus[0]["memory"] = 4 * GIB
    monkeypatch.setattr(models_check.weights, "locate", lambda _: tmp_path)

    found = examined(tmp_path, demo=False)

    assert found[DEFAULT_MODEL].verdict is Verdict.FAIL
    assert "832x480 does not fit. It needs" in found[DEFAULT_MODEL].sentence
    assert "paddock plan" in found[DEFAULT_MODEL].sentence


def test_an_object_store_is_written_and_read(tmp_path: Path, bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "files" not in examined(tmp_path)
    found = examined(tmp_path, files_url=bucket_url, redirect_links=True)["files"]
    assert (found.verdict, found.sentence) == (Verdict.OK, f"{bucket_url} can be written and read.")

    away = nowhere(monkeypatch)
    sentence = failures(examined(tmp_path, files_url=away))["files"]
    assert sentence.startswith(f"The files cannot be kept in {away}: the object store failed or cannot be reached.")
    assert "set files_url, or leave redirect_links out" in failures(examined(tmp_path, redirect_links=True))["files"]
    assert "set files_url, too" in failures(examined(tmp_path, files_credentials=tmp_path / "keys"))["files"]


def test_the_language_model_is_asked(tmp_path: Path, chat: ChatServer) -> None:
    assert "language model" not in examined(tmp_path)
    found = examined(tmp_path, **chat.settings())["language model"]
    assert found.verdict is Verdict.OK
    assert re.fullmatch(rf"{MODEL} answered after \d+\.\d s\.", found.sentence)

    chat.answer = sending(b"", 404)
    found = examined(tmp_path, **chat.settings())["language model"]
    assert found.verdict is Verdict.WARN
    assert (
        found.sentence == f"The endpoint {chat.url} answers with HTTP status 404: prompts of {MODEL} are not enhanced."
    )
    assert "belong together" in failures(examined(tmp_path, enhance_url=chat.url))["language model"]


def test_the_language_model_is_not_asked_before_a_download(tmp_path: Path, chat: ChatServer) -> None:
    settings = Settings(data_dir=tmp_path / "data", port=free_port(), demo=True, **chat.settings())

    assert "language model" not in {each.about for each in examine(settings, asks=False)}
    assert chat.asked == []


def test_a_local_language_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "instruct.gguf").touch()
    found = examined(tmp_path, enhance_folder=tmp_path / "instruct.gguf")["language model"]
    assert (found.verdict, found.sentence) == (Verdict.OK, f"instruct.gguf is in {tmp_path}.")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        yield other.getsockname()[1]


def test_each_failure_says_how_to_fix_it(
    tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch, weights_folder: Path
) -> None:
    monkeypatch.setattr(machine, "_HTTP_SECONDS", 0.2)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    exhausted = SimpleNamespace(free=10**6, available=10**6, total=10**9)
    monkeypatch.setattr(psutil, "disk_usage", lambda _: exhausted)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: exhausted)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: exhausted)

    found = examined(tmp_path, demo=False, port=taken, host="127.0.0.1", data_dir=Path("/proc/paddock"))
    failed = failures(found)

    assert "Choose another with --data-dir" in failed["data directory"]
    assert "min_free_bytes" in failed["disk"]
    assert "Choose another with --port" in failed[f"port {taken}"]
    assert "pip install" in failed["ffmpeg"]
    assert "--demo" in failed["GPUs"]
    assert "paddock pull" in failed["weights"]
    assert "The weights need 77 GB to download in" in failed["disk for weights"]
    assert "set HF_HOME" in failed["disk for weights"]
    assert "paddock key add" in failures(examined(tmp_path, host="0.0.0.0"))["access"]  # noqa: S104
    assert examined(tmp_path)["host memory"].verdict is Verdict.WARN


def test_partial_downloads_and_converted_weights_count(
    gpus: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a card that is too small for exact weights, and a host without the memory to stream them
    gpus[0] |= {"memory": 12 * GIB, "capability": [8, 6]}
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB, available=16 * GIB))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    blobs = tmp_path / "hub" / "models--Wan-AI--Wan2.1-T2V-14B-Diffusers" / "blobs"
    converted = tmp_path / "data" / "cache" / "weights" / "one"
    for folder in (blobs, converted):
        folder.mkdir(parents=True)

    def needs() -> list[int]:
        found = examined(tmp_path, demo=False)["disk for weights"].sentence
        return [int(size) for size in re.findall(r"(\d+) GB (?:to download|at most to convert)", found)]

    before = needs()
    for folder, size in ((blobs, 30), (converted, 5)):
        with (folder / "part").open("wb") as file:
            file.truncate(size * 10**9)

    assert len(before) == 2
    assert before[0] == 77
    assert [old - new for old, new in zip(before, needs(), strict=True)] == [30, 5]


def test_a_model_that_would_not_fit_is_reported_before_it_is_downloaded(
    gpus: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus[0]["memory"] = 4 * GIB
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))

    assert "832x480 does not fit. It needs" in failures(examined(tmp_path, demo=False))[DEFAULT_MODEL]


def test_the_kernel_of_fp8_attention_is_looked_for_if_it_is_set(
    gpus: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "find_spec", lambda name: None if name == "cudnn" else object())

    found = examined(tmp_path, demo=False, attention="fp8")

    assert "pip install 'paddock[fp8-attention]'" in failures(found)["fp8 attention"]
    assert "fp8 attention" not in examined(tmp_path, demo=False)


def test_a_build_of_torch_without_cuda_is_reported(
    gpus: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "version", lambda _: "2.13.0+cpu")

    assert "pip install --force-reinstall torch" in failures(examined(tmp_path, demo=False))["GPUs"]


def test_a_running_server_is_no_failure(server: ServerProcess) -> None:
    found = examined(server.data_dir.parent, port=server.port, data_dir=server.data_dir)

    assert failures(found) == {}
    assert found[f"port {server.port}"].sentence == "A Paddock server is running on it."


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where programs are looked for, and the one of Python's headers: both are there."""
    monkeypatch.setenv("PATH", str(tmp_path / "tools"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda *_: str(tmp_path / "tools"))
    (tmp_path / "tools").mkdir()
    for name in ("gcc", "g++", "Python.h"):
        (tmp_path / "tools" / name).touch(0o755)
    return tmp_path / "tools"


@pytest.mark.parametrize(
    ("missing", "settings", "said"),
    [
        (None, {"demo": False}, "gcc and Python's headers are there."),
        (
            "gcc",
            {"demo": False},
            "There is no gcc and no clang. Blocks are not compiled, and steps take up to 55 % longer.",
        ),
        ("Python.h", {"demo": False}, "Python.h is missing. Blocks are not compiled"),
        ("g++", {"demo": False}, "gcc and Python's headers are there."),
        ("g++", {"demo": True, "compile": "on"}, "There is no g++."),
        ("gcc", {"demo": False, "compile": "off"}, None),
        ("gcc", {"demo": True}, None),
        ("gcc", {"demo": False, "device": "cpu"}, None),
    ],
)
def test_what_compiling_needs_is_looked_for_where_blocks_are_compiled(
    gpus: list[dict[str, Any]],
    tools: Path,
    tmp_path: Path,
    missing: str | None,
    settings: dict[str, Any],
    said: str | None,
) -> None:
    assert gpus
    if missing is not None:
        (tools / missing).unlink()

    found = examined(tmp_path, **settings).get("compilation")

    assert (found is None) == (said is None)
    if found is not None and said is not None:
        assert said in found.sentence
        assert (found.verdict is Verdict.WARN) == ("there is no" in said.lower() or "missing" in said)


def test_a_compiler_that_a_variable_names_is_the_one_that_counts(
    gpus: list[dict[str, Any]], tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpus
    assert tools
    monkeypatch.setenv("CC", "gcc-99")

    assert "CC names no program: gcc-99." in examined(tmp_path, demo=False)["compilation"].sentence


def test_the_last_failure_of_the_compiler_is_told(gpus: list[dict[str, Any]], tools: Path, tmp_path: Path) -> None:
    assert gpus
    assert tools
    recorded = compile_failures(tmp_path / "data" / "cache")
    recorded.put("cuda:0", CompileFailure(0.0, "main.c:5:10: fatal error: Python.h: No such file or directory"))

    found = examined(tmp_path, demo=False)
    assert found["compilation on cuda:0"] == Finding(
        "compilation on cuda:0",
        Verdict.WARN,
        "It failed last on 1970-01-01 00:00 UTC, and steps take longer: "
        "main.c:5:10: fatal error: Python.h: No such file or directory",
    )
    recorded.remove("cuda:0")
    assert "compilation on cuda:0" not in examined(tmp_path, demo=False)
