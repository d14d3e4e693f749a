"""A server with the demo's weights, and one video from it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from rich.console import Console

from pipelines.models.catalogue import DEFAULT_MODEL, read_catalogue
from server.cli.generate.videos import DEMO_SIZE, choose_outputs, generate
from server.cli.options import LOCAL, CommandError, connected
from server.core.settings.settings import ENV_PREFIX

START_SECONDS = 60
PORTS_TRIED = 100

_ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_SEED = 7


def demo(once: bool, port: int, data_dir: Path, output: Path | None, replace: bool, console: Console) -> None:
    """Start a server, generate a video, and serve until Ctrl-C unless `once`. Exits if that fails."""
    url = f"http://127.0.0.1:{port}"
    prompt = read_catalogue()[DEFAULT_MODEL].api.by_name["prompt"].default
    with connected(url, None) as client:
        outputs = choose_outputs(output, Path("demo.mp4"), 1, replace=replace)
        with _server(port, data_dir) as server, _until_ctrl_c(console):
            _await_server(server, url)
            parameters = {**DEMO_SIZE, "seed": _SEED}
            generate(client, str(prompt), DEFAULT_MODEL, parameters, outputs, console, replace=replace)
            console.print("The demo's weights are small: they show the server at work, not what Wan can do.")
            if not once:
                option = "" if url == LOCAL else f" --url {url}"
                console.print(f"Make your own at [bold]{url}[/] or with: {_program()} generate 'An ox'{option}")
                console.print("Ctrl-C stops the server.")
                server.wait()


@contextmanager
def _until_ctrl_c(console: Console) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopping.")


def next_free_port(first: int) -> int | None:
    """The first port from `first` on that is free, of the next hundred."""
    for port in range(first, min(first + PORTS_TRIED, 2**16)):
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port
    return None


@contextmanager
def _server(port: int, data_dir: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A server process that ends with the context."""
    command = [sys.executable, "-P", "-m", "server.cli", "serve", "--demo", "--host", "127.0.0.1"]
    # the demo does not depend on the settings of the user's own server
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    server = subprocess.Popen(
        [*command, "--port", str(port), "--data-dir", str(data_dir)],
        env={**environment, f"{ENV_PREFIX}LOG_LEVEL": "warning"},
    )
    for number in _ENDS:
        # otherwise this program would end without its server
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        yield server
    finally:
        server.terminate()
        server.wait()


def _await_server(server: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise CommandError(f"The server exited with status {server.returncode} before it answered.")
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", trust_env=False).is_success:
                return
        time.sleep(0.1)
    raise CommandError(f"The server did not answer within {START_SECONDS} s.")


def _program() -> str:
    """How this program is called from the current folder."""
    return "paddock" if shutil.which("paddock") else os.path.relpath(Path(sys.executable).with_name("paddock"))
