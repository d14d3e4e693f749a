"""The whole of it for one device: what a worker, a notebook or a benchmark holds.

runner = Runner.load(spec, weights.locate(spec), device="cuda:0")
runner.run(VideoParams(...), Path("video.mp4"))
"""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from torch import no_grad

from pipelines.decode import decode_frames
from pipelines.encode import Mp4Writer
from pipelines.errors import GenerationCancelled
from pipelines.generate import denoise, flow_shift_at, recover, release_memory, uses_guidance
from pipelines.geometry import Geometry
from pipelines.load import CACHE, LoadedPipeline, load_pipeline, plan_here
from pipelines.memory import Layout
from pipelines.prompts import EmbeddingStore, PromptEncoder
from pipelines.spec import (
    CancelCheck,
    LoadCallback,
    ModelSpec,
    Progress,
    ProgressCallback,
    Stage,
    VideoFile,
    VideoParams,
)

# where each stage begins and ends in a generation's progress: a typical split of its time
_SPANS = {Stage.PROMPT: (0.0, 0.02), Stage.DENOISE: (0.02, 0.82), Stage.DECODE: (0.82, 1.0)}


class Runner:
    """A model loaded on one device, making one video at a time."""

    def __init__(self, spec: ModelSpec, loaded: LoadedPipeline, cache: Path = CACHE) -> None:
        self.spec = spec
        self._loaded = loaded
        # a model small enough for a processor encodes a prompt sooner than a file is read
        store = None if loaded.layout is None else EmbeddingStore(cache / "prompts", _encoded_by(spec, loaded))
        self._prompts = PromptEncoder(loaded.pipe, loaded.device, spec.max_sequence_length, store)

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

        Raises PipelineError, and torch.OutOfMemoryError: `pipelines.ladder` knows what to do then.
        """
        if layout is None and (chosen := plan_here(folder, device, spec.sizes, files=spec.files)) is not None:
            layout = chosen.layout
        loaded = load_pipeline(folder, device, on_progress, layout, cache, spec.loras, spec.files)
        return cls(spec, loaded, cache)

    @property
    def fingerprint(self) -> dict[str, str]:
        """Everything besides the request that decides a video's bytes."""
        return self._loaded.fingerprint

    def close(self) -> None:
        """Let go of the weights, and of the memory they took; the runner is of no use afterwards."""
        pipe = self._loaded.pipe
        del self._loaded, self._prompts
        recover(pipe)
        # some hooks and caches refer back to the pipeline: emptied, it holds no weights whoever refers to it
        for name, part in pipe.components.items():
            if hasattr(part, "parameters"):
                setattr(pipe, name, None)
        release_memory()

    def rest(self) -> None:
        """Give back what a generation that was cut short still holds, once its exception has been let go."""
        recover(self._loaded.pipe)

    @no_grad()
    def run(
        self,
        params: VideoParams,
        path: Path,
        on_progress: ProgressCallback = lambda _: None,
        cancelled: CancelCheck = lambda: False,
    ) -> VideoFile:
        """Make one video and write it to `path`, whole or not at all.

        Raises GenerationCancelled within one denoising step, or one group of frames, of `cancelled()` becoming true,
        NonFiniteOutputError or EncodingError. After any of them the runner is ready for the next video.
        """
        geometry = Geometry.fit(params.width, params.height, params.num_frames, self._loaded.grid)
        if not self.spec.guidance:
            params = replace(params, guidance_scale=1.0)

        def report(stage: Stage, step: int, steps: int) -> None:
            begin, end = _SPANS[stage]
            on_progress(Progress(stage, step, steps, begin + (end - begin) * step / steps))

        try:
            report(Stage.PROMPT, 0, 1)
            prompt = self._prompts.encode(params.prompt)
            negative = self._prompts.encode(params.negative_prompt) if uses_guidance(params) else None
            report(Stage.DENOISE, 0, params.num_inference_steps)
            latents = denoise(
                self._loaded.pipe,
                prompt,
                negative,
                params,
                geometry,
                flow_shift=flow_shift_at(geometry, self.spec.flow_shift),
                on_step=lambda step: report(Stage.DENOISE, step, params.num_inference_steps),
                cancelled=cancelled,
            )
            with (
                Mp4Writer(path, geometry.width, geometry.height, self.spec.fps) as writer,
                closing(decode_frames(self._loaded.pipe.vae, latents, self._loaded.decoding)) as groups,
            ):
                missing = geometry.num_frames
                for done, frames in enumerate(groups, start=1):
                    if cancelled():
                        raise GenerationCancelled
                    writer.write(frames[:missing, *geometry.crop])
                    missing -= min(missing, len(frames))
                    report(Stage.DECODE, done, latents.shape[2] + 1)
                video = writer.close()
            report(Stage.DECODE, 1, 1)
        except BaseException:
            recover(self._loaded.pipe)
            raise
        return video


def _encoded_by(spec: ModelSpec, loaded: LoadedPipeline) -> str:
    """Everything besides a prompt that decides its embeddings."""
    facts = [loaded.fingerprint[name] for name in ("weights", "dtype", "device", "torch", "transformers")]
    return " ".join([*facts, str(spec.max_sequence_length)])
