"""The whole of it for one device: what a worker, a notebook or a benchmark holds.

runner = Runner.load(spec, weights.locate(spec), device="cuda:0")
runner.run(VideoParams(...), Path("video.mp4"))
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.core.geometry import Geometry
from pipelines.core.model import Attention, ModelSpec
from pipelines.core.precision import Precision
from pipelines.core.progress import GenerationStats, LoadCallback, Stage, VideoFile
from pipelines.core.request import VideoParams
from pipelines.layers.attention.backends import Sequence, choose
from pipelines.loading.device_plan import plan_here
from pipelines.loading.load import CACHE, LoadedPipeline, load_pipeline
from pipelines.planning.layout import Layout, Residence
from pipelines.planning.shapes import read_shape
from pipelines.runner.callbacks import NO_CALLBACKS, Callbacks
from pipelines.runner.compilation import Block, Compiler, is_wanted
from pipelines.runner.progress import GenerationProgress
from pipelines.runner.result import RenderedFrames, RenderedVideo
from pipelines.stages.checkpoint import DenoisingState
from pipelines.stages.decoding.decoding import decode_frames
from pipelines.stages.denoising import Capture, Predict, denoise, flow_shift_at, recover, release_memory
from pipelines.stages.guidance import Passes
from pipelines.stages.preview.latent_rgb import fitting
from pipelines.stages.preview.preview import draw
from pipelines.stages.text_encoding import EmbeddingStore, PromptEncoder
from pipelines.stages.video_writer import Mp4Writer


class Runner:
    """A model loaded on one device, making one video at a time."""

    def __init__(
        self,
        spec: ModelSpec,
        loaded: LoadedPipeline,
        cache: Path = CACHE,
        attention: Attention = Attention.NATIVE,
    ) -> None:
        self.spec = spec
        self._loaded = loaded
        self._attention = attention
        self._latent_rgb = fitting(loaded.latent_rgb or spec.latent_rgb, loaded.pipe.vae)
        # a model small enough for a processor encodes a prompt sooner than a file is read
        store = None if loaded.layout is None else EmbeddingStore(cache / "prompts", _encoded_by(spec, loaded))
        self._prompts = PromptEncoder(loaded.pipe, loaded.device, spec.max_sequence_length, store)
        self._compiler: Compiler | None = None
        if is_wanted(spec.compile, loaded.device, loaded.layout):
            self._compiler = Compiler(loaded.pipe, _block(spec, loaded, attention), cache)
        self.adopt_compiled()

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        folder: Path,
        device: str,
        on_progress: LoadCallback = lambda *_: None,
        layout: Layout | None = None,
        cache: Path = CACHE,
    ) -> "Runner":
        """Load the weights in `folder` onto `device` (a torch device name), by default by the plan for what is free.

        Weights in a form of the plan's own are kept in the folder `cache`.

        Raises PipelineError, and torch.OutOfMemoryError: `pipelines.runner.oom_fallback` knows what to do then.
        """
        if layout is None and (chosen := plan_here(spec, folder, device)) is not None:
            layout = chosen.layout
        # on a card that is still empty
        attention = choose(spec.attention, torch.device(device), partial(_sequence, spec, folder), cache)
        loaded = load_pipeline(folder, device, on_progress, layout, cache, spec.loras, spec.files)
        return cls(spec, loaded, cache, attention)

    @property
    def fingerprint(self) -> dict[str, str]:
        """Everything besides the request that decides a video's bytes."""
        shift = self.spec.flow_shift
        return {
            **self._loaded.fingerprint,
            "flow_shift": "the scheduler's" if shift is None else " ".join(f"{k} {v:g}" for k, v in shift.items()),
            "attention": self._attention,
            "compiled": "blocks" if self._compiler is not None and self._compiler.is_compiled else "nothing",
            "guidance": self._guidance,
            "step_cache": f"balanced {self.spec.step_cache.balanced:g} fast {self.spec.step_cache.fast:g}",
            "max_sequence_length": str(self.spec.max_sequence_length),
        }

    def adopt_compiled(self) -> None:
        """Take up what was made in the background for videos to come: for when the device has nothing to do."""
        if self._compiler is not None:
            self._compiler.activate()

    def do_without_compiling(self, error: Exception) -> None:
        """Go on with blocks as they are, after compiled ones failed."""
        if self._compiler is not None:
            self._compiler.give_up(error)

    @property
    def _guidance(self) -> str:
        if not self.spec.guidance:
            return "none"
        least, most = self.spec.guidance_interval
        return f"{'batched' if self._loaded.batched else 'one by one'}, {least:g} to {most:g}"

    def close(self) -> None:
        """Let go of the weights, and of the memory they took; the runner is of no use afterwards."""
        pipe = self._loaded.pipe
        if self._compiler is not None:
            self._compiler.close()
        del self._loaded, self._prompts, self._compiler
        recover(pipe)
        # some hooks and caches refer back to the pipeline: emptied, it holds no weights whoever refers to it
        for name, part in pipe.components.items():
            if hasattr(part, "parameters"):
                setattr(pipe, name, None)
        release_memory()

    def release(self) -> None:
        """Give back what a generation that was cut short still holds, once its exception has been let go."""
        recover(self._loaded.pipe)

    def run(self, params: VideoParams, path: Path, hooks: Callbacks = NO_CALLBACKS) -> VideoFile:
        """Make one video and write it to `path`, whole or not at all, from where its checkpoint left it if it has one.

        Raises GenerationCancelled within one denoising step, or one group of frames, of the hook that tells of it,
        GenerationSuspended by order of the checkpoint, NonFiniteOutputError or EncodingError. After any of them the
        runner is ready for the next video.
        """
        return self.render(params, path, hooks).finish()

    @torch.no_grad()
    def render(self, params: VideoParams, path: Path, hooks: Callbacks = NO_CALLBACKS) -> RenderedVideo:
        """As `run`, but the device is free for the next video while the file of this one is finished."""
        params = self._as_the_weights_want(params)
        course = GenerationProgress(params, self._latents_depend_on(params), hooks)
        geometry = Geometry.fit(params.width, params.height, params.num_frames, self._loaded.grid)
        try:
            latents, work = self._denoise(params, geometry, course)
            return self._write(latents, path, geometry, course, work)
        except BaseException:
            recover(self._loaded.pipe)
            raise
        finally:
            if hooks.checkpoint is not None:
                hooks.checkpoint.finish()

    @torch.no_grad()
    def frames(self, params: VideoParams, *, tolerance: float | None = None) -> RenderedFrames:
        """What `run` would write, in memory, for measuring. `tolerance` is in place of that of the level asked for."""
        params = self._as_the_weights_want(params)
        geometry = Geometry.fit(params.width, params.height, params.num_frames, self._loaded.grid)
        negative = self._prompts.encode(params.negative_prompt) if params.is_guided else None
        prompt = self._prompts.encode(params.prompt)
        passes = self._passes(params, negative, tolerance)
        began = time.perf_counter()
        latents = self._latents(prompt, negative, params, geometry, passes)
        # the latents were looked at, so that a device has done what it was given
        seconds = time.perf_counter() - began
        frames = np.concatenate(list(decode_frames(self._loaded.pipe.vae, latents, self._loaded.decoding)))
        return RenderedFrames(frames[: geometry.num_frames, *geometry.crop], passes.computed, seconds)

    def _as_the_weights_want(self, params: VideoParams) -> VideoParams:
        return params if self.spec.guidance else replace(params, guidance_scale=1.0)

    def _latents_depend_on(self, params: VideoParams) -> dict[str, Any]:
        # where weights lie and how frames are decoded may change in the middle: the latents stay the same
        fingerprint = {name: value for name, value in self.fingerprint.items() if name != "plan"}
        return {"params": asdict(params), "fingerprint": fingerprint}

    def _denoise(
        self, params: VideoParams, geometry: Geometry, course: GenerationProgress
    ) -> tuple[torch.Tensor, GenerationStats]:
        course.report(Stage.PROMPT, 0, 1)
        prompt = self._prompts.encode(params.prompt)
        negative = self._prompts.encode(params.negative_prompt) if params.is_guided else None
        course.report(Stage.DENOISE, course.steps_before, params.num_inference_steps)

        def after_step(step: int, capture: Capture, predict: Predict) -> None:
            course.after_step(step, capture, lambda: self._draw(predict, geometry))

        encoded, known = self._prompts.take_counts()
        passes = self._passes(params, negative, meanwhile=lambda: self._prepare(course))
        latents = self._latents(prompt, negative, params, geometry, passes, course.denoising_state, after_step)
        return latents, GenerationStats(encoded, known, passes.steps_computed, passes.steps_skipped)

    def _latents(
        self,
        prompt: torch.Tensor,
        negative: torch.Tensor | None,
        params: VideoParams,
        geometry: Geometry,
        passes: Passes,
        denoising_state: DenoisingState | None = None,
        on_step: Callable[[int, Capture, Predict], None] = lambda *_: None,
    ) -> torch.Tensor:
        return denoise(
            self._loaded.pipe,
            prompt,
            negative,
            params,
            geometry,
            passes,
            flow_shift=flow_shift_at(geometry, self.spec.flow_shift),
            attention=self._attention,
            denoising_state=denoising_state,
            on_step=on_step,
        )

    def _passes(
        self,
        params: VideoParams,
        negative: torch.Tensor | None,
        tolerance: float | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Passes:
        return Passes(
            params.guidance_scale,
            negative,
            interval=self.spec.guidance_interval,
            batched=self._loaded.batched,
            tolerance=self.spec.step_cache.of(params.step_cache) if tolerance is None else tolerance,
            meanwhile=meanwhile,
        )

    def _prepare(self, course: GenerationProgress) -> None:
        # one that is not on the card would have to share it with the transformer, which the plan has no room for
        if self._loaded.layout is None or self._loaded.layout.text_encoder is Residence.RESIDENT:
            for prompt in course.hooks.upcoming():
                self._prompts.prepare(prompt)

    def _draw(self, predict: Predict, geometry: Geometry) -> Image.Image | None:
        if self._latent_rgb is None or (latents := predict()) is None:
            return None
        return draw(latents, self._latent_rgb, geometry)

    def _write(
        self, latents: torch.Tensor, path: Path, geometry: Geometry, course: GenerationProgress, work: GenerationStats
    ) -> RenderedVideo:
        with ExitStack() as unless_whole:
            writer = unless_whole.enter_context(Mp4Writer(path, geometry.width, geometry.height, self.spec.fps))
            missing = geometry.num_frames
            decoded = decode_frames(self._loaded.pipe.vae, latents, self._loaded.decoding, course.after_part)
            with closing(decoded) as groups:
                for frames in groups:
                    writer.write(frames[:missing, *geometry.crop])
                    missing -= min(missing, len(frames))
            unless_whole.pop_all()
        return RenderedVideo(writer, work, lambda: course.report(Stage.DECODE, 1, 1))


def _block(spec: ModelSpec, loaded: LoadedPipeline, attention: Attention) -> Block:
    """What is compiled for the usual video."""
    return Block.of(
        loaded.pipe,
        Geometry.fit(*spec.sizes[-1], loaded.grid),
        spec.max_sequence_length,
        loaded.device,
        loaded.fingerprint["dtype"],
        Precision.BF16 if loaded.layout is None else loaded.layout.precision,
        attention,
    )


def _sequence(spec: ModelSpec, folder: Path) -> Sequence:
    """What attention runs over in the usual video."""
    shape = read_shape(folder)
    transformer = shape.transformer
    tokens = shape.tokens(Geometry.fit(*spec.sizes[-1], shape.grid))
    return Sequence(tokens, transformer.num_attention_heads, transformer.attention_head_dim)


def _encoded_by(spec: ModelSpec, loaded: LoadedPipeline) -> str:
    """Everything besides a prompt that decides its embeddings."""
    facts = [loaded.fingerprint[name] for name in ("weights", "dtype", "device", "torch", "transformers")]
    return " ".join([*facts, str(spec.max_sequence_length)])
