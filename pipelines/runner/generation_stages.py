"""The stages of one generation with a loaded model: prompts, images or a video, denoising, decoding and the file."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipelines.core.errors import InputVideoError, PipelineError, SoundError
from pipelines.core.geometry import Geometry
from pipelines.core.model import Attention, ModelSpec, SoundFailure
from pipelines.core.progress import SILENT, GenerationStats, Stage
from pipelines.core.request import LIMITS, ImageMode, VideoParams
from pipelines.loading.load import LoadedPipeline
from pipelines.planning.layout import Residence
from pipelines.runner.progress import GenerationProgress
from pipelines.runner.result import RenderedFrames, RenderedVideo
from pipelines.stages.audio.sound_model import SoundModel
from pipelines.stages.checkpoint import DenoisingState
from pipelines.stages.conditioning.image_encoding import ImageCondition, ImageEncoder, condition_tensors
from pipelines.stages.conditioning.images import Images, check_images, fitted
from pipelines.stages.conditioning.known_latents import (
    KnownFirstFrame,
    KnownLatents,
    KnownVideo,
    encode_first_frame,
    encode_video,
)
from pipelines.stages.conditioning.text_encoding import PromptEncoder
from pipelines.stages.conditioning.video_frames import check_extended, check_video, count_frames, last_frame
from pipelines.stages.decoding.decoding import decode_frames
from pipelines.stages.denoising import Capture, Predict, denoise, flow_shift_at
from pipelines.stages.guidance import Guidance
from pipelines.stages.preview.latent_rgb import matching
from pipelines.stages.preview.preview import draw
from pipelines.stages.writing.muxing import check_audio
from pipelines.stages.writing.video_writer import Mp4Writer


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a request has besides its prompts: images, files of the video that its own is made from or extends, and of
    the sound that is heard with it.
    """

    images: Images
    video: Path | None = None
    extends: Path | None = None
    audio: Path | None = None


class GenerationStages:
    """What every generation with a model goes through. `Runner` calls them one after another."""

    def __init__(
        self,
        spec: ModelSpec,
        loaded: LoadedPipeline,
        prompts: PromptEncoder,
        attention: Attention,
        sound: SoundModel | None = None,
    ) -> None:
        self.spec = spec
        self._sound = sound
        self.sound_name: str | None = None
        """What made the sound of the last video; None if it has none that was made."""
        self.portable_sound_name: str | None = None
        """The same for every machine with a copy of the weights."""
        self._loaded = loaded
        self._prompts = prompts
        self._attention = attention
        self._images = ImageEncoder(loaded.image_pipe, loaded.device)
        self._latent_rgb = matching(loaded.latent_rgb or spec.latent_rgb, loaded.vae)

    def geometry(self, params: VideoParams) -> Geometry:
        """The size that is delivered, and the one that is generated."""
        return Geometry.fit(params.width, params.height, params.num_frames, self._loaded.grid)

    def fit_images(self, params: VideoParams, geometry: Geometry, images: Images) -> Images:
        """Return a request's images in the size that is generated. Raises InputImageError."""
        check_images(images, params, self._loaded.family.images(self._loaded.shape))
        first, last = (None if image is None else fitted(image, geometry) for image in (images.first, images.last))
        return Images(first, last)

    def with_last_frame(self, params: VideoParams, inputs: Inputs, extended: Path) -> Inputs:
        """Return inputs that begin with the last frame of the video that they extend.

        Raises InputVideoError if it has another size, or if there is an image as well.
        """
        if inputs.images.first is not None:
            raise InputVideoError("A video that extends another one begins with its last frame: give no image.")
        frame, geometry = last_frame(extended), self.geometry(params)
        if frame.size != (geometry.width, geometry.height):
            raise InputVideoError(
                f"The video to extend has {frame.width}x{frame.height} pixels, and the new one {geometry.width}x"
                f"{geometry.height}: both must have the same size."
            )
        return replace(inputs, images=replace(inputs.images, first=frame))

    def fit_inputs(self, params: VideoParams, geometry: Geometry, inputs: Inputs) -> Inputs:
        """Return what a request has, its images in the size that is generated.

        Raises InputImageError, InputAudioError, and InputVideoError for a video that is not the request's or that the
        model cannot take.
        """
        check_video(inputs.video, params, is_taken=self._loaded.family.takes_video(self._loaded.shape))
        check_extended(inputs.extends, params)
        check_audio(inputs.audio, params)
        return replace(inputs, images=self.fit_images(params, geometry, inputs.images))

    def condition(
        self, geometry: Geometry, images: Images, after_group: Callable[[], None] = lambda: None
    ) -> ImageCondition | None:
        """Encode images of the size that is generated, for weights that are trained for them; None without images."""
        if images.first is None:
            return None
        embeds = self._images.encode(images)
        tile = self._loaded.decoding.tile
        tensors = condition_tensors(self._loaded.image_pipe, images, geometry, after_group, tile)
        return ImageCondition(images, tensors, embeds)

    def known(
        self,
        params: VideoParams,
        geometry: Geometry,
        inputs: Inputs,
        after_group: Callable[[], None] = lambda: None,
        *,
        is_resumed: bool = False,
    ) -> KnownLatents | None:
        """Encode what a video is made from without weights that are trained for it; None if there is nothing.

        The image has the size that is generated. A generation that is resumed has a video in its latents already.
        """
        pipe, tile = self._loaded.pipe, self._loaded.decoding.tile
        if params.image_mode is ImageMode.FIRST_FRAME and inputs.images.first is not None:
            image = encode_first_frame(pipe, inputs.images.first, geometry, after_group, tile)
            return KnownFirstFrame(image, params.seed)
        if inputs.video is None or is_resumed:
            return None
        video = encode_video(pipe, inputs.video, geometry, self.spec.fps, after_group, tile)
        return KnownVideo(video, params.first_step)

    def denoise(
        self, params: VideoParams, geometry: Geometry, progress: GenerationProgress, inputs: Inputs
    ) -> tuple[torch.Tensor, GenerationStats]:
        """Return the normalised latents of a video, from its first step or its checkpoint on, and the work it took.

        The images of `inputs` have the size that is generated.
        """
        progress.report(Stage.PROMPT, 0, 1)
        if warnings := self._warnings(params):
            progress.callbacks.on_warnings(warnings)
        prompt = self._prompts.encode(params.prompt)
        negative = self._prompts.encode(params.negative_prompt) if params.is_guided else None
        state, after_group = progress.denoising_state, progress.raise_if_cancelled
        known = self.known(params, geometry, inputs, after_group, is_resumed=state is not None)
        condition = self.condition(geometry, inputs.images, after_group) if params.image_mode is None else None
        progress.report(Stage.DENOISE, progress.steps_before, params.num_inference_steps)

        def after_step(step: int, capture: Capture, predict: Predict) -> None:
            progress.after_step(step, capture, lambda: self._draw(predict, geometry))

        encoded, cached = self._prompts.take_counts()
        guidance = self._guidance(params, negative, after_pass=lambda: self._prefetch_prompts(progress))
        latents = self._latents(prompt, negative, params, geometry, guidance, condition, known, state, after_step)
        return latents, GenerationStats(encoded, cached, guidance.steps_computed, guidance.steps_skipped)

    def _warnings(self, params: VideoParams) -> tuple[str, ...]:
        """Return a sentence for each prompt whose end the text encoder does not read."""
        limit = self.spec.max_sequence_length
        prompts = {"prompt": params.prompt} | ({"negative_prompt": params.negative_prompt} if params.is_guided else {})
        return tuple(
            f"{name} has {tokens} tokens, and the model reads only the first {limit}: the rest was ignored."
            for name, prompt in prompts.items()
            if (tokens := self._prompts.count_tokens(prompt)) > limit
        )

    def _latents(
        self,
        prompt: torch.Tensor,
        negative: torch.Tensor | None,
        params: VideoParams,
        geometry: Geometry,
        guidance: Guidance,
        condition: ImageCondition | None,
        known: KnownLatents | None = None,
        denoising_state: DenoisingState | None = None,
        on_step: Callable[[int, Capture, Predict], None] = lambda *_: None,
    ) -> torch.Tensor:
        return denoise(
            self._loaded.family,
            self._loaded.pipe if condition is None else self._loaded.image_pipe,
            prompt,
            negative,
            params,
            geometry,
            guidance,
            scheduler=self._loaded.samplers.make(params.sampler, flow_shift_at(geometry, self.spec.flow_shift)),
            attention=self._attention,
            condition=condition,
            known=known,
            denoising_state=denoising_state,
            on_step=on_step,
        )

    def _guidance(
        self,
        params: VideoParams,
        negative: torch.Tensor | None,
        tolerance: float | None = None,
        after_pass: Callable[[], None] = lambda: None,
    ) -> Guidance:
        return Guidance(
            self._loaded.family,
            params.guidance_scale,
            negative,
            interval=self.spec.guidance_interval,
            batched=self._loaded.batched,
            tolerance=self.spec.step_cache.of(params.step_cache) if tolerance is None else tolerance,
            after_pass=after_pass,
        )

    def _prefetch_prompts(self, progress: GenerationProgress) -> None:
        # a text encoder that is not resident would need memory that the plan gives to the transformer
        if self._loaded.layout is None or self._loaded.layout.text_encoder is Residence.RESIDENT:
            for prompt in progress.callbacks.upcoming():
                self._prompts.prefetch(prompt)

    def _draw(self, predict: Predict, geometry: Geometry) -> Image.Image | None:
        if self._latent_rgb is None or (latents := predict()) is None:
            return None
        return draw(latents, self._latent_rgb, geometry)

    def write(
        self,
        params: VideoParams,
        latents: torch.Tensor,
        path: Path,
        geometry: Geometry,
        progress: GenerationProgress,
        stats: GenerationStats,
        inputs: Inputs,
    ) -> RenderedVideo:
        """Decode latents and write them to a file with its sound, after the frames of a video that they extend.

        The last of it is done by the result's `finish`.
        """
        extends, self.sound_name, self.portable_sound_name = inputs.extends, None, None
        with ExitStack() as on_error:
            writer = on_error.enter_context(
                Mp4Writer(path, geometry.width, geometry.height, self.spec.fps, extends, inputs.audio)
            )
            missing = geometry.num_frames
            decoded = decode_frames(self._loaded.vae, latents, self._loaded.decoding, progress.after_part)
            with closing(decoded) as groups:
                for number, frames in enumerate(groups):
                    # the first one is the last of a video that is extended
                    if extends is None or number > 0:
                        writer.write(frames[:missing, *geometry.crop])
                    missing -= min(missing, len(frames))
            if params.generate_audio:
                self._make_sound(params, writer, geometry.num_frames, progress, extends)
            on_error.pop_all()

        def on_finished() -> None:
            if writer.lost_sound is not None:
                progress.callbacks.on_warnings((f"{SILENT} {writer.lost_sound}",))
            progress.report(Stage.DECODE, 1, 1)

        return RenderedVideo(writer, stats, on_finished)

    def check_sound(self, params: VideoParams) -> None:
        """Raise SoundError before any work if a video that must have a sound cannot have one."""
        if params.generate_audio and self._must_be_heard and self._sound is not None:
            try:
                self._sound.load()
            except PipelineError as error:
                raise SoundError(str(error)) from error

    @property
    def _must_be_heard(self) -> bool:
        return self.spec.sound is not None and self.spec.sound.if_failed is SoundFailure.FAIL

    def _make_sound(
        self, params: VideoParams, writer: Mp4Writer, frames: int, progress: GenerationProgress, extends: Path | None
    ) -> None:
        """Make a sound as long as the video, or give the reason as a warning. Raises SoundError if that is set."""
        try:
            if self._sound is None:
                raise SoundError("This model has no model for sounds.")
            if extends is not None:
                frames += count_frames(extends, self.spec.fps, LIMITS["num_frames"][1]) - 1
            seconds = frames / self.spec.fps
            prompt = params.prompt if params.audio_prompt is None else params.audio_prompt
            samples, rate = self._sound.make(prompt, seconds, params.seed, progress.after_sound_step)
            writer.hear(samples, rate, must_be_heard=self._must_be_heard)
        except PipelineError as error:
            if self._must_be_heard:
                raise error if isinstance(error, SoundError) else SoundError(str(error)) from error
            progress.callbacks.on_warnings((f"{SILENT} {error}",))
            return
        self.sound_name, self.portable_sound_name = self._sound.name, self._sound.portable_name
        if warnings := self._sound.warnings(prompt, seconds):
            progress.callbacks.on_warnings(warnings)

    def frames(self, params: VideoParams, inputs: Inputs, tolerance: float | None) -> RenderedFrames:
        """Return the frames of a video, and how long denoising took. `tolerance` replaces the step cache's."""
        geometry = self.geometry(params)
        inputs = self.fit_inputs(params, geometry, inputs)
        negative = self._prompts.encode(params.negative_prompt) if params.is_guided else None
        prompt = self._prompts.encode(params.prompt)
        condition = self.condition(geometry, inputs.images) if params.image_mode is None else None
        known = self.known(params, geometry, inputs)
        guidance = self._guidance(params, negative, tolerance)
        started = time.perf_counter()
        latents = self._latents(prompt, negative, params, geometry, guidance, condition, known)
        # the check for NaN has waited for the device
        seconds = time.perf_counter() - started
        frames = np.concatenate(list(decode_frames(self._loaded.vae, latents, self._loaded.decoding)))
        return RenderedFrames(frames[: geometry.num_frames, *geometry.crop], guidance.passes_computed, seconds)
