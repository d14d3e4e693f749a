"""The time and quality of each speed feature: plain diffusers and ours, alone and combined, on the same noise.

python -m benchmarks.quality.speed

Every round makes one of the demo's videos by every case, in turn, so that a busy machine slows all of them equally. The
table has for each case: the seconds of a step; their ratio to plain diffusers' in the same round; the share of the
transformer's passes that were computed (diffusers' caches compute parts of passes, which are not counted); the PSNR to
plain diffusers' video; and the share of videos that show what was requested (background, colour, shape and motion, by
`demo_training.judge`), which should be about the same for every case. `benchmarks.gpu` measures the 14B model on a GPU.
"""

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from diffusers.hooks import FirstBlockCacheConfig, SeaCacheConfig

from benchmarks.quality.demo_quality import SEEN, Question, questions
from benchmarks.report import bootstrap, show
from demo_training.judge import judge
from pipelines.core.geometry import Geometry
from pipelines.core.model import Attention, Compile, ModelSpec
from pipelines.core.precision import Accuracy, Precision
from pipelines.core.request import StepCaching, VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.loading.load import silence_progress_bars
from pipelines.models.registry import family_of
from pipelines.planning.layout import Layout
from pipelines.runner.result import RenderedFrames
from pipelines.runner.runner import Runner
from pipelines.stages.decoding.decoding import decode_frames
from pipelines.tools.calibrate_step_cache import psnr

SPEC = ModelSpec("demo", fps=16)
STEPS = 16
SHOWN = ("s/step", "of plain's", "passes", "PSNR, dB", *SEEN)


class Plain:
    """diffusers as in its documentation, in the dtype of a runner, with one of its caches or none."""

    def __init__(self, folder: Path, device: str, like: Runner, cache: Any = None) -> None:
        dtype = getattr(torch, like.fingerprint["dtype"])
        self._pipe = WanPipeline.from_pretrained(folder, local_files_only=True, dtype=dtype).to(device)
        self._pipe.set_progress_bar_config(disable=True)
        if cache is not None:
            self._pipe.transformer.enable_cache(cache)
        self._shape = family_of(SPEC.pipeline_class).read_shape(folder)

    @torch.no_grad()
    def frames(self, params: VideoParams) -> RenderedFrames:
        """Do as `Runner.frames` does."""
        geometry = Geometry.fit(params.width, params.height, params.num_frames, self._shape.grid)
        embeddings = self._pipe.encode_prompt(params.prompt, params.negative_prompt, max_sequence_length=512)
        began = time.perf_counter()
        latents = self._pipe(
            prompt_embeds=embeddings[0],
            negative_prompt_embeds=embeddings[1],
            height=geometry.full_height,
            width=geometry.full_width,
            num_frames=geometry.full_num_frames,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(params.seed),
            output_type="latent",
        ).frames
        seconds = time.perf_counter() - began
        frames = np.concatenate(list(decode_frames(self._pipe.vae, latents)))
        passes = 0 if self._pipe.transformer.is_cache_enabled else 2 * params.num_inference_steps
        return RenderedFrames(frames[: geometry.num_frames, *geometry.crop], passes, seconds)


Make = Callable[[VideoParams], RenderedFrames]


PLAIN = "plain diffusers"
ROUNDED = (
    "attention in fp8",
    *(name for each in (Precision.INT8_MATMUL, Precision.FP8_MATMUL) for name in (each, f"{each}, fast")),
)
"""Cases that a CPU is slow at: on a CPU they are measured only if they are named."""

CASES = (
    PLAIN,
    "its first block cache, 0.05",
    "its first block cache, 0.1",
    "its SeaCache, 0.15",
    "ours, exact",
    "step cache, balanced",
    "step cache, fast",
    "guidance batched",
    "compiled blocks",
    "compiled blocks, balanced",
    "compiled blocks, fast",
    *ROUNDED,
)


class Cases:
    """Returns each case by its name. Runners of the same kind are loaded once."""

    def __init__(self, folder: Path, device: str, cache: Path) -> None:
        self._folder = folder
        self._device = device
        self._cache = cache
        self._runners: dict[tuple[Any, ...], Runner] = {}

    def make(self, name: str) -> Make:
        """Return the case of that name."""
        kind, _, level = name.rpartition(", ")
        if level in tuple(StepCaching):
            return self._at(kind, StepCaching(level))
        plain = partial(Plain, self._folder, self._device, self._runner())
        match name:
            case "plain diffusers":
                return plain().frames
            case "its first block cache, 0.05":
                return plain(FirstBlockCacheConfig(0.05)).frames
            case "its first block cache, 0.1":
                return plain(FirstBlockCacheConfig(0.1)).frames
            case "its SeaCache, 0.15":
                return plain(SeaCacheConfig(0.15)).frames
        return self._at(name, StepCaching.EXACT)

    def _at(self, kind: str, level: StepCaching) -> Make:
        match kind:
            case "guidance batched":
                runner = self._runner(Layout(batched=True))
            case "compiled blocks":
                runner = self._compiled()
            case "attention in fp8":
                runner = self._runner(attention=Attention.FP8)
            case Precision.INT8_MATMUL | Precision.FP8_MATMUL:
                runner = self._runner(Layout(Precision(kind)))
            case _:
                runner = self._runner()
        return lambda params: runner.frames(replace(params, step_cache=level))

    def _runner(self, layout: Layout | None = None, **changes: Any) -> Runner:
        key = (layout, *changes.items())
        if key not in self._runners:
            spec = replace(SPEC, **changes)
            self._runners[key] = Runner.load(
                spec,
                self._folder,
                self._device,
                # as plain diffusers computes
                layout=replace(layout or Layout(), accuracy=Accuracy.STANDARD),
                cache=self._cache,
            )
        return self._runners[key]

    def _compiled(self) -> Runner:
        runner = self._runner(compile=Compile.ON)
        print("compiling in the background", file=sys.stderr)
        while runner.fingerprint["compiled"] == "nothing":
            time.sleep(1.0)
            runner.adopt_compiled()
        return runner


@dataclass(frozen=True, slots=True)
class Figures:
    """One video of a case: seconds per step, ratio to plain, passes, PSNR to plain (None: equal), verdicts."""

    seconds: float
    ratio: float
    passes: int
    psnr: float | None
    shows: dict[str, bool]


def measure(make: dict[str, Make], asked: Sequence[Question], size: Sequence[int]) -> dict[str, list[Figures]]:
    """Make every question's video by every case, each round in another order."""
    found: dict[str, list[Figures]] = {name: [] for name in make}
    width, height, frames = size
    for seed, question in enumerate(asked):
        params = VideoParams(question.prompt, " ", height, width, frames, STEPS, 5.0, seed)
        order = np.random.default_rng(seed).permutation(list(make))
        made = {str(name): make[name](params) for name in order}
        plain = next(iter(make))
        for name, video in made.items():
            verdict = judge(video.frames)
            found[name].append(
                Figures(
                    video.seconds / STEPS,
                    video.seconds / made[plain].seconds,
                    video.passes,
                    _finite(psnr(video.frames, made[plain].frames)),
                    {seen: getattr(verdict, seen) == question.wanted[seen] for seen in SEEN},
                )
            )
        print(f"{seed + 1} of {len(asked)}", file=sys.stderr)
    return found


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def summary(figures: Sequence[Figures]) -> dict[str, Any]:
    """Return the medians of a case's figures, and the shares of videos that show what was requested."""
    ratios, psnrs = [each.ratio for each in figures], [each.psnr for each in figures if each.psnr is not None]
    return {
        "seconds_per_step": statistics.median(each.seconds for each in figures),
        "ratio": statistics.median(ratios),
        "ratio_95": bootstrap(ratios),
        "passes": statistics.fmean(each.passes for each in figures) / (2 * STEPS),
        "identical": len(figures) - len(psnrs),
        "psnr_median": statistics.median(psnrs) if psnrs else None,
        "psnr_least": min(psnrs, default=None),
        **{seen: statistics.fmean(each.shows[seen] for each in figures) for seen in SEEN},
    }


def row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """Return a case as a table row."""
    low, high = found["ratio_95"]
    return (
        name,
        f"{found['seconds_per_step']:.3f}",
        f"{found['ratio']:.2f} ({low:.2f} to {high:.2f})",
        f"{found['passes']:.0%}" if found["passes"] else "–",
        "identical"
        if found["psnr_least"] is None
        else f"{found['psnr_median']:.1f}, at least {found['psnr_least']:.1f}",
        *(f"{found[seen]:.0%}" for seen in SEEN),
    )


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=demo_folder())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--size", type=int, nargs=3, default=[416, 240, 33], metavar=("WIDTH", "HEIGHT", "FRAMES"))
    parser.add_argument("--case", nargs="+", choices=CASES, metavar="CASE", help="; ".join(CASES))
    options = parser.parse_args()
    silence_progress_bars()
    names = options.case or [name for name in CASES if options.device != "cpu" or name not in ROUNDED]
    with TemporaryDirectory() as folder:
        cases = Cases(options.folder, options.device, Path(folder))
        make = {name: cases.make(name) for name in dict.fromkeys([PLAIN, *names])}
        found = measure(make, questions(options.prompts), options.size)
    summaries = {name: summary(figures) for name, figures in found.items()}
    figures = {
        "command": shlex.join(["python", "-m", "benchmarks.quality.speed", *sys.argv[1:]]),
        "device": options.device,
        "size": options.size,
        "steps": STEPS,
        "prompts": options.prompts,
        "threads": torch.get_num_threads(),
        "cases": summaries,
    }
    show("speed", [row(name, found) for name, found in summaries.items()], figures, ("case", *SHOWN), 150)


if __name__ == "__main__":
    main()
