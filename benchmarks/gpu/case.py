"""One case of `benchmarks.gpu`, in a process of its own: a fresh allocator, a cap of its own, and nothing left behind.

python -m benchmarks.gpu.case NAME --to FILE.json [--small]

The file is written anew after every stage and step, so that what was measured stays when the process is stopped.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from math import ceil, inf
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.profiler import ProfilerActivity, profile
from transformers.utils import logging as transformers_logging

from benchmarks.gpu.card import Card, Stage, Watch, open_card
from benchmarks.gpu.random_weights import (
    KINDS,
    PUBLISHED,
    SEED,
    SMALL,
    Scale,
    assemble,
    fill_part,
    published_shape,
    write_configs,
)
from benchmarks.gpu.run import CASES, Case, allocator_settings
from pipelines.core.errors import NonFiniteOutputError
from pipelines.core.files import atomic_write
from pipelines.core.geometry import Geometry, Grid
from pipelines.core.model import Attention, Compile
from pipelines.core.request import VideoParams
from pipelines.layers.attention.backends import Sequence, choose
from pipelines.offload.placement import place_module
from pipelines.planning.layout import GIB, Layout, Machine, MemoryPlan
from pipelines.planning.planner import plan
from pipelines.runner.compilation import Block, Compiler, is_wanted
from pipelines.stages.decoding.decoding import decode_frames
from pipelines.stages.denoising import denoise, release_memory
from pipelines.stages.guidance import Guidance
from pipelines.stages.text_encoding import PromptEncoder
from pipelines.stages.video_writer import Mp4Writer

FLOW_SHIFT = {"480p": 3.0, "720p": 5.0}
GUIDANCE = 5.0
TEXT_TOKENS = 512
FPS = 16
COMPILE = Compile.AUTO
KERNELS = 10
COMPILER_SECONDS = 150.0
"""How long a compiler in the background is waited for."""

WHOLE = ((16, GUIDANCE, inf), (4, 1.0, 0.0), (16, GUIDANCE, 0.0))
"""Videos by their steps, guidance and the step cache's tolerance."""

HOST_SHARE = 0.9
"""Share of a stated host's memory that a plan may use, as `paddock plan` has it."""

DENOISING, DENOISING_COMPILED = "denoising", "denoising, compiled"

Embeddings = tuple[torch.Tensor, torch.Tensor]
"""Of a prompt and a negative prompt, (1, tokens, dim) each."""


class Meter:
    """A case's record as it grows: stage by stage the seconds and the peaks, and the seconds of each step."""

    def __init__(self, case: Case, scale: Scale, card: Card, watch: Watch, to: Path) -> None:
        self._card = card
        self._watch = watch
        self._to = to
        self._stage = ""
        self._began = self._last = 0.0
        self.record: dict[str, Any] = {
            "case": case.name,
            "scale": scale.name,
            "video": list(scale.videos[case.video]),
            "cap_bytes": case.cap,
            "date": time.strftime("%Y-%m-%d"),
            "allocator": allocator_settings(),
            **{package: version(package) for package in ("torch", "diffusers", "transformers")},
            **card.facts(),
            "stages": {},
            "step_seconds": [],
        }

    def note(self, **facts: Any) -> None:
        """Add to the record, and write it."""
        self.record.update(facts)
        atomic_write(self._to, json.dumps(self.record), durable=False)

    def turn_to(self, stage: str) -> None:
        """End the stage under way, and begin another."""
        self.end()
        self._card.reset()
        self._watch.restart()
        self._stage = stage
        self._began = self._last = time.perf_counter()

    def end(self) -> None:
        """End the stage under way, if any."""
        if self._stage:
            self._card.synchronize()
            seconds = time.perf_counter() - self._began
            self._watch.look()
            self.record["stages"][self._stage] = Stage(seconds, self._card.use(), self._watch.card).json()
            self._stage = ""
            self.note(host_bytes=self._watch.host)

    def give_up(self, **reason: str) -> None:
        """Leave the stage under way without figures, as it was not gone through, and note why."""
        self.note(**reason, stopped_in=self._stage)
        self._stage = ""

    def step(self) -> None:
        """A step is done: note the seconds since the last, or since the stage began."""
        self._card.synchronize()
        steps = self.record if self._stage == DENOISING else self.record.setdefault("compiled", {"step_seconds": []})
        steps["step_seconds"].append(round(time.perf_counter() - self._last, 3))
        first, *timed = steps["step_seconds"]
        if timed:
            usual = statistics.median(timed)
            steps.update(seconds_per_step=round(usual, 3), first_step_more_seconds=round(first - usual, 3))
        self.note()
        self._last = time.perf_counter()


def measure(case: Case, scale: Scale, to: Path) -> dict[str, Any]:
    """Go through one case and return its record, which is also in the file `to`.

    A plan that does not fit, memory that runs out and values that are not numbers are results, told in the record.
    """
    card = open_card(case.cap)
    with tempfile.TemporaryDirectory() as name, Watch(card.driver_used) as watch:
        folder = Path(name)
        meter = Meter(case, scale, card, watch, to)
        layout = None if case.plain else _laid_out(case, scale, card, meter)
        if case.plain or layout is not None:
            try:
                _run(case, scale, layout, card, meter, folder)
            except torch.OutOfMemoryError as error:
                meter.give_up(out_of_memory=str(error).partition("\n")[0])
        meter.note(finished=True)
    return meter.record


def _laid_out(case: Case, scale: Scale, card: Card, meter: Meter) -> Layout | None:
    """The layout of the plan for the case, noted; None, with what is missing noted, if it does not fit."""
    # whatever the scale, the plan is the published model's: what is tried in small is what will be done in earnest
    shape = published_shape()
    machine = _stated(case, card.machine())
    chosen = plan(shape, Geometry.fit(*PUBLISHED.videos[case.video], shape.grid), machine)
    meter.note(plan=_described(chosen), machine=asdict(machine))
    if not chosen.fits(machine):
        meter.note(does_not_fit=chosen.shortfall(machine))
        return None
    layers = scale.transformer.get("num_layers", shape.transformer.num_layers)
    share = chosen.layout.resident_blocks / shape.transformer.num_layers
    return replace(chosen.layout, resident_blocks=min(layers - 1, ceil(share * layers)))


def _stated(case: Case, here: Machine) -> Machine:
    """This machine, as far as the case does not speak of a smaller one."""
    return Machine(
        here.device_memory if case.cap is None else min(case.cap, here.device_memory),
        here.host_memory if case.host is None else min(round(HOST_SHARE * case.host * GIB), here.host_memory),
        case.capability or here.capability,
        case.precision,
    )


def _described(chosen: MemoryPlan) -> dict[str, Any]:
    return {
        "name": chosen.name,
        **asdict(chosen.layout),
        "stage_peaks": chosen.stage_peaks,
        "device_peak": chosen.device_peak,
        "host_peak": chosen.host_peak,
        "relative_seconds_per_step": round(chosen.relative_seconds_per_step, 3),
    }


@torch.no_grad()
def _run(case: Case, scale: Scale, layout: Layout | None, card: Card, meter: Meter, folder: Path) -> None:
    """Load, encode two prompts, denoise and decode: by a layout, or as diffusers' documentation has it."""
    attention = Attention.NATIVE if layout is None else _attention(case, scale, card, meter, folder)
    meter.turn_to("loading")
    pipe = _load(case, scale, layout, card, meter, folder)
    width, height, frames = scale.videos[case.video]
    params = VideoParams("prompt", "negative prompt", height, width, frames, case.steps, GUIDANCE, SEED)
    meter.turn_to("encoding the prompt")
    embeddings = _encoded(pipe, params, card)
    if layout is None:
        meter.turn_to(DENOISING)
        made = _plainly(pipe, embeddings, params, meter)
    else:
        made = _Ours(case, scale, layout, attention, card, meter, folder).run(pipe, params, embeddings)
    meter.end()
    meter.note(frames=made)


def _encoded(pipe: Any, params: VideoParams, card: Card) -> Embeddings:
    prompts = PromptEncoder(pipe, card.device, TEXT_TOKENS)
    return prompts.encode(params.prompt), prompts.encode(params.negative_prompt)


@dataclass(frozen=True, slots=True)
class _Ours:
    """How a server makes a video on this card, by a layout."""

    case: Case
    scale: Scale
    layout: Layout
    attention: Attention
    card: Card
    meter: Meter
    folder: Path

    def run(self, pipe: Any, params: VideoParams, embeddings: Embeddings) -> int:
        """Denoise, compiled where that is wanted, and decode into a file; returns how many frames came."""
        meter, guidance = self.meter, self._guidance(embeddings)
        # a smaller card is about memory, and the compiler's process would not be held to it
        if self.case.cap is not None or not is_wanted(COMPILE, self.card.device, self.layout):
            meter.turn_to(DENOISING)
            latents = self._denoised(pipe, embeddings, params, guidance, meter.step)
        else:
            latents = self._compiled(pipe, embeddings, params)
        meter.turn_to("decoding")
        made = self._decoded(pipe, latents)
        meter.end()
        return self._whole(pipe, params) if self.case.whole else made

    def _compiled(self, pipe: Any, embeddings: Embeddings, params: VideoParams) -> torch.Tensor:
        meter, guidance = self.meter, self._guidance(embeddings)
        compiler = Compiler(pipe, self._block(pipe, params), self.folder)
        began = time.perf_counter()
        compiler.activate()
        meter.turn_to(DENOISING)
        fewer = replace(params, num_inference_steps=params.num_inference_steps - 1)
        self._denoised(pipe, embeddings, fewer, guidance, meter.step)
        meter.end()
        psutil.wait_procs(psutil.Process().children(), timeout=COMPILER_SECONDS)
        compiler.close()
        meter.note(compiling_seconds=round(time.perf_counter() - began, 2))
        began = time.perf_counter()
        compiler.activate()
        meter.note(taking_up_seconds=round(time.perf_counter() - began, 2), is_compiled=compiler.is_compiled)
        meter.turn_to(DENOISING_COMPILED)
        latents = self._denoised(pipe, embeddings, params, self._guidance(embeddings), meter.step)
        meter.end()
        meter.record["compiled"]["kernels"] = self._kernels(pipe, embeddings, params)
        return latents

    def _kernels(self, pipe: Any, embeddings: Embeddings, params: VideoParams) -> dict[str, float]:
        """What one pass spends its time with: the KERNELS that take most, and their shares of it."""
        on_card = self.card.device.type == "cuda"
        activity = ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU
        with profile(activities=[activity]) as seen:
            self._denoised(pipe, embeddings, replace(params, num_inference_steps=1, guidance_scale=1.0), Guidance())
        times = {
            each.key: each.self_device_time_total if on_card else each.self_cpu_time_total
            for each in seen.key_averages()
        }
        total = sum(times.values())
        most = sorted(times, key=lambda name: -times[name])[:KERNELS]
        return {name: round(times[name] / total, 4) for name in most}

    def _whole(self, pipe: Any, params: VideoParams) -> int:
        made, videos = 0, []
        for steps, guidance_scale, tolerance in WHOLE:
            began = time.perf_counter()
            asked = replace(params, num_inference_steps=steps, guidance_scale=guidance_scale)
            embeddings = _encoded(pipe, asked, self.card)
            guidance = self._guidance(embeddings, guidance_scale, tolerance)
            made = self._decoded(pipe, self._denoised(pipe, embeddings, asked, guidance))
            seconds, a_step = round(time.perf_counter() - began, 2), 1 + (guidance_scale > 1)
            videos.append(
                {
                    "steps": steps,
                    "guided": guidance_scale > 1,
                    "computed": guidance.passes_computed // a_step,
                    "seconds": seconds,
                }
            )
            self.meter.note(whole=videos)
        return made

    def _guidance(self, embeddings: Embeddings, guidance_scale: float = GUIDANCE, tolerance: float = 0.0) -> Guidance:
        negative = embeddings[1] if guidance_scale > 1 else None
        return Guidance(guidance_scale, negative, batched=self.layout.batched, tolerance=tolerance)

    def _geometry(self, pipe: Any, params: VideoParams) -> Geometry:
        patch = pipe.transformer.config.patch_size[1:]
        grid = Grid.of(pipe.vae_scale_factor_spatial, patch, pipe.vae_scale_factor_temporal)
        return Geometry.fit(params.width, params.height, params.num_frames, grid)

    def _block(self, pipe: Any, params: VideoParams) -> Block:
        geometry, precision = self._geometry(pipe, params), self.layout.precision
        return Block.of(pipe, geometry, TEXT_TOKENS, self.card.device, "bfloat16", precision, self.attention)

    def _denoised(
        self,
        pipe: Any,
        embeddings: Embeddings,
        params: VideoParams,
        guidance: Guidance,
        on_step: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """The latents as the server makes them; noise instead if they are not finite, since no time depends on it."""
        spatial, temporal = pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
        geometry = self._geometry(pipe, params)
        try:
            return denoise(
                pipe,
                *embeddings,
                params,
                geometry,
                guidance,
                flow_shift=FLOW_SHIFT[self.case.video],
                attention=self.attention,
                on_step=lambda *_: on_step(),
            )
        except NonFiniteOutputError:
            self.meter.note(latents="not finite")
        frames = (geometry.full_num_frames - 1) // temporal + 1
        return torch.randn(
            1, pipe.vae.config.z_dim, frames, geometry.full_height // spatial, geometry.full_width // spatial
        )

    def _decoded(self, pipe: Any, latents: torch.Tensor) -> int:
        """Decode into a file as the server does; returns how many frames came."""
        width, height, _ = self.scale.videos[self.case.video]
        try:
            with Mp4Writer(self.folder / "video.mp4", width, height, FPS) as writer:
                for group in decode_frames(pipe.vae, latents, self.layout.decoding):
                    writer.write(group)
                return writer.close().num_frames
        except NonFiniteOutputError:
            self.meter.give_up(video="not finite")
            return 0


def _attention(case: Case, scale: Scale, card: Card, meter: Meter, folder: Path) -> Attention:
    """The kernel for the case, noted, as a server chooses it."""
    shape = write_configs(scale, folder / "shape")
    tokens = shape.tokens(Geometry.fit(*scale.videos[case.video], shape.grid))
    over = Sequence(tokens, shape.transformer.num_attention_heads, shape.transformer.attention_head_dim)
    chosen = choose(case.attention, card.device, lambda: over, folder)
    meter.note(attention=chosen)
    return chosen


def _load(case: Case, scale: Scale, layout: Layout | None, card: Card, meter: Meter, folder: Path) -> Any:
    """The pipeline with its weights in their places; how long placing them took is noted: pinning is most of it."""
    torch.manual_seed(SEED)
    write_configs(scale, folder / "configs")
    parts, placing = {}, 0.0
    for part in KINDS:
        # diffusers' documentation has Wan's VAE in fp32
        dtype = torch.float32 if part == "vae" and layout is None else torch.bfloat16
        module = fill_part(part, folder / "configs", layout or Layout(), card.device, dtype, folder / "disk")
        began = time.perf_counter()
        place_module(part, module, layout or Layout(), card.device)
        placing += time.perf_counter() - began
        parts[part] = module
    release_memory()
    meter.note(placing_seconds=round(placing, 3))
    return assemble(parts, FLOW_SHIFT[case.video])


def _plainly(pipe: Any, embeddings: Embeddings, params: VideoParams, meter: Meter) -> int:
    """One call of the pipeline, from embeddings to frames as floats; returns how many frames came."""

    def after_step(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        meter.step()
        if index + 1 == params.num_inference_steps:
            meter.turn_to("decoding")
        return tensors

    prompt, negative = embeddings
    video = pipe(
        prompt_embeds=prompt,
        negative_prompt_embeds=negative,
        height=params.height,
        width=params.width,
        num_frames=params.num_frames,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(params.seed),
        callback_on_step_end=after_step,
    ).frames[0]
    return len(video)


def main() -> None:
    """Measure the case that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    measure(CASES[options.case], SMALL if options.small else PUBLISHED, options.to)


if __name__ == "__main__":
    main()
