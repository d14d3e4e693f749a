"""Finds the tolerances of the step cache's levels for a model's weights, for the model's file in the catalogue.

python -m pipelines.tools.calibrate_step_cache --model ID [--models-dir FOLDER] [--device cuda:0]
python -m pipelines.tools.calibrate_step_cache --demo

Every prompt's video is made once with all steps computed, then with increasing tolerances. A level's tolerance is the
largest at which every video keeps the level's PSNR to the exact one; the table shows what it saves. The last printed
lines belong in the model's file. The exit code is 1 after an error, and 2 if the model is not known.
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

MIN_PSNR = {StepCaching.BALANCED: 30.0, StepCaching.FAST: 26.0}
"""The PSNR in dB to the exact video that every video of a level must have."""

TOLERANCES = (0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.08, 0.1, 0.15)

PROMPTS = (
    "A beautiful landscape painting of a serene lake with mountains in the background and an ox in the foreground.",
    "a big red circle moving right on a white background",
    "a yellow ring moving down on a blue background",
    "一个绿色的圆环在黑色背景上向左移动",
)


@dataclass(frozen=True, slots=True)
class Trial:
    """A video made with a tolerance: the share of computed passes, and its PSNR in dB to the exact video."""

    tolerance: float
    computed: float
    psnr: float


def psnr(one: Frames, other: Frames) -> float:
    """Return the peak signal-to-noise ratio in dB; infinity for equal frames."""
    error = float(np.mean((one.astype(np.float32) - other.astype(np.float32)) ** 2))
    return inf if error == 0 else 10 * log10(255**2 / error)


def run_trials(runner: Runner, videos: Iterable[VideoParams], tolerances: Sequence[float]) -> Iterator[Trial]:
    """Make every video with every tolerance, and compare it with the exact one."""
    for params in videos:
        exact = runner.frames(params, tolerance=0.0)
        for tolerance in tolerances:
            made = runner.frames(params, tolerance=tolerance)
            yield Trial(tolerance, made.passes / exact.passes, psnr(made.frames, exact.frames))


def choose(trials: Sequence[Trial], min_psnr: float) -> float:
    """Return the largest tolerance up to which every video has at least `min_psnr` dB; 0 if there is none."""
    chosen = 0.0
    for tolerance in sorted({trial.tolerance for trial in trials}):
        if any(trial.psnr < min_psnr for trial in trials if trial.tolerance == tolerance):
            break
        chosen = tolerance
    return chosen


def table(trials: Sequence[Trial]) -> str:
    """Return a table of the tolerances, with the passes and the PSNR of each."""
    lines = ["tolerance  computed  PSNR median   least"]
    for tolerance in sorted({trial.tolerance for trial in trials}):
        selected = [trial for trial in trials if trial.tolerance == tolerance]
        ratios = [trial.psnr for trial in selected]
        share = fmean(trial.computed for trial in selected)
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
    parser.add_argument("--model", default=DEFAULT_MODEL, help="the model's id in the catalogue")
    parser.add_argument("--models-dir", type=Path, help="a folder with your own model files")
    parser.add_argument("--demo", action="store_true", help="use the demo's weights")
    parser.add_argument("--run-fast", action="store_true", help="use the model's distillation to few steps")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, nargs=3, metavar=("WIDTH", "HEIGHT", "FRAMES"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--prompts", type=Path, help="a file with one prompt per line")
    parser.add_argument("--tolerances", type=float, nargs="+", default=TOLERANCES)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> str | int | None:
    """Calibrate, and print the table and the lines for the model's file.

    Return the message of an error, 2 for an unknown model, or None.
    """
    options = _options(arguments)
    silence_progress_bars()
    try:
        entries = read_catalogue((BUILT_IN, options.models_dir) if options.models_dir else (BUILT_IN,))
        if (entry := entries.get(options.model)) is None:
            print(
                f"There is no model {options.model[:200]!r}. Say which: --model {' or '.join(entries)}", file=sys.stderr
            )
            return 2
        runner = _load(options, entry)
        params = _params(options, entry, runner)
        prompts: tuple[str, ...] = PROMPTS
        if options.prompts is not None:
            prompts = tuple(filter(None, map(str.strip, options.prompts.read_text(encoding="utf-8").splitlines())))
        videos = [replace(params, prompt=prompt, seed=seed) for seed, prompt in enumerate(prompts)]
        trials = []
        for trial in run_trials(runner, videos, options.tolerances):
            trials.append(trial)
            print(f"{trial.tolerance:9g}  {trial.computed:8.0%}  {trial.psnr:11.1f}", file=sys.stderr)
    except (PipelineError, OSError, UnicodeDecodeError) as error:
        return str(error)
    print(table(trials))
    print("\n[model.step_cache]")
    for level, min_psnr in MIN_PSNR.items():
        print(f"{level} = {choose(trials, min_psnr):g}  # all {len(videos)} videos have at least {min_psnr:g} dB")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
