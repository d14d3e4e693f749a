"""How far the step cache may go with a model's weights: the tolerances of its levels, for its file in the catalogue.

python -m pipelines.tools.calibrate_step_cache --model ID [--models-dir FOLDER] [--device cuda:0]
python -m pipelines.tools.calibrate_step_cache --demo

Every prompt is made once with every step computed, then at ever larger tolerances. A level's tolerance is the largest
at which the video furthest from the exact one is still at its level's PSNR; the table shows what that saves. The last
lines printed go into the model's file.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, log10
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch

from pipelines.core.errors import PipelineError
from pipelines.core.progress import Frames
from pipelines.core.request import StepCaching, VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.hub import local as weights
from pipelines.loading.load import silence_progress_bars
from pipelines.models.catalogue import BUILT_IN, DEFAULT_MODEL, CatalogueEntry, read_catalogue
from pipelines.runner.runner import Runner

LEAST_PSNR = {StepCaching.BALANCED: 30.0, StepCaching.FAST: 26.0}
"""dB that every video of a level keeps to the exact one."""

TOLERANCES = (0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.08, 0.1, 0.15)

PROMPTS = (
    "A beautiful landscape painting of a serene lake with mountains in the background and an ox in the foreground.",
    "a big red circle moving right on a white background",
    "a yellow ring moving down on a blue background",
    "一个绿色的圆环在黑色背景上向左移动",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A video made at a tolerance: the share of passes computed, and its PSNR in dB to the exact one."""

    tolerance: float
    computed: float
    psnr: float


def psnr(one: Frames, other: Frames) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal frames."""
    error = float(np.mean((one.astype(np.float32) - other.astype(np.float32)) ** 2))
    return inf if error == 0 else 10 * log10(255**2 / error)


def outcomes(runner: Runner, asked: Iterable[VideoParams], tolerances: Sequence[float]) -> Iterator[Outcome]:
    """Every video at every tolerance, beside the exact one."""
    for params in asked:
        exact = runner.frames(params, tolerance=0.0)
        for tolerance in tolerances:
            made = runner.frames(params, tolerance=tolerance)
            yield Outcome(tolerance, made.passes / exact.passes, psnr(made.frames, exact.frames))


def choose(made: Sequence[Outcome], least: float) -> float:
    """The largest tolerance up to which every video keeps `least` dB; 0 if there is none."""
    chosen = 0.0
    for tolerance in sorted({outcome.tolerance for outcome in made}):
        if any(outcome.psnr < least for outcome in made if outcome.tolerance == tolerance):
            break
        chosen = tolerance
    return chosen


def table(made: Sequence[Outcome]) -> str:
    """Every tolerance with what it saves and costs."""
    lines = ["tolerance  computed  PSNR median   least"]
    for tolerance in sorted({outcome.tolerance for outcome in made}):
        here = [outcome for outcome in made if outcome.tolerance == tolerance]
        ratios = [outcome.psnr for outcome in here]
        share = fmean(outcome.computed for outcome in here)
        lines.append(f"{tolerance:9g}  {share:8.0%}  {median(ratios):11.1f}  {min(ratios):6.1f}")
    return "\n".join(lines)


def _load(options: argparse.Namespace, entry: CatalogueEntry) -> Runner:
    if options.demo:
        return Runner.load(entry.model.for_other_weights(), demo_folder(), options.device)
    spec = entry.variant(options.run_fast).model
    return Runner.load(spec, weights.locate(spec), options.device)


def _params(options: argparse.Namespace, entry: CatalogueEntry, runner: Runner) -> VideoParams:
    default = {name: parameter.default for name, parameter in entry.api.by_name.items()}
    width, height, frames = options.size or entry.api.size("default")
    scale = float(str(default["guidance_scale"])) if options.guidance is None else options.guidance
    return VideoParams(
        prompt="",
        negative_prompt=str(default["negative_prompt"]),
        height=height,
        width=width,
        num_frames=frames,
        num_inference_steps=options.steps or int(str(default["num_inference_steps"])),
        guidance_scale=scale if runner.spec.guidance else 1.0,
        seed=0,
        run_fast=options.run_fast,
    )


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.tools.calibrate_step_cache", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="its id in the catalogue")
    parser.add_argument("--models-dir", type=Path, help="a folder of model files of your own")
    parser.add_argument("--demo", action="store_true", help="the demo's weights instead")
    parser.add_argument("--run-fast", action="store_true", help="the model's distillation to few steps")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, nargs=3, metavar=("WIDTH", "HEIGHT", "FRAMES"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--prompts", type=Path, help="a file with a prompt on each line")
    parser.add_argument("--tolerances", type=float, nargs="+", default=TOLERANCES)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> str | None:
    """Calibrate, and print the table and the lines for the model's file; returns a sentence for what went wrong."""
    options = _options(arguments)
    silence_progress_bars()
    try:
        entries = read_catalogue((BUILT_IN, options.models_dir) if options.models_dir else (BUILT_IN,))
        if (entry := entries.get(options.model)) is None:
            return f"Model not found: {options.model}"
        runner = _load(options, entry)
        params = _params(options, entry, runner)
        prompts: tuple[str, ...] = PROMPTS
        if options.prompts is not None:
            prompts = tuple(filter(None, map(str.strip, options.prompts.read_text(encoding="utf-8").splitlines())))
        asked = [replace(params, prompt=prompt, seed=seed) for seed, prompt in enumerate(prompts)]
        made = []
        for outcome in outcomes(runner, asked, options.tolerances):
            made.append(outcome)
            print(f"{outcome.tolerance:9g}  {outcome.computed:8.0%}  {outcome.psnr:11.1f}", file=sys.stderr)
    except (PipelineError, OSError, UnicodeDecodeError) as error:
        return str(error)
    print(table(made))
    print("\n[model.step_cache]")
    for level, least in LEAST_PSNR.items():
        print(f"{level} = {choose(made, least):g}  # every one of {len(asked)} videos at {least:g} dB or more")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
