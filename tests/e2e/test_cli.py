"""The commands that are clients of a server: demo, generate, status, cancel."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.command_line import Typed
from tests.support.server_process import ENDLESS, PATIENCE, ServerProcess, eventually, free_port
from tests.support.video import read_video

LONG = ["--width", "256", "--height", "256", "--frames", "9", "--steps", "100"]
SIZE = ["--width", "64", "--height", "64", "--frames", "5", "--steps", "2"]


def paddock(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "server.cli", *args],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **env},
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_demo_serves_until_it_is_ended_and_avoids_a_port_in_use(
    server: ServerProcess, tmp_path: Path, number: signal.Signals
) -> None:
    demo = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "server.cli",
            "demo",
            "--port",
            str(server.port),
            "--data-dir",
            tmp_path / "data",
        ],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1", "PADDOCK_API_KEYS": "not for the demo"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    line = next(line for line in demo.stdout if "Make your own at" in line)
    url = next(word for word in line.split() if word.startswith("http"))
    assert url != server.url
    assert f"generate 'An ox' --url {url}" in line
    assert httpx.get(f"{url}/healthz").status_code == 200
    family = psutil.Process(demo.pid).children(recursive=True)
    assert family

    demo.send_signal(number)
    demo.communicate(timeout=PATIENCE)

    assert demo.returncode == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_generate_is_a_client_of_any_server(server: ServerProcess, tmp_path: Path) -> None:
    ended = paddock("generate", "an ox", *SIZE, "--seed", "7", "-o", "ox.mp4", "--url", server.url, cwd=tmp_path)

    assert ended.returncode == 0, ended.stderr
    assert f"{tmp_path / 'ox.mp4'} (seed 7)" in ended.stdout
    assert read_video(tmp_path / "ox.mp4").shape == (5, 64, 64, 3)


def test_generate_makes_several_videos_in_seconds_and_in_a_ratio_and_opens_them(
    server: ServerProcess, tmp_path: Path
) -> None:
    opener = tmp_path / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    opener.chmod(0o755)
    size = ["--aspect", "1:1", "--duration", "0.3", "--steps", "1"]
    args = ["generate", "an ox", *size, "--seed", "7", "--count", "2", "-o", "ox.mp4", "--open", "--url", server.url]

    ended = paddock(*args, cwd=tmp_path, PATH=f"{opener.parent}:{os.environ['PATH']}", DISPLAY=":0")

    assert ended.returncode == 0, ended.stderr
    frames, height, width, _ = read_video(tmp_path / "ox-1.mp4").shape
    assert (frames, height / width) == (5, 1)
    assert "(seed 7)" in ended.stdout
    assert "(seed 8)" in ended.stdout
    assert (tmp_path / "ox-1.mp4").read_bytes() != (tmp_path / "ox-2.mp4").read_bytes()
    (tmp_path / "opened").touch()
    opened = eventually(lambda: lines if len(lines := (tmp_path / "opened").read_text().split()) == 2 else None)
    assert sorted(opened) == [str(tmp_path / "ox-1.mp4"), str(tmp_path / "ox-2.mp4")]


def test_generate_keeps_a_file_unless_told(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "ox.mp4").write_text("mine")
    args = ["generate", "an ox", *SIZE, "-o", "ox.mp4", "--open", "--url", server.url]

    refused = paddock(*args, cwd=tmp_path)
    assert refused.returncode == 1
    assert "ox.mp4 exists" in refused.stderr
    assert (tmp_path / "ox.mp4").read_text() == "mine"
    assert paddock(*args, "--force", cwd=tmp_path, PATH="/nowhere").returncode == 0
    assert read_video(tmp_path / "ox.mp4").shape == (5, 64, 64, 3)


def test_generate_asks_the_demo_for_a_size_that_takes_seconds(server: ServerProcess, tmp_path: Path) -> None:
    args = ("--steps", "1", "--url", server.url)
    small = paddock("generate", "an ox", *args, cwd=tmp_path)
    given = paddock("generate", "an ox", *args, *SIZE, cwd=tmp_path)

    assert "The demo's weights: width 416, height 240, num_frames 33" in small.stdout, small.stderr
    assert read_video(tmp_path / "video.mp4").shape == (33, 240, 416, 3)
    assert "The demo's weights" not in given.stdout
    assert read_video(tmp_path / "video-2.mp4").shape == (5, 64, 64, 3)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--frames", "121"], "The generation failed: num_frames must be an integer between 1 and 120"),
        (["--model", "nope"], "The server answered 404: Model not found: nope"),
        (["--lora", "nope:0.5"], "The generation failed: loras: nope is not a LoRA of"),
        (["--lora", "watercolor:much"], "after the colon there must be a strength such as 0.8"),
        (["-o", "missing/ox.mp4"], "There is no folder"),
        (
            ["--url", "http://127.0.0.1:9"],
            "No server answers at http://127.0.0.1:9: Connection refused. Start a server with `paddock serve`",
        ),
    ],
)
def test_a_failure_is_a_sentence_and_exit_status_1(
    server: ServerProcess, typed: Typed, tmp_path: Path, args: list[str], sentence: str
) -> None:
    ended = typed("generate", "an [/ox]", *SIZE, *args, PADDOCK_URL=server.url)

    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.rglob("*.mp4"))


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--url", "localhost:8000"], "url must begin with http:// or https://"),
        (["--api-key", "schlüssel"], "api_key must consist of printable ASCII characters"),
    ],
)
def test_wrong_options_are_refused_with_exit_status_2(typed: Typed, args: list[str], sentence: str) -> None:
    for command in (["generate", "an ox"], ["status"], ["cancel", "one"]):
        ended = typed(*command, *args)

        assert ended.returncode == 2
        assert sentence in ended.stderr


def test_generate_sends_its_key(tenant: ServerProcess, key: str, typed: Typed) -> None:
    refused = typed("generate", "an ox", *SIZE, "--url", tenant.url)
    assert refused.returncode == 1
    assert "401" in refused.stderr
    done = typed("generate", "an ox", *SIZE, "--url", tenant.url, PADDOCK_API_KEY=key)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_cancels_the_generation(tenant: ServerProcess, key: str, tmp_path: Path) -> None:
    server = tenant
    generate = subprocess.Popen(
        [sys.executable, "-P", "-m", "server.cli", "generate", "an ox", *LONG, "--url", server.url],
        cwd=tmp_path,
        env={**os.environ, "PADDOCK_API_KEY": key},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    (active,) = eventually(lambda: server.listed("processing"), server)

    generate.send_signal(signal.SIGINT)
    printed, _ = generate.communicate(timeout=PATIENCE)

    assert generate.returncode == 130
    assert printed.rstrip().endswith("Cancelled.")
    assert server.row(active["generation_id"])["status"] == "cancelled"
    assert not list(tmp_path.glob("*.mp4"))


def test_generate_survives_a_restart_of_the_server(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    server = start_server()
    generate = subprocess.Popen(
        [sys.executable, "-P", "-m", "server.cli", "generate", "an ox", *SIZE[:-1], "100", "--url", server.url],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    eventually(lambda: server.listed("processing"), server)

    server.kill()
    # long enough for several attempts to connect
    time.sleep(2)
    server.start()

    printed, _ = generate.communicate(timeout=PATIENCE)
    assert generate.returncode == 0, printed
    assert read_video(tmp_path / "video.mp4").shape == (5, 64, 64, 3)


def test_status_shows_models_and_queue(tenant: ServerProcess, key: str, typed: Typed, tmp_path: Path) -> None:
    server, env = tenant, {"PADDOCK_URL": tenant.url, "PADDOCK_API_KEY": key}
    assert "No generations are queued or running." in typed("status", **env).stdout
    running = server.enqueue(**ENDLESS)
    waiting = server.enqueue(prompt="a lake")
    server.wait_for(running, "processing")

    shown = typed("status", **env).stdout

    assert "demo weights" in shown
    assert running in shown
    assert waiting in shown
    assert "a lake" in shown
    narrow = paddock("status", cwd=tmp_path, **env, COLUMNS="80").stdout
    assert running in narrow
    lines = narrow.splitlines()
    assert max(map(len, lines)) <= 80
    # one line for each generation, whatever its prompt
    assert [line.split()[:2] for line in lines[-2:]] == [[running, "processing"], [waiting, "queued"]]
    assert lines[-1].rstrip().endswith("a lake")

    assert typed("cancel", running, **env).stdout.strip() == "cancelled"
    assert server.row(running)["status"] == "cancelled"
    unknown = typed("cancel", "nope", **env)
    assert unknown.returncode == 1
    assert "404" in unknown.stderr


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    from importlib.metadata import version

    assert paddock("--version", cwd=tmp_path).stdout.strip() == version("paddock")


STARTED = """
import sys
from server.cli.__main__ import run

class Started:
    def find_spec(self, name, *_):
        if name == "server.cli.terminal":
            sys.meta_path.remove(self)
            print("go", flush=True)

sys.meta_path.insert(0, Started())
run()
"""
"""The command line, which says so when it has begun: at its first import. Before, nothing catches an interrupt."""


@pytest.mark.parametrize("args", [["serve", "--demo"], ["status"], ["doctor"]], ids=lambda args: args[0])
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.4, 0.8, 1.6])
def test_ctrl_c_at_any_moment_is_a_sentence_at_most(tmp_path: Path, args: list[str], delay: float) -> None:
    command = [sys.executable, "-P", "-c", STARTED, *args]
    environment = {**os.environ, "PADDOCK_DATA_DIR": str(tmp_path / "data"), "PADDOCK_PORT": str(free_port())}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "go\n"
        time.sleep(delay)
        running.send_signal(signal.SIGINT)
        _, printed = running.communicate(timeout=PATIENCE)

    assert "Traceback" not in printed
    assert "KeyboardInterrupt" not in printed


INTERRUPTED_IN_A_CALLBACK = """
import signal, sys, time
from server.cli.__main__ import run

class Callback:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

class Interrupted:
    def find_spec(self, name, *_):
        if name == "server.cli.terminal":
            sys.meta_path.remove(self)
            Callback()
            time.sleep(60)

sys.meta_path.insert(0, Interrupted())
run()
"""
"""The command line, where Python drops an interrupt: imports have such callbacks."""


def test_ctrl_c_within_a_callback_is_not_lost(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", INTERRUPTED_IN_A_CALLBACK, "status"]

    ended = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)

    assert (ended.returncode, ended.stderr) == (130, "Interrupted.\n")


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(typed: Typed, option: str) -> None:
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+.*", typed(option).stdout.strip())


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("device", "gpus", "device: 'gpus' is not possible; it must be auto, cpu or cuda:N"),
        ("public_url", "paddock.example", "public_url: 'paddock.example' is not possible; it must be http://"),
        ("allowed_hosts", "*.example", "allowed_hosts.0: '*.example' is not possible; it must be host names"),
        ("database_url", "mysql://host", "database_url: 'mysql://host' is not possible; it must begin with postgresql"),
        ("log_level", "loud", "log_level: Input should be 'debug', 'info', 'warning' or 'error'"),
        ("precision", "int5", "precision: Input should be 'auto', 'bf16', 'fp8', 'int8' or '4-bit'"),
    ],
)
def test_a_setting_that_is_refused_says_what_it_must_be(typed: Typed, name: str, value: str, sentence: str) -> None:
    ended = typed("serve", "--demo", **{f"PADDOCK_{name.upper()}": value})

    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert "pattern" not in ended.stderr


def test_h_is_help(typed: Typed) -> None:
    assert typed("generate", "-h").stdout == typed("generate", "--help").stdout != ""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("paddock ge", ["generate"]),
        ("paddock generate --step-cache ba", ["balanced"]),
        ("paddock pull --model wan-ai-wan2-1-t2v-14b", ["wan-ai-wan2-1-t2v-14b-diffusers"]),
    ],
)
def test_a_shell_completes_commands_options_and_models(tmp_path: Path, words: str, completed: list[str]) -> None:
    as_installed = "import sys; sys.argv[0] = 'paddock'; from server.cli.__main__ import run; run()"
    asked = {"_PADDOCK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    ended = subprocess.run(
        [sys.executable, "-P", "-c", as_installed],
        cwd=tmp_path,
        env={**os.environ, **asked},
        capture_output=True,
        check=True,
        text=True,
    )

    assert ended.stdout.split() == completed


def test_help_lists_the_commands_and_imports_nothing_heavy(tmp_path: Path) -> None:
    program = """
import sys
from server.cli.main import main
try:
    main()
finally:
    print(*sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program, "--help"], cwd=tmp_path, capture_output=True, check=True, text=True
    )

    heavy = {"torch", "diffusers", "numpy", "sqlalchemy", "fastapi", "uvicorn", "httpx", "pydantic", "huggingface_hub"}
    assert not heavy & set(ended.stderr.split())
    for command in (
        "serve",
        "demo",
        "pull",
        "generate",
        "recipe",
        "loras",
        "status",
        "cancel",
        "plan",
        "doctor",
        "key",
        "webhook",
    ):
        assert re.search(rf"^  {command} +[A-Z].+$", ended.stdout, re.MULTILINE)
