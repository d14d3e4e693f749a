"""What lies between two videos of a queue: from the last frame decoded to the next one's first denoising step.

python -m benchmarks.between --videos 5

By a server's own events: the file's end, the hand-over from worker to server and back, and the next prompt's encoding.
All of it could be hidden behind denoising; this says how much that would save.
"""

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.report import show
from pipelines.spec import Stage
from server.client import read_events
from tests.support import MODEL, TERMINAL, ServerProcess

PARTS = ("the file's end", "hand-over", "the next prompt")
PATIENCE = 600.0


def watch(server: ServerProcess, asked: list[dict[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
    """Every event of these generations, with the time it came, until all are over."""
    seen: list[tuple[float, dict[str, Any]]] = []
    with server.http.stream("GET", f"{server.url}/api/events", timeout=PATIENCE) as stream:
        open_ = {server.enqueue(**one) for one in asked}
        for _, event in read_events(stream.iter_lines()):
            seen.append((time.monotonic(), event))
            if event["status"] in TERMINAL:
                open_.discard(event["generation_id"])
            if not open_:
                return seen
    raise AssertionError("the stream ended")


def parts(seen: list[tuple[float, dict[str, Any]]]) -> tuple[list[dict[str, float]], list[float]]:
    """Seconds of each part between every two videos, but the first two, and of each video after the first."""
    found, videos = [], []
    decoded = ended = asked = 0.0
    for at, event in seen:
        stage, step = event.get("stage"), event.get("step")
        if event["status"] in TERMINAL:
            ended = at
        elif stage == Stage.DECODE and step > 1:
            decoded = at
        elif stage == Stage.PROMPT:
            asked = at
        elif stage == Stage.DENOISE and step == 0 and ended:
            found.append(dict(zip(PARTS, (ended - decoded, asked - ended, at - asked), strict=True)))
            videos.append(at)
    return found[1:], [after - before for before, after in pairwise(videos)]


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
    figures = {name: statistics.median(one[name] for one in found) for name in PARTS}
    video = statistics.median(videos)
    rows = [(name, f"{seconds:.3f} s", f"{seconds / video:.1%}") for name, seconds in figures.items()]
    rows.append(("a video of 2 steps", f"{video:.2f} s", "100%"))
    command = shlex.join(["python", "-m", "benchmarks.between", *sys.argv[1:]])
    show("between", rows, {"command": command, "parts": figures, "video_s": video}, ("what", "seconds", "of a video"))


if __name__ == "__main__":
    main()
