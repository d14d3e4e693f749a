"""A loaded model on one device: what a worker, a notebook or a benchmark uses.

runner = Runner.load("wan-ai-wan2-1-t2v-1-3b-diffusers")
runner.run(VideoParams("an ox by a lake"), "video.mp4")
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from PIL import Image

from pipelines.core.errors import NonFiniteOutputError
from pipelines.core.geometry import Geometry
from pipelines.core.home import expanded
from pipelines.core.model import Attention, ModelSpec
from pipelines.core.progress import LoadCallback, VideoFile
from pipelines.core.request import REQUEST_LORAS, SOUND_MODEL, VideoParams
from pipelines.hub.loras import LocatedLora
from pipelines.layers.attention.backends import AttentionShape, choose
from pipelines.loading.device_plan import plan_for_device
from pipelines.loading.load import CACHE, LoadedPipeline, load_pipeline
from pipelines.loading.request_loras import identity
from pipelines.models.registry import family_of
from pipelines.planning.layout import Layout
from pipelines.planning.shapes import ModelShape
from pipelines.runner.arguments import AnyPath, checked_device, model_and_folder
from pipelines.runner.callbacks import NO_CALLBACKS, Callbacks
from pipelines.runner.compilation import Block, Compiler, is_wanted
from pipelines.runner.exclusive import Exclusive, exclusive
from pipelines.runner.generation_stages import GenerationStages, Inputs
from pipelines.runner.progress import GenerationProgress
from pipelines.runner.result import RenderedFrames, RenderedVideo
from pipelines.stages.audio.sound_model import SoundModel
from pipelines.stages.conditioning.images import Images, named
from pipelines.stages.conditioning.text_encoding import EmbeddingStore, PromptEncoder
from pipelines.stages.conditioning.video_frames import video_digest
from pipelines.stages.denoising import release_memory, reset
from pipelines.stages.writing.muxing import audio_digest
from pipelines.stages.writing.video_writer import check_output


class Runner(Exclusive):
    """A model loaded on one device, which makes one video at a time."""

    def __init__(
        self, spec: ModelSpec, loaded: LoadedPipeline, cache: Path = CACHE, attention: Attention = Attention.NATIVE
    ) -> None:
        super().__init__()
        cache = expanded(cache, "cache")
        self.spec = spec
        self._loaded = loaded
        self._attention = attention
        # a model small enough for a CPU encodes a prompt faster than its embeddings are read from a file
        store = None if loaded.layout is None else EmbeddingStore(cache / "prompts", _encoder_id(spec, loaded))
        clean = resolve_name(loaded.family.prompt_cleaner)
        prompts = PromptEncoder(loaded.pipe, loaded.device, spec.max_sequence_length, store, clean)
        self._sound = None if spec.sound is None else SoundModel(spec.sound, str(loaded.device))
        self._stages = GenerationStages(spec, loaded, prompts, attention, self._sound)
        self._compiler: Compiler | None = None
        if is_wanted(spec.compile, loaded.device, loaded.layout):
            block = Block.of(loaded, _usual_video(spec, loaded.shape), spec.max_sequence_length, attention)
            self._compiler = Compiler(loaded.denoisers, block, cache)
        self.adopt_compiled()

    @classmethod
    def load(
        cls,
        model: ModelSpec | str,
        folder: AnyPath | None = None,
        device: str | None = None,
        on_progress: LoadCallback = lambda *_: None,
        layout: Layout | None = None,
        cache: AnyPath = CACHE,
        loras_dir: AnyPath | None = None,
    ) -> "Runner":
        """Load a model, given by its specification or its id in the catalogue, onto `device`, a torch device name.

        Its weights are in `folder`, by default where `paddock pull` stores them; the default device is the first GPU,
        else the CPU. Without `layout`, the plan for the memory that is free now decides it. Converted weights are kept
        in the folder `cache`; `loras_dir` has the LoRAs that requests may name. Raises PipelineError, and
        torch.OutOfMemoryError, which `pipelines.runner.oom_fallback` handles.
        """
        spec, folder = model_and_folder(model, folder)
        device, cache = checked_device(device), expanded(cache, "cache")
        loras_dir = None if loras_dir is None else expanded(loras_dir, "loras_dir")
        if layout is None and (chosen := plan_for_device(spec, folder, device)) is not None:
            layout = chosen.layout
        # measured while the device is still empty
        attention = choose(spec.attention, torch.device(device), partial(_attention_shape, spec, folder), cache)
        loaded = load_pipeline(spec, folder, device, on_progress, layout, cache, loras_dir)
        return cls(spec, loaded, cache, attention)

    @property
    def fingerprint(self) -> dict[str, str]:
        """Everything besides the request that decides a video's bytes."""
        shift = self.spec.flow_shift
        return {
            **self._loaded.fingerprint,
            "flow_shift": "the scheduler's" if shift is None else " ".join(f"{k} {v:g}" for k, v in shift.items()),
            "sampler": str(self._loaded.samplers.default),
            "schedule": str(self.spec.schedule),
            "attention": self._attention,
            "compiled": "blocks" if self._compiler is not None and self._compiler.is_compiled else "nothing",
            "guidance": self._guidance_mode,
            "step_cache": f"balanced {self.spec.step_cache.balanced:g} fast {self.spec.step_cache.fast:g}",
            "max_sequence_length": str(self.spec.max_sequence_length),
        }

    @property
    def video_fingerprint(self) -> dict[str, str]:
        """The same for the last video, including its own LoRAs and what made its sound."""
        sound = self._stages.sound_name
        named = {} if sound is None else {SOUND_MODEL: sound}
        return {**self.fingerprint, REQUEST_LORAS: self._loaded.loras.merged, **named}

    @property
    def _portable_fingerprint(self) -> dict[str, str]:
        """The fingerprint of the last video without the times of files: the same for every machine with copies."""
        sound = self._stages.portable_sound_name
        named = {} if sound is None else {SOUND_MODEL: sound}
        return {**self.fingerprint, **self._loaded.portable, REQUEST_LORAS: self._loaded.loras.portable, **named}

    def adopt_compiled(self) -> None:
        """Use compiled blocks from now on if the background compiler has finished. Call it while the device is idle."""
        if self._compiler is not None:
            self._compiler.activate()

    @property
    def compile_error(self) -> str | None:
        """Why the blocks run uncompiled although they should be compiled; None while the compiler is at work."""
        return None if self._compiler is None else self._compiler.error

    def disable_compilation(self, error: Exception) -> None:
        """Run the blocks uncompiled from now on, because compiled ones failed with `error`."""
        if self._compiler is not None:
            self._compiler.disable(error)

    @property
    def _guidance_mode(self) -> str:
        if not self.spec.guidance:
            return "none"
        low, high = self.spec.guidance_interval
        return f"{'batched' if self._loaded.batched else 'one by one'}, {low:g} to {high:g}"

    def close(self) -> None:
        """Free the weights and their memory. The runner cannot be used afterwards."""
        if not self.end_use():
            return
        pipes = self._loaded.pipes
        if self._compiler is not None:
            self._compiler.close()
        if self._sound is not None:
            self._sound.close()
        del self._loaded, self._stages, self._compiler
        reset(pipes)
        # some hooks and caches refer to the pipelines: emptied, they hold no weights even if those keep them alive
        for pipe in pipes:
            for name, part in pipe.components.items():
                if hasattr(part, "parameters"):
                    setattr(pipe, name, None)
        release_memory()

    def release(self) -> None:
        """Free what an interrupted generation still holds. Call it after its exception has been dropped."""
        reset(self._loaded.pipes)

    def run(
        self,
        params: VideoParams,
        path: AnyPath,
        callbacks: Callbacks = NO_CALLBACKS,
        image: Image.Image | None = None,
        last_image: Image.Image | None = None,
        *,
        video: AnyPath | None = None,
        extends: AnyPath | None = None,
        audio: AnyPath | None = None,
    ) -> VideoFile:
        """Make one video and write it to `path`, complete or not at all. Continue from its checkpoint if it has one.

        `image` is the RGB image that the video begins with, `last_image` the one that it ends with. Weights that were
        trained for text alone need `params.image_mode` for an image. `video` is the file of a video that this one is
        made from, by `params.strength`. They are cropped to the video's ratio. `extends` is the file of a video of the
        same size that this one continues: it begins with its last frame, which is not repeated, and the file at `path`
        has the frames of both. `audio` is the file of a sound that is heard with the whole, cut to its length, or
        followed by silence.

        Raises GenerationCancelled within one denoising step, or one group of frames, after `cancelled` returned True;
        GenerationSuspended when the checkpoint is suspended; VideoParamsError if the parameters and the inputs exclude
        each other; InputImageError, InputVideoError, InputAudioError, NonFiniteOutputError or EncodingError.
        After any of these the runner is ready for the next video. Raises RunnerError while another thread uses it, and
        once it is closed.
        """
        params = _named(params, _inputs(image, last_image, video, extends, audio))
        files = {"video": video, "extends": extends, "audio": audio}
        return self.render(params, path, callbacks, image, last_image, **files).finish()

    @exclusive
    @torch.no_grad()
    def render(
        self,
        params: VideoParams,
        path: AnyPath,
        callbacks: Callbacks = NO_CALLBACKS,
        image: Image.Image | None = None,
        last_image: Image.Image | None = None,
        *,
        video: AnyPath | None = None,
        extends: AnyPath | None = None,
        audio: AnyPath | None = None,
    ) -> RenderedVideo:
        """Do as `run` does, but return when the device is free, before the file is finished.

        The images and the video are those that `params` names.
        """
        path = expanded(path)
        check_output(path)
        inputs = _inputs(image, last_image, video, extends, audio)
        if inputs.extends is not None:
            inputs = self._stages.with_last_frame(params, inputs, inputs.extends)
            params = named(params, inputs.images)
        params = self._effective(params)
        loras = self._loaded.loras.locate(params.loras)
        progress = GenerationProgress(params, self._latents_depend_on(params, loras), callbacks)
        geometry = self._stages.geometry(params)
        try:
            with _naming(loras):
                inputs = self._stages.fit_inputs(params, geometry, inputs)
                self._stages.check_sound(params)
                self._loaded.loras.merge(loras, progress.after_tensor)
                latents, stats = self._stages.denoise(params, geometry, progress, inputs)
                made = self._stages.write(params, latents, path, geometry, progress, stats, inputs)
                made.tag(callbacks.comment(self._portable_fingerprint))
                return made
        except BaseException:
            reset(self._loaded.pipes)
            raise
        finally:
            if callbacks.checkpoint is not None:
                callbacks.checkpoint.finish()

    @exclusive
    @torch.no_grad()
    def frames(
        self,
        params: VideoParams,
        image: Image.Image | None = None,
        last_image: Image.Image | None = None,
        *,
        video: AnyPath | None = None,
        tolerance: float | None = None,
    ) -> RenderedFrames:
        """Return the frames that `run` would write, for measuring. `tolerance` replaces the step cache's."""
        inputs = _inputs(image, last_image, video)
        params = self._effective(_named(params, inputs))
        loras = self._loaded.loras.locate(params.loras)
        self._loaded.loras.merge(loras)
        with _naming(loras):
            return self._stages.frames(params, inputs, tolerance)

    def _effective(self, params: VideoParams) -> VideoParams:
        """Return the request with the sampler that is used, and without guidance if the weights need none."""
        params = replace(params, sampler=params.sampler or self._loaded.samplers.default)
        return params if self.spec.guidance else replace(params, guidance_scale=1.0)

    def _latents_depend_on(self, params: VideoParams, loras: Sequence[LocatedLora] = ()) -> dict[str, Any]:
        # placement and decoding may change between attempts: the latents stay the same
        fingerprint = {name: value for name, value in self.fingerprint.items() if name != "plan"}
        if params.image is not None or params.video is not None:
            # it is encoded in the dtype that the plan gives to the VAE, and in its tiles
            fingerprint["vae"] = str(self._loaded.vae.dtype)
            if self._loaded.decoding.tile is not None:
                # checkpoints are older than tiled encoding
                fingerprint["encoding"] = str(self._loaded.decoding)
        return {"params": params.facts, "fingerprint": {**fingerprint, REQUEST_LORAS: identity(loras)}}


def _inputs(
    image: Image.Image | None,
    last_image: Image.Image | None,
    video: AnyPath | None,
    extends: AnyPath | None = None,
    audio: AnyPath | None = None,
) -> Inputs:
    given = {"video": video, "extends": extends, "audio": audio}
    files = (None if each is None else expanded(each, name) for name, each in given.items())
    return Inputs(Images(image, last_image), *files)


def _named(params: VideoParams, inputs: Inputs) -> VideoParams:
    """Return a request that names its inputs."""
    params = named(params, inputs.images)
    video, extends = (None if path is None else video_digest(path) for path in (inputs.video, inputs.extends))
    audio = None if inputs.audio is None else audio_digest(inputs.audio)
    return replace(params, video=params.video or video, extends=params.extends or extends, audio=params.audio or audio)


@contextmanager
def _naming(loras: Sequence[LocatedLora]) -> Iterator[None]:
    """Let an error about NaN or infinity name the request's LoRAs, which are the likeliest cause."""
    try:
        yield
    except NonFiniteOutputError as error:
        error.loras = tuple(lora.name for lora in loras)
        raise


def _usual_video(spec: ModelSpec, shape: ModelShape) -> Geometry:
    return Geometry.fit(*spec.sizes[-1], shape.grid)


def _attention_shape(spec: ModelSpec, folder: Path) -> AttentionShape:
    """Return the size of attention in the model's usual video."""
    shape = family_of(spec.pipeline_class).read_shape(folder)
    transformer = shape.transformer
    tokens = shape.tokens(_usual_video(spec, shape))
    return AttentionShape(tokens, transformer.num_attention_heads, transformer.attention_head_dim)


def _encoder_id(spec: ModelSpec, loaded: LoadedPipeline) -> str:
    """Return everything besides a prompt that decides its embeddings."""
    facts = [loaded.fingerprint[name] for name in ("tokenizer", "dtype", "device", "torch", "transformers")]
    return " ".join([loaded.text_encoder_digest, *facts, str(spec.max_sequence_length)])
