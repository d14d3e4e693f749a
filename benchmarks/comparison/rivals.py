"""Compares Paddock, LitServe and cog, serving the same pipeline on the same machine in the same run.

python -m pip install --target FOLDER litserve cog
python -m benchmarks.comparison.rivals --packages FOLDER

Each is set up as its documentation shows, with `pipelines.runner.runner` behind it. Then they make one video each in
turn, so that a busy machine slows all of them alike. The time of a video is that of its request, relative to Paddock's
in the same round. The start is timed from the command to the bytes of the first video. Memory is the proportional set
size (PSS) of a server's processes after that video. LitServe and cog cannot be polled for a request, and LitServe
cannot queue one, so only Paddock has these figures.
"""

import argparse
import base64
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.report import bootstrap, percentile, show
from pipelines.core.request import VideoParams
from tests.support.server_process import MODEL, free_port

MIB = 2**20
PATIENCE = 120.0
JOB = VideoParams("a red circle moving right on a white background", " ", 240, 416, 17, 8, 5.0, 1)
SHORT = VideoParams("a red circle", " ", 64, 96, 5, 1, 1.0, 1)
LONG = VideoParams("a red circle", " ", 240, 416, 33, 60, 5.0, 1)

CALLS_OF_COG = 20

Asked = dict[str, Any]


def fields(params: VideoParams) -> Asked:
    """The parameters of a video that all servers understand."""
    return {name: value for name, value in params.facts.items() if name not in ("run_fast", "step_cache")}


class Rival:
    """A server to compare: how to start it, and how to request a video."""

    name = ""

    def __init__(self, folder: Path, packages: Path) -> None:
        self.folder = folder
        self.packages = packages
        self.port = free_port()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command that starts it."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Its environment variables."""
        root = Path(__file__).parents[2]
        return {"PYTHONPATH": f"{self.packages}{os.pathsep}{root}", "PORT": str(self.port)}

    def video(self, params: VideoParams) -> bytes:
        """Request a video and wait for its bytes."""
        raise NotImplementedError

    def enqueue(self, params: VideoParams) -> Any:
        """Enqueue a request; None if the server has no queue."""
        return None

    def poll(self, asked: Any) -> Any:
        """Poll a request; None if the server cannot be polled."""
        return None

    def start(self) -> float:
        """Start it and return the seconds to the bytes of the first video."""
        began = time.perf_counter()
        with (self.folder / f"{self.name}.log").open("wb") as log:
            env = {**os.environ, **self.environment()}
            self.process = subprocess.Popen(self.command(), env=env, stdout=log, stderr=log)
        while True:
            try:
                assert self.video(JOB)
                return time.perf_counter() - began
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if self.process.poll() is not None or time.perf_counter() - began > PATIENCE:
                    raise AssertionError((self.folder / f"{self.name}.log").read_text(errors="replace")) from error
                time.sleep(0.05)

    def memory(self) -> float:
        """PSS of all its processes in MiB."""
        assert self.process is not None
        whole = psutil.Process(self.process.pid)
        return sum(each.memory_full_info().pss for each in [whole, *whole.children(recursive=True)]) / MIB

    def stop(self) -> None:
        """Stop all its processes."""
        if self.process is not None:
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            psutil.wait_procs(family, timeout=5)
            for each in family:
                if each.is_running():
                    each.kill()
            self.process.wait(PATIENCE)
        self.http.close()


class Paddock(Rival):
    """This server."""

    name = "Paddock"

    def command(self) -> list[str]:
        """As `paddock serve --demo`."""
        data = str(self.folder / "data")
        return [
            sys.executable,
            "-P",
            "-m",
            "server.cli",
            "serve",
            "--demo",
            "--data-dir",
            data,
            "--port",
            str(self.port),
        ]

    def environment(self) -> dict[str, str]:
        """None is needed."""
        return {}

    def video(self, params: VideoParams) -> bytes:
        """By the sync route, with the bytes in the response."""
        body = {"model": MODEL, "response_format": "b64_json", **fields(params)}
        answer = self.http.post("/api/ai/videos/generate", json=body).raise_for_status()
        return base64.b64decode(answer.json()["videos"][0]["b64_json"])

    def enqueue(self, params: VideoParams) -> Any:
        """By the async route."""
        answer = self.http.post("/api/ai/queue", json={"model": MODEL, **fields(params)}).raise_for_status()
        return answer.json()["generations"][0]["generation_id"]

    def poll(self, asked: Any) -> Any:
        """By the row of the request."""
        return self.http.get(f"/api/ai/queue/{asked}").raise_for_status().json()["status"]

    def cancel(self, asked: Any) -> None:
        """Cancel a request."""
        self.http.delete(f"/api/ai/queue/{asked}")


class LitServe(Rival):
    """The server of Lightning AI."""

    name = "LitServe"

    def command(self) -> list[str]:
        """A script that runs a LitServer."""
        return [sys.executable, "-m", "benchmarks.comparison.litserve_server", str(self.port)]

    def video(self, params: VideoParams) -> bytes:
        """By its only route."""
        answer = self.http.post("/predict", json=fields(params)).raise_for_status()
        return base64.b64decode(answer.json()["video"])


class Cog(Rival):
    """The server of Replicate."""

    name = "cog"

    def command(self) -> list[str]:
        """The command of its container images."""
        return [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]

    def environment(self) -> dict[str, str]:
        """The path of the runner, and of the interpreter, which cog finds by name."""
        runner = Path(__file__).with_name("cog_server.py")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**super().environment(), "COG_PREDICT_TYPE_STUB": f"{runner}:Runner", "PATH": path}

    def video(self, params: VideoParams) -> bytes:
        """By a synchronous prediction."""
        answer = self.http.post("/predictions", json={"input": fields(params)}).raise_for_status().json()
        if answer["status"] != "succeeded":
            raise AssertionError(answer)
        return base64.b64decode(answer["output"].partition(",")[2])

    def enqueue(self, params: VideoParams) -> Any:
        """By an asynchronous prediction; cog accepts one at a time."""
        answer = self.http.post("/predictions", json={"input": fields(params)}, headers={"Prefer": "respond-async"})
        return answer.raise_for_status().json()

    def wait_until_idle(self) -> None:
        """Wait until the running prediction has ended."""
        while self.http.get("/health-check").json()["status"] != "READY":
            time.sleep(0.05)


@contextmanager
def running(folder: Path, packages: Path) -> Iterator[dict[str, tuple[Rival, float]]]:
    """All servers by name, started one after another, with the seconds to the first video."""
    with ExitStack() as stack:
        found: dict[str, tuple[Rival, float]] = {}
        for kind in (Paddock, LitServe, Cog):
            rival = kind(folder, packages)
            stack.callback(rival.stop)
            found[rival.name] = rival, rival.start()
            print(f"{rival.name}: first video after {found[rival.name][1]:.1f} s", file=sys.stderr)
        yield found


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def videos(rivals: dict[str, Rival], rounds: int) -> dict[str, list[float]]:
    """Seconds of a request for a video, by server and round. Each round starts with another server."""
    names = list(rivals)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(timed(partial(rivals[name].video, JOB)))
    return found


def latencies(rival: Rival, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds to enqueue and to poll a request while a video is made; empty if the server cannot.

    cog accepts one request at a time and refuses others until it is done.
    """
    enqueue: list[float] = []
    poll: list[float] = []
    if isinstance(rival, Paddock):
        asked = [rival.enqueue(LONG)]
        for _ in range(count):
            enqueue.append(1000 * timed(lambda: asked.append(rival.enqueue(JOB))))
            poll.append(1000 * timed(lambda: rival.poll(asked[0])))
            time.sleep(0.02)
        for each in asked:
            rival.cancel(each)
    elif isinstance(rival, Cog):
        for _ in range(CALLS_OF_COG):
            rival.wait_until_idle()
            enqueue.append(1000 * timed(lambda: rival.enqueue(SHORT)))
    return enqueue, poll


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="where litserve and cog are installed")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    versions = {each.name: each.version for each in distributions(path=[str(options.packages)])}
    with tempfile.TemporaryDirectory() as name, running(Path(name), options.packages) as started:
        rivals = {name: rival for name, (rival, _) in started.items()}
        memory = {name: rival.memory() for name, rival in rivals.items()}
        taken = videos(rivals, options.rounds)
        queue = {name: latencies(rival, 10 * options.rounds) for name, rival in rivals.items()}
    rows, figures = [], {}
    for name in rivals:
        enqueue, poll = queue[name]
        ratios = [mine / ours for mine, ours in zip(taken[name], taken[Paddock.name], strict=True)]
        low, high = bootstrap(ratios)
        figures[name] = {
            "version": versions.get(name.lower()),
            "first_video_s": started[name][1],
            "memory_mib": memory[name],
            "video_s": statistics.median(taken[name]),
            "of_paddocks": statistics.median(ratios),
            "of_paddocks_95": (low, high),
            "enqueue_p50_ms": statistics.median(enqueue) if enqueue else None,
            "enqueue_p99_ms": percentile(enqueue, 99) if enqueue else None,
            "poll_p50_ms": statistics.median(poll) if poll else None,
            "poll_p99_ms": percentile(poll, 99) if poll else None,
        }
        rows.append(
            (
                f"{name} {versions.get(name.lower(), '')}",
                f"{started[name][1]:.1f} s",
                f"{memory[name]:.0f} MiB",
                f"{statistics.median(taken[name]):.2f} s",
                f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})",
                _latency(enqueue),
                _latency(poll),
            )
        )
    columns = (
        "server",
        "first video",
        "memory",
        "a video",
        "to Paddock's",
        "enqueue, p50 / p99",
        "poll, p50 / p99",
    )
    command = shlex.join(
        ["python", "-m", "benchmarks.comparison.rivals", "--packages", "FOLDER", "--rounds", str(options.rounds)]
    )
    show("rivals", rows, {"command": command, "servers": figures}, columns, 150)


def _latency(milliseconds: list[float]) -> str:
    if not milliseconds:
        return "none"
    return f"{statistics.median(milliseconds):.1f} / {percentile(milliseconds, 99):.1f} ms"


if __name__ == "__main__":
    main()
