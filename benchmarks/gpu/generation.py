"""One generation of a case as a server makes it: denoising, with compiled blocks where possible, and decoding."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import psutil
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.card import Card
from benchmarks.gpu.meter import DENOISING, DENOISING_COMPILED, Meter
from benchmarks.gpu.random_weights import Scale
from benchmarks.gpu.run import Case
from pipelines.core.errors import NonFiniteOutputError
from pipelines.core.geometry import Geometry
from pipelines.core.model import Attention, Compile
from pipelines.core.request import VideoParams
from pipelines.loading.load import LoadedPipeline
from pipelines.runner.compilation import Block, Compiler, is_wanted
from pipelines.stages.conditioning.text_encoding import PromptEncoder
from pipelines.stages.decoding.decoding import decode_frames
from pipelines.stages.denoising import denoise
from pipelines.stages.guidance import Guidance
from pipelines.stages.writing.video_writer import Mp4Writer

FLOW_SHIFT = {"480p": 3.0, "720p": 5.0}
GUIDANCE_SCALE = 5.0
TEXT_TOKENS = 512
FPS = 16
COMPILE = Compile.AUTO
KERNELS = 10
COMPILER_SECONDS = 150.0
"""How long to wait for the compiler in the background."""

WHOLE = ((16, GUIDANCE_SCALE, inf), (4, 1.0, 0.0), (16, GUIDANCE_SCALE, 0.0))
"""Whole videos by their steps, guidance scale and step-cache tolerance."""

Embeddings = tuple[torch.Tensor, torch.Tensor]
"""Of a prompt and a negative prompt, (1, tokens, dim) each."""


def encode(loaded: LoadedPipeline, params: VideoParams) -> Embeddings:
    """Encode both prompts."""
    prompts = PromptEncoder(loaded.pipe, loaded.device, TEXT_TOKENS)
    return prompts.encode(params.prompt), prompts.encode(params.negative_prompt)


@dataclass(frozen=True, slots=True)
class Generation:
    """Makes the videos of a case with a loaded pipeline, and notes the figures in `meter`."""

    case: Case
    scale: Scale
    loaded: LoadedPipeline
    attention: Attention
    card: Card
    meter: Meter
    folder: Path

    def run(self, params: VideoParams, embeddings: Embeddings) -> int:
        """Denoise and decode into a file. Return the number of frames."""
        meter = self.meter
        # smaller cards are about memory, and the compiler's process would not be limited to theirs
        if self.case.cap is not None or not is_wanted(COMPILE, self.loaded.device, self.loaded.layout):
            meter.turn_to(DENOISING)
            latents = self._denoised(embeddings, params, self._guidance(embeddings), meter.step)
        else:
            latents = self._compiled(embeddings, params)
        meter.turn_to("decoding")
        frames = self._decoded(latents)
        meter.end()
        return self._whole(params) if self.case.whole else frames

    def _compiled(self, embeddings: Embeddings, params: VideoParams) -> torch.Tensor:
        """Denoise while the compiler works, and again with compiled blocks."""
        meter = self.meter
        block = Block.of(self.loaded, self._geometry(params), TEXT_TOKENS, self.attention)
        compiler = Compiler(self.loaded.denoisers, block, self.folder)
        began = time.perf_counter()
        compiler.activate()
        meter.turn_to(DENOISING)
        fewer = replace(params, num_inference_steps=params.num_inference_steps - 1)
        self._denoised(embeddings, fewer, self._guidance(embeddings), meter.step)
        meter.end()
        psutil.wait_procs(psutil.Process().children(), timeout=COMPILER_SECONDS)
        compiler.close()
        meter.note(compiling_seconds=round(time.perf_counter() - began, 2))
        began = time.perf_counter()
        compiler.activate()
        meter.note(taking_up_seconds=round(time.perf_counter() - began, 2), is_compiled=compiler.is_compiled)
        meter.turn_to(DENOISING_COMPILED)
        latents = self._denoised(embeddings, params, self._guidance(embeddings), meter.step)
        meter.end()
        meter.record["compiled"]["kernels"] = self._kernels(embeddings, params)
        return latents

    def _kernels(self, embeddings: Embeddings, params: VideoParams) -> dict[str, float]:
        """Return the KERNELS that take most of one pass, each with its share of the time."""
        on_card = self.loaded.device.type == "cuda"
        activity = ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU
        one_pass = replace(params, num_inference_steps=1, guidance_scale=1.0)
        with profile(activities=[activity]) as seen:
            self._denoised(embeddings, one_pass, Guidance(self.loaded.family))
        times = {
            each.key: each.self_device_time_total if on_card else each.self_cpu_time_total
            for each in seen.key_averages()
        }
        total = sum(times.values())
        most = sorted(times, key=lambda name: -times[name])[:KERNELS]
        return {name: round(times[name] / total, 4) for name in most}

    def _whole(self, params: VideoParams) -> int:
        frames, videos = 0, []
        for steps, guidance_scale, tolerance in WHOLE:
            began = time.perf_counter()
            asked = replace(params, num_inference_steps=steps, guidance_scale=guidance_scale)
            embeddings = encode(self.loaded, asked)
            guidance = self._guidance(embeddings, guidance_scale, tolerance)
            frames = self._decoded(self._denoised(embeddings, asked, guidance))
            is_guided = guidance_scale > 1
            videos.append(
                {
                    "steps": steps,
                    "guided": is_guided,
                    "computed": guidance.passes_computed // (1 + is_guided),
                    "seconds": round(time.perf_counter() - began, 2),
                }
            )
            self.meter.note(whole=videos)
        return frames

    def _guidance(
        self, embeddings: Embeddings, guidance_scale: float = GUIDANCE_SCALE, tolerance: float = 0.0
    ) -> Guidance:
        negative = embeddings[1] if guidance_scale > 1 else None
        loaded = self.loaded
        return Guidance(loaded.family, guidance_scale, negative, batched=loaded.batched, tolerance=tolerance)

    def _geometry(self, params: VideoParams) -> Geometry:
        return Geometry.fit(params.width, params.height, params.num_frames, self.loaded.grid)

    def _denoised(
        self,
        embeddings: Embeddings,
        params: VideoParams,
        guidance: Guidance,
        on_step: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """Return the latents; noise if they are not finite, since no time depends on their values."""
        loaded, geometry = self.loaded, self._geometry(params)
        try:
            return denoise(
                loaded.family,
                loaded.pipe,
                *embeddings,
                params,
                geometry,
                guidance,
                scheduler=loaded.samplers.make(shift=FLOW_SHIFT[self.case.video]),
                attention=self.attention,
                on_step=lambda *_: on_step(),
            )
        except NonFiniteOutputError:
            self.meter.note(latents="not finite")
        return torch.randn(loaded.family.forward_inputs(loaded.shape, geometry, TEXT_TOKENS)["hidden_states"])

    def _decoded(self, latents: torch.Tensor) -> int:
        """Decode into a file. Return the number of frames."""
        width, height, _ = self.scale.videos[self.case.video]
        try:
            with Mp4Writer(self.folder / "video.mp4", width, height, FPS) as writer:
                for group in decode_frames(self.loaded.vae, latents, self.loaded.decoding):
                    writer.write(group)
                return writer.close().num_frames
        except NonFiniteOutputError:
            self.meter.give_up(video="not finite")
            return 0
