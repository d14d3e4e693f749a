"""A picture of the demo's videos: one row for each prompt, five frames in a row, as a PNG.

python -m benchmarks.quality.demo_strip --to strip.png
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.quality.demo_quality import Setting, make_video
from pipelines.core.model import ModelSpec
from pipelines.demo.folder import demo_folder
from pipelines.runner.runner import Runner

PROMPTS = (
    "A beautiful landscape painting of a serene lake with mountains in the background and an ox in the foreground.",
    "a red circle moving up on a blue background",
    "一个蓝色的圆环在黄色背景上向右移动",
    "a duck on a calm lake at sunset",
)
SHOWN = 5


def main() -> None:
    """Make the videos, write the strip, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=demo_folder())
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--prompt", nargs="+", default=list(PROMPTS))
    parser.add_argument("--size", type=int, nargs=3, default=[416, 240, 33], metavar=("WIDTH", "HEIGHT", "FRAMES"))
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--row-height", type=int, default=120, help="pixels")
    options = parser.parse_args()

    runner = Runner.load(ModelSpec("demo", fps=16), options.folder, "cpu")
    width, height, num_frames = options.size
    setting = Setting(width, height, num_frames, options.steps, options.guidance)
    rows, seconds = [], []
    for prompt in options.prompt:
        begun = time.monotonic()
        frames = make_video(runner, prompt, setting, options.seed)
        seconds.append(round(time.monotonic() - begun, 2))
        print(f"{seconds[-1]:7.2f} s  {prompt}", flush=True)
        chosen = np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)
        row = Image.fromarray(np.concatenate(frames[chosen], axis=1))
        width = round(row.width * options.row_height / row.height)
        rows.append(np.asarray(row.resize((width, options.row_height), Image.Resampling.LANCZOS)))
    Image.fromarray(np.concatenate(rows)).save(options.to)
    print(json.dumps({"benchmark": "demo_strip", "seconds": seconds, "file": options.to.name}))


if __name__ == "__main__":
    main()
