"""Commands in terminals with few characters, with arguments that are no text, and where nobody reads their output."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.server_process import PATIENCE, ServerProcess

ENCODINGS: dict[str, dict[str, str]] = {
    "C": {"LC_ALL": "C", "LANG": "C"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "no UTF-8": {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
}
PADDOCK = (sys.executable, "-P", "-m", "server.cli")


def paddock(*args: str | bytes, folder: Path, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    env = {**os.environ, "COLUMNS": "200", "PADDOCK_DATA_DIR": str(folder / "data"), **options.pop("env", {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    return subprocess.run([*PADDOCK, *args], cwd=folder, env=env, check=False, timeout=PATIENCE, **streams)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_symbols_have_replacements_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    ended = paddock("doctor", "--demo", folder=tmp_path, env=ENCODINGS[encoding])

    assert b"Traceback" not in ended.stderr
    sign = "✓".encode() if encoding == "C" else b"OK"
    assert ended.stdout.startswith(sign + b" data directory: ")
    assert paddock("pull", "--help", folder=tmp_path, env=ENCODINGS[encoding]).returncode == 0


def test_prompts_are_read_and_shown_whatever_the_locale(tenant: ServerProcess, key: str, tmp_path: Path) -> None:
    env = {**ENCODINGS["no UTF-8"], "PADDOCK_URL": tenant.url, "PADDOCK_API_KEY": key}
    size = ("--width", "64", "--height", "64", "--frames", "5", "--steps", "100")
    prompt = "ein Bär 牛"
    done = paddock("generate", prompt.encode(), *size[:-1], "1", "-o", "ox.mp4", folder=tmp_path, env=env)

    assert done.returncode == 0, done.stderr
    (row,) = tenant.http.get("/queue", params={"status": "succeeded"}).json()["generations"]
    assert row["prompt"] == prompt
    waiting = tenant.enqueue(prompt=prompt, num_inference_steps=100, num_frames=33, width=416, height=240)
    shown = paddock("status", folder=tmp_path, env=env)
    assert rb"ein B\xe4r \u725b" in shown.stdout
    assert waiting.encode() in shown.stdout


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["generate", b"an ox \xff"], "prompt"),
        (["generate", "an ox", "--negative-prompt", b"\xff"], "negative_prompt"),
        (["generate", "an ox", "--lora", b"\xff"], "lora"),
        (["cancel", b"\xff"], "generation"),
        (["plan", "--model", b"\xff"], "model"),
        (["key", "revoke", b"\xff"], "name"),
        (["serve", "--demo", "--data-dir", b"/tmp/\xff"], "data_dir"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arguments_that_are_not_text_are_refused(tmp_path: Path, args: list[str | bytes], name: str) -> None:
    ended = paddock(*args, folder=tmp_path, env={"PADDOCK_URL": "http://127.0.0.1:9"})

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"{name}: ".encode())
    assert b"is not text in UTF-8" in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("args", [("key", "list"), ("plan", "--vram", "24"), ("--help",)], ids=lambda args: args[0])
def test_a_reader_that_has_gone_is_no_error_to_report(tmp_path: Path, args: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = paddock(*args, folder=tmp_path, stdout=writing)
    os.close(writing)

    assert ended.stderr == b""
    assert ended.returncode == 1


def test_output_to_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = paddock("key", "list", folder=tmp_path, stdout=full)

    assert ended.stderr == b"The output could not be written: its disk is full.\n"
    assert ended.returncode == 1


def test_closed_streams_are_no_error(tmp_path: Path) -> None:
    command = "exec " + " ".join(PADDOCK) + " key list <&- >&- 2>&-"
    env = {**os.environ, "PADDOCK_DATA_DIR": str(tmp_path / "data")}

    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, check=False).returncode == 0
