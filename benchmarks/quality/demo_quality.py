"""How often the demo's videos show background, colour, shape and motion as requested, on prompts unseen in training.

Both the attribute combinations and the wordings are absent from training. Plain image analysis is the judge. It is
tested first, on true renders of the same prompts and on renders assigned to wrong prompts.

python -m benchmarks.quality.demo_quality --records FILE.jsonl

Every video adds a line to the records; another run continues where the first was stopped.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from benchmarks.report import Records
from demo_training.clips import combinations, render, single_shape
from demo_training.held_out import describe_held_out
from demo_training.judge import judge
from pipelines.core.model import ModelSpec
from pipelines.core.progress import Frames
from pipelines.core.request import StepCaching, VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.demo.scenes import ShapeScene
from pipelines.demo.words import LANGUAGES
from pipelines.runner.runner import Runner
from pipelines.tools.calibrate_step_cache import psnr

SEED = 20261130
SEEN = ("background", "colour", "shape", "motion")

FIRST: Final = {
    "shapes": ("circle", "ring", "bar"),
    "colours": ("red", "yellow", "green", "blue", "purple", "white"),
    "backgrounds": ("black", "white", "grey", "blue", "green", "yellow"),
}
"""What the weights of version 0.2.0 and before can draw."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt unseen in training, and what its video must show."""

    prompt: str
    language: str
    scene: ShapeScene

    @property
    def wanted(self) -> dict[str, str]:
        """The required attributes by name."""
        thing = self.scene.things[0]
        return {
            "background": self.scene.background,
            "colour": thing.colour,
            "shape": thing.shape,
            "motion": str(self.scene.motion),
        }


@dataclass(frozen=True, slots=True)
class Setting:
    """The parameters of videos: sides in pixels, length in frames."""

    width: int
    height: int
    num_frames: int
    steps: int
    guidance: float
    negative: str = ""
    # not in the names of records of exact videos, which are older than this field
    step_cache: StepCaching = field(default=StepCaching.EXACT, repr=False)

    @property
    def name(self) -> str:
        """The name in the keys of its records."""
        return str(self) if self.step_cache is StepCaching.EXACT else f"{self} {self.step_cache}"


def questions(count: int, *, wide: bool = False) -> list[Question]:
    """Return `count` questions, English and Chinese in turn, with all unseen combinations before any repetition.

    They are about what the first weights knew, so that records of all weights can be compared; if `wide` about all
    shapes and colours.
    """
    rng = np.random.default_rng(SEED)
    unseen = combinations(held_out=True) if wide else combinations(held_out=True, **FIRST)
    order = np.concatenate([rng.permutation(len(unseen)) for _ in range(count // len(unseen) + 1)])
    asked = []
    for index in range(count):
        scene, language = single_shape(unseen[order[index]], rng), LANGUAGES[index % 2]
        asked.append(Question(describe_held_out(scene, language, rng).text, language, scene))
    return asked


def make_video(runner: Runner, prompt: str, setting: Setting, seed: int, image: Image.Image | None = None) -> Frames:
    """Return a video as the server would make it, without the file, (num_frames, height, width, 3).

    It begins with `image`, if one is given.
    """
    params = VideoParams(
        prompt=prompt,
        negative_prompt=setting.negative,
        height=setting.height,
        width=setting.width,
        num_frames=setting.num_frames,
        num_inference_steps=setting.steps,
        guidance_scale=setting.guidance,
        seed=seed,
        step_cache=setting.step_cache,
    )
    return runner.frames(params, image).frames


def wilson(right: int, count: int) -> float:
    """Return the lower bound of the 95 % Wilson interval of a share."""
    if count == 0:
        return 0.0
    z, share = 1.96, right / count
    middle = share + z * z / (2 * count)
    spread = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - spread) / (1 + z * z / count)


def judge_the_judge(asked: list[Question]) -> dict[str, dict[str, float]]:
    """Return the shares judged right on true renders and on renders of other prompts, with the latter's expectation."""
    verdicts = [asdict(judge(render(question.scene, 416, 256, 33)[:, 8:-8])) for question in asked]
    deal = np.random.default_rng(SEED).permutation(len(asked))
    result = {}
    for name in SEEN:
        wanted = [question.wanted[name] for question in asked]
        shares = np.unique(wanted, return_counts=True)[1] / len(wanted)
        result[name] = {
            "true": float(np.mean([v[name] == w for v, w in zip(verdicts, wanted, strict=True)])),
            "dealt": float(np.mean([verdicts[i][name] == w for i, w in zip(deal, wanted, strict=True)])),
            "chance": float((shares**2).sum()),
        }
    return result


def ask_all(
    runner: Runner, asked: list[Question], setting: Setting, records: Records
) -> Iterator[tuple[Question, dict[str, Any]]]:
    """Yield each question with what its video shows and the seconds it took."""
    for index, question in enumerate(asked):

        def answer(question: Question = question, seed: int = index) -> dict[str, Any]:
            begun = time.monotonic()
            frames = make_video(runner, question.prompt, setting, seed)
            seconds = round(time.monotonic() - begun, 2)
            return {"prompt": question.prompt, "seconds": seconds, "wanted": question.wanted, **asdict(judge(frames))}

        yield question, records.get(f"{setting.name} {index} {question.prompt}", answer)


def score(answers: list[tuple[Question, dict[str, Any]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by language and attribute, the share that is right, the count and the Wilson lower bound."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for language in LANGUAGES:
        mine = [(question, record) for question, record in answers if question.language == language]
        table[language] = {}
        for name in SEEN:
            right = sum(record[name] == question.wanted[name] for question, record in mine)
            table[language][name] = {
                "share": right / max(1, len(mine)),
                "n": len(mine),
                "wilson": round(wilson(right, len(mine)), 4),
            }
    return table


def negative_prompt(runner: Runner, setting: Setting, count: int, records: Records) -> dict[str, Any]:
    """Return how often things without a stated colour are white, without and with "white" as the negative prompt."""
    shares: dict[str, Any] = {"n": count}
    for negative in ("", "white"):
        varied = Setting(**{**asdict(setting), "negative": negative})
        white = 0
        for seed in range(count):
            shape = FIRST["shapes"][seed % len(FIRST["shapes"])]
            prompt = f"a {shape} moving {('left', 'right')[seed // 4 % 2]} on a black background"

            def answer(prompt: str = prompt, seed: int = seed, varied: Setting = varied) -> dict[str, Any]:
                return asdict(judge(make_video(runner, prompt, varied, 10_000 + seed)))

            white += records.get(f"negative {varied.name} {seed} {prompt}", answer)["colour"] == "white"
        shares[f"white with {negative or 'none'}"] = white / max(1, count)
    return shares


def main() -> None:
    """Test the judge, make all videos, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=demo_folder())
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--wide", action="store_true", help="ask for all shapes and colours, not only the first ones")
    parser.add_argument("--first", type=int, help="make only the first N of these prompts")
    parser.add_argument("--guidance", type=float, nargs="+", default=[5.0, 1.0])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=3, default=[416, 240, 33], metavar=("WIDTH", "HEIGHT", "FRAMES"))
    parser.add_argument("--step-cache", type=StepCaching, default=StepCaching.EXACT)
    parser.add_argument("--negatives", type=int, default=40, help="videos for the negative prompt, with and without it")
    options = parser.parse_args()

    asked = questions(options.prompts, wide=options.wide)[: options.first]
    result: dict[str, Any] = {"judge": judge_the_judge(questions(400, wide=options.wide))}
    for name, figures in result["judge"].items():
        print(f"judge {name:10}  " + "  ".join(f"{what} {share:6.1%}" for what, share in figures.items()))
    records = Records(options.records)
    runner = Runner.load(ModelSpec("demo", fps=16), options.folder, "cpu")
    width, height, num_frames = options.size
    settings = [
        Setting(width, height, num_frames, options.steps, guidance, step_cache=options.step_cache)
        for guidance in options.guidance
    ]
    result["quality"] = {}
    for setting in settings:
        answers = list(ask_all(runner, asked, setting, records))
        table = score(answers)
        result["quality"][str(setting.guidance)] = table
        result["seconds"] = float(np.median([record["seconds"] for _, record in answers]))
        for language, attributes in table.items():
            for name, figures in attributes.items():
                print(
                    f"guidance {setting.guidance:g}  {language}  {name:10}  {figures['share']:6.1%}"
                    f"  (at least {figures['wilson']:.1%}, n {figures['n']})"
                )
    if options.negatives:
        result["negative_prompt"] = negative_prompt(runner, settings[0], options.negatives, records)
        print("negative prompt", result["negative_prompt"])
    once, again = (make_video(runner, asked[0].prompt, settings[0], 0) for _ in range(2))
    result["psnr_same_seed"] = psnr(once, again)
    print(f"PSNR of two runs of one seed: {result['psnr_same_seed']:.1f} dB")
    print(
        json.dumps(
            {
                "benchmark": "demo_quality",
                "size": options.size,
                "steps": options.steps,
                "step_cache": options.step_cache,
                **result,
            }
        )
    )


if __name__ == "__main__":
    main()
