"""How well the demo's weights move an image: drawn images and prompts whose combinations training never used.

Each image is the first frame of a scene whose object has any place and size. Measured are how near the video's first
frame is to the image, how much of a cut lies between frames 0 and 1 (beside the same prompts without an image), and
by image analysis whether background, colour and shape stay and whether the object moves as the prompt says.

python -m benchmarks.quality.demo_images --records FILE.jsonl [--strip strip.png]

Every video adds a line to the records; another run continues where the first was stopped.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.demo_quality import SEEN, Question, Setting, make_video, wilson
from benchmarks.report import Records
from demo_training.clips import combinations, render
from demo_training.judge import judge
from pipelines.core.model import ModelSpec
from pipelines.core.progress import Frames
from pipelines.demo.folder import demo_folder
from pipelines.demo.grammar import describe_continuation
from pipelines.demo.scenes import ShapeScene, Thing
from pipelines.demo.words import LANGUAGES
from pipelines.runner.runner import Runner
from pipelines.tools.calibrate_step_cache import psnr

SEED = 20261129
SHOWN = 5
ROW_HEIGHT = 120


def questions(count: int) -> list[Question]:
    """Return images, as scenes, with prompts of what happens next, English and Chinese in turn."""
    rng = np.random.default_rng(SEED)
    unseen = combinations(held_out=True)
    asked = []
    for index, number in enumerate(rng.permutation(len(unseen))[:count]):
        shape, colour, background, motion = unseen[number]
        x, y, radius = rng.uniform(0.35, 0.65), rng.uniform(0.42, 0.58), rng.uniform(0.15, 0.3)
        match motion:
            case "left" | "right":
                x = rng.uniform(0.2, 0.55)
                x = x if motion == "right" else 1 - x
            case "up" | "down":
                y = rng.uniform(0.25, 0.5)
                y = y if motion == "down" else 1 - y
            case "growing":
                radius = rng.uniform(0.1, 0.2)
        thing = Thing(shape, colour, float(radius))
        scene = ShapeScene((thing,), background, motion, (0.0, 0.0, 0.0), (float(x), float(y)))
        language = LANGUAGES[index % 2]
        caption = describe_continuation(scene, language, rng)
        # a caption that leaves the motion out says nothing about what happens next
        while "motion" not in caption.labels:
            caption = describe_continuation(scene, language, rng)
        asked.append(Question(caption.text, language, scene))
    return asked


def image_of(question: Question, width: int, height: int) -> Image.Image:
    """Return the image of a question: its scene's first frame."""
    return Image.fromarray(render(question.scene, width, height, 2)[0])


def measure(frames: Frames, image: Image.Image | None) -> dict[str, float]:
    """Return in dB how near the first frame is to an image of its size, and frame 1 to frame 0."""
    measured = {"cut": round(psnr(frames[:1], frames[1:2]), 2)}
    if image is not None:
        measured["first"] = round(psnr(np.asarray(image)[None], frames[:1]), 2)
    return measured


def main() -> None:
    """Make all videos, print a table and one JSON line, and draw the first ones if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=demo_folder())
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=3, default=[416, 240, 33], metavar=("WIDTH", "HEIGHT", "FRAMES"))
    parser.add_argument("--strip", type=Path, help="write the first videos' frames beside their images, as a PNG")
    parser.add_argument("--rows", type=int, default=6, help="videos in the strip")
    options = parser.parse_args()

    records = Records(options.records)
    runner = Runner.load(ModelSpec("demo", fps=16), options.folder, "cpu")
    width, height, num_frames = options.size
    setting = Setting(width, height, num_frames, options.steps, options.guidance)
    answers, rows = [], []
    for index, question in enumerate(questions(options.images)):
        image = image_of(question, setting.width, setting.height)

        def answer(question: Question = question, image: Image.Image = image, seed: int = index) -> dict[str, Any]:
            moved = make_video(runner, question.prompt, setting, seed, image)
            alone = make_video(runner, question.prompt, setting, seed)
            verdict = asdict(judge(moved))
            without = {f"{name}_without": value for name, value in measure(alone, None).items()}
            return {
                "prompt": question.prompt,
                "wanted": question.wanted,
                **verdict,
                **measure(moved, image),
                **without,
            }

        answers.append(records.get(f"{setting.name} {index} {question.prompt}", answer))
        if options.strip is not None and index < options.rows:
            frames = make_video(runner, question.prompt, setting, index, image)
            rows.append(_row(image, frames))
    result: dict[str, Any] = {}
    for name in SEEN:
        right = sum(record[name] == record["wanted"][name] for record in answers)
        result[name] = {"share": right / max(1, len(answers)), "wilson": round(wilson(right, len(answers)), 4)}
        print(f"{name:10}  {result[name]['share']:6.1%}  (at least {result[name]['wilson']:.1%}, n {len(answers)})")
    for name in ("first", "cut", "cut_without"):
        values = [record[name] for record in answers]
        result[name] = {"median": float(np.median(values)), "p5": float(np.percentile(values, 5)), "min": min(values)}
        print(f"{name:12}  median {result[name]['median']:.1f} dB, 5 % below {result[name]['p5']:.1f}")
    if rows:
        Image.fromarray(np.concatenate(rows)).save(options.strip)
    print(json.dumps({"benchmark": "demo_images", "images": len(answers), "size": options.size, **result}))


def _row(image: Image.Image, frames: Frames) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image, a gap, and frames of its video."""
    chosen = np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)
    gap = np.full((image.height, image.width // 8, 3), 255, np.uint8)
    row = Image.fromarray(np.concatenate([np.asarray(image), gap, *frames[chosen]], axis=1))
    width = round(row.width * ROW_HEIGHT / row.height)
    return np.asarray(row.resize((width, ROW_HEIGHT), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
