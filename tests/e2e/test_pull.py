"""`paddock pull` on the command line, from a fake hub: killed and resumed, refused, and its weights served."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.cli.pull import LinePrinter, progress_lines
from tests.support.command_line import Typed
from tests.support.hub import Hub
from tests.support.server_process import PATIENCE, ServerProcess, eventually, free_port

ROOT = Path(__file__).parents[2]
LARGEST = "text_encoder/model.safetensors"
MODEL = "my-wan2-1-t2v-14b-diffusers"
CHUNK = 16 * 1024
# the library writes every 10 MB, which is more than all of the demo's weights
PADDOCK = (
    f"import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = {CHUNK}; from server.cli.main import main; main()"
)


@pytest.fixture
def hub(weights_folder: Path, tmp_path: Path) -> Iterator[Hub]:
    with Hub(Path(shutil.copytree(weights_folder, tmp_path / "repository"))) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a model whose repository is on the fake hub."""
    text = (ROOT / "configs" / "models" / "wan2.1-t2v-14b.toml").read_text()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.toml").write_text(
        text.replace('"Wan-AI/Wan2.1-T2V-14B-Diffusers"', f'"{Hub.repo}"').replace(
            '"wan-ai-wan2-1-t2v', '"my-wan2-1-t2v'
        )
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PADDOCK_MODELS_DIR", str(tmp_path / "models"))


@pytest.fixture
def start(cache: None, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `paddock pull` of that model, which writes in small chunks."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", PADDOCK, "pull", "--model", MODEL, *args],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def await_size(path: Path, size: int) -> None:
    eventually(lambda: path.exists() and path.stat().st_size >= size)


@pytest.mark.parametrize("signal_sent", [signal.SIGKILL, signal.SIGINT])
def test_a_pull_stopped_in_a_file_continues_from_there(
    hub: Hub,
    start: Callable[..., subprocess.Popen[str]],
    start_server: Callable[..., ServerProcess],
    tmp_path: Path,
    signal_sent: signal.Signals,
) -> None:
    size = len(hub.files()[LARGEST])
    hub.errors.stall_after[LARGEST] = size // 2
    blobs = tmp_path / "home" / "hub" / "models--Some--Model" / "blobs"
    partial = blobs / f"{hashlib.sha256(hub.files()[LARGEST]).hexdigest()}.pull.incomplete"
    first = start("--from", hub.url)
    await_size(partial, size // 2 - CHUNK)

    first.send_signal(signal_sent)
    _, complaints = first.communicate(timeout=PATIENCE)

    if signal_sent == signal.SIGINT:
        assert first.returncode == 130
        assert complaints == "Stopped. Run the same command again to continue.\n"
    kept = partial.stat().st_size
    assert size // 2 - CHUNK <= kept <= size // 2
    hub.errors.stall_after.clear()
    hub.requests.clear()
    second = start(HF_ENDPOINT=hub.url)
    printed, complaints = second.communicate(timeout=PATIENCE)

    assert second.returncode == 0, complaints
    (request,) = hub.gets(LARGEST)
    assert (request.start, request.sent) == (kept, size - kept)
    assert "Some/Model at 0123456 from http://127.0.0.1" in printed
    assert "of it downloaded." in printed
    assert "The weights are complete" in printed
    if signal_sent == signal.SIGKILL:
        served = start_server("--no-demo", "--device", "cpu")
        served.wait_for(served.enqueue(model=MODEL), "succeeded")


def test_files_that_are_here_are_not_downloaded_again(
    hub: Hub, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    start("--from", hub.url).communicate(timeout=PATIENCE)
    hub.requests.clear()

    printed, complaints = start("--from", f"{hub.url}/").communicate(timeout=PATIENCE)
    assert hub.sent() == 0, complaints
    assert "to download" not in printed
    printed, complaints = start("--from", hub.url, "--verify").communicate(timeout=PATIENCE)
    assert hub.sent() == 0, complaints
    assert "The weights are complete and verified" in printed
    # without a hub, only the index files show that the weights are complete
    away = start("--from", f"http://127.0.0.1:{free_port()}")
    printed, complaints = away.communicate(timeout=PATIENCE)
    assert away.returncode == 0, complaints
    assert "cannot be reached" in printed
    assert "complete, as their index files show" in printed


def test_a_folder_or_another_cache_is_checked_and_left_in_place(
    hub: Hub, start: Callable[..., subprocess.Popen[str]], tmp_path: Path, weights_folder: Path
) -> None:
    printed, complaints = start("--from", str(weights_folder)).communicate(timeout=PATIENCE)
    assert f'put repo = "{weights_folder}" into a copy of the model\'s file' in printed, complaints
    start("--from", hub.url).communicate(timeout=PATIENCE)

    other = start("--from", "home", HF_HOME=str(tmp_path / "elsewhere"))
    printed, complaints = other.communicate(timeout=PATIENCE)

    assert f"set HF_HUB_CACHE={tmp_path / 'home' / 'hub'} for" in printed, complaints
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("args", "env", "status", "sentence"),
    [
        (["--from", "nowhere"], {}, 2, "nowhere is neither a folder nor an address"),
        (["--from", "."], {}, 1, "is not a diffusers folder: it has no model_index.json"),
        (["--from", ".", "--verify"], {}, 2, "--verify compares checksums with a hub's"),
        (["--from", "http://127.0.0.1:9"], {}, 1, "The hub at http://127.0.0.1:9 cannot be reached"),
        ([], {"HF_HUB_OFFLINE": "1"}, 1, "HF_HUB_OFFLINE is set"),
        ([], {"PADDOCK_MODELS_DIR": "/nowhere"}, 2, "/nowhere: no such folder of models"),
        (["--model", "nope"], {}, 2, "Model not found: nope"),
        (["--config", "missing.toml"], {}, 2, "The configuration file missing.toml does not exist"),
    ],
)
def test_a_pull_that_cannot_work_is_refused_with_a_sentence(
    cache: None, typed: Typed, args: list[str], env: dict[str, str], status: int, sentence: str
) -> None:
    ended = typed("pull", "--model", MODEL, *args, **env)

    assert ended.returncode == status, ended.stderr
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_pull_says_first_what_else_keeps_a_server_from_starting(
    hub: Hub, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    missing = {"CUDA_VISIBLE_DEVICES": "", "PADDOCK_LORAS_DIR": "/nowhere"}
    printed, complaints = start("--from", hub.url, **missing).communicate(timeout=PATIENCE)

    before, _, after = printed.partition("Some/Model at")
    assert "`paddock serve` would still not start on this machine:\n" in before, complaints
    assert "  LoRAs: " in before
    assert "  GPUs: No CUDA device was found." in before
    assert "weights:" not in before
    assert "The weights are complete" in after
    again, complaints = start("--from", hub.url, **missing).communicate(timeout=PATIENCE)
    assert "would still not start" not in again, complaints


def test_without_a_terminal_progress_is_a_line_at_intervals() -> None:
    printed: list[str] = []
    now = 0.0
    on_progress = progress_lines(100_000_000_000, 20_000_000_000, printed.append, clock=lambda: now)

    for second in range(60):
        now = float(second)
        on_progress("vae/model.safetensors", 20_000_000_000 + second * 100_000_000)

    assert printed == [
        "23.0 GB of 100.0 GB, 100.0 MB/s, about 13 minutes left: vae/model.safetensors",
    ]


def test_lines_are_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    LinePrinter(Console(width=20))("a [bold] word and a line longer than the terminal")

    assert capsys.readouterr().out == "a [bold] word and a line longer than the terminal\n"
