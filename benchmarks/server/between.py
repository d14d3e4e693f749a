"""Idle time of the device between two queued videos: from the last decoded frame to the next denoising step.

python -m benchmarks.server.between --videos 5

Measured by the server's own events. The end of the file is written while the next video is denoised, so it costs no
time; it is shown as hidden. The next prompt is encoded while the video before it is denoised, so only reading it from
memory remains.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.report import show
from paddock.events import read_events
from pipelines.core.progress import Stage
from tests.support.server_process import MODEL, TERMINAL, ServerProcess

WAITED = ("hand-over", "the next prompt")
HIDDEN = "the file's end, hidden"
PATIENCE = 600.0


def watch(server: ServerProcess, asked: list[dict[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
    """Enqueue generations and return all their events with the time of arrival, until all have ended."""
    seen: list[tuple[float, dict[str, Any]]] = []
    with server.http.stream("GET", f"{server.url}/api/events", timeout=PATIENCE) as stream:
        open_ = {server.enqueue(**one) for one in asked}
        for sent in read_events(stream.iter_bytes()):
            event = json.loads(sent.data)
            seen.append((time.monotonic(), event))
            if event["status"] in TERMINAL:
                open_.discard(event["generation_id"])
            if not open_:
                return seen
    raise AssertionError("the stream ended")


@dataclass
class Moments:
    """When the worker got a generation, began to denoise it, had decoded it and was done: seconds of one clock."""

    received: float = 0.0
    begun: float = 0.0
    decoded: float = 0.0
    done: float = 0.0

    def note(self, at: float, event: dict[str, Any]) -> None:
        """Take the moment from an event."""
        stage, step = event.get("stage"), event.get("step")
        if event["status"] in TERMINAL:
            self.done = at
        elif stage == Stage.DECODE and (step or 0) > 1:
            self.decoded = at
        elif stage == Stage.PROMPT:
            self.received = at
        elif stage == Stage.DENOISE and step == 0:
            self.begun = at


def parts(seen: list[tuple[float, dict[str, Any]]]) -> tuple[list[dict[str, float]], list[float]]:
    """Seconds of each part between every two videos except the first two, and of each video after the first."""
    videos: dict[str, Moments] = {}
    for at, event in seen:
        videos.setdefault(event["generation_id"], Moments()).note(at, event)
    in_order = sorted(videos.values(), key=lambda video: video.begun)
    found = [
        {
            WAITED[0]: after.received - before.decoded,
            WAITED[1]: after.begun - after.received,
            HIDDEN: before.done - before.decoded,
        }
        for before, after in pairwise(in_order)
    ]
    return found[1:], [after.begun - before.begun for before, after in pairwise(in_order)]


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=3, default=[832, 480, 81], metavar=("WIDTH", "HEIGHT", "FRAMES"))
    options = parser.parse_args()
    width, height, num_frames = options.size
    usual = {"model": MODEL, "width": width, "height": height, "num_frames": num_frames, "num_inference_steps": 2}
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "data")
        server.start()
        try:
            found, videos = parts(
                watch(server, [{**usual, "prompt": f"a red circle, {index}"} for index in range(options.videos)])
            )
        finally:
            server.stop()
            server.close()
    figures = {name: statistics.median(one[name] for one in found) for name in (*WAITED, HIDDEN)}
    figures["waited"] = statistics.median(sum(one[name] for name in WAITED) for one in found)
    video = statistics.median(videos)
    rows = [(name, f"{seconds:.3f} s", f"{seconds / video:.1%}") for name, seconds in figures.items()]
    rows.append(("a video of 2 steps", f"{video:.2f} s", "100%"))
    command = shlex.join(["python", "-m", "benchmarks.server.between", *sys.argv[1:]])
    show("between", rows, {"command": command, "parts": figures, "video_s": video}, ("what", "seconds", "of a video"))


if __name__ == "__main__":
    main()
