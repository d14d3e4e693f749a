"""The pipeline classes of diffusers that make sounds from text, and how each is called."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.core.errors import UnsupportedModelError
from pipelines.core.model import SoundSpec
from pipelines.models.family import Part, PartKind, PipelineFamily
from pipelines.models.model_index import ModelIndex

_STABLE_AUDIO_3_TOKENS = 256
_LONGCAT_TOKENS, _MOST_LONGCAT_TOKENS = 512, 32_768
"""As in these pipelines' `encode_prompt`."""

_SLACK = 1
"""Latents beyond those that a sound needs, for classes that round their number down."""


class SoundFamily(PipelineFamily):
    """A pipeline class that makes sounds. On a GPU it computes in `device_dtype`, but for its autoencoder."""

    device_dtype: str = "bfloat16"

    @abstractmethod
    def arguments(self, spec: SoundSpec, pipe: Any, seconds: float) -> dict[str, Any]:
        """The arguments of a call of the loaded pipeline `pipe` for a sound of so many seconds, besides the prompt."""

    def callback(self, after_step: Callable[[int], None]) -> dict[str, Any]:
        """The arguments that have `after_step` called with the number of finished steps."""

        def on_step_end(_pipe: Any, step: int, _time: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
            after_step(step + 1)
            return {}

        return {"callback_on_step_end": on_step_end, "callback_on_step_end_tensor_inputs": []}

    def max_tokens(self, pipe: Any) -> int:
        """How many tokens of a prompt the loaded pipeline reads."""
        return int(pipe.tokenizer.model_max_length)

    def decode(self, pipe: Any, latents: Any) -> Any:
        """Decode the latents that a call of the loaded pipeline returns: (batch, channels, samples)."""
        return pipe.vae.decode(latents.to(pipe.vae.dtype)).sample

    @abstractmethod
    def rate(self, pipe: Any) -> int:
        """Samples a second of what the loaded pipeline makes."""

    def check_sizes(self, folder: Path) -> None:
        """Nothing is known of how the parts must fit together: the pipeline's class checks it as it is loaded."""


def _common(spec: SoundSpec) -> dict[str, Any]:
    return {
        "num_inference_steps": spec.num_inference_steps,
        "guidance_scale": spec.guidance_scale,
        "negative_prompt": spec.negative_prompt,
    }


class StableAudio3(SoundFamily):
    """Stable Audio 3."""

    module = "stable_audio_3"
    pipeline_class = "StableAudio3Pipeline"
    folder_classes = frozenset({"StableAudio3Pipeline"})
    parts = (
        Part("text_encoder", PartKind.TEXT_ENCODER, "transformers:T5GemmaEncoderModel"),
        Part(
            "duration_embedder",
            PartKind.CONDITIONER,
            "pipelines.layers.stable_audio_3:ReferenceDurationEmbedder",
        ),
        Part("transformer", PartKind.DENOISER, "pipelines.layers.stable_audio_3:ReferenceTransformer"),
        Part("vae", PartKind.VAE, "pipelines.layers.stable_audio_3:ChunkedAutoencoderSAME"),
    )
    settings = frozenset({"tokenizer", "scheduler"})

    def arguments(self, spec: SoundSpec, pipe: Any, seconds: float) -> dict[str, Any]:
        """As in the base class."""
        return {**_common(spec), "duration": seconds}

    def max_tokens(self, pipe: Any) -> int:
        """As in the base class. The pipeline has a limit of its own."""
        return min(super().max_tokens(pipe), _STABLE_AUDIO_3_TOKENS)

    def rate(self, pipe: Any) -> int:
        """As in the base class."""
        return int(pipe.vae.config.sampling_rate)


class StableAudio(SoundFamily):
    """Stable Audio Open."""

    module = "stable_audio"
    device_dtype = "float16"
    pipeline_class = "StableAudioPipeline"
    folder_classes = frozenset({"StableAudioPipeline"})
    parts = (
        Part("text_encoder", PartKind.TEXT_ENCODER, "transformers:T5EncoderModel"),
        Part("projection_model", PartKind.CONDITIONER, "diffusers:StableAudioProjectionModel"),
        Part("transformer", PartKind.DENOISER, "diffusers:StableAudioDiTModel"),
        Part("vae", PartKind.VAE, "diffusers:AutoencoderOobleck"),
    )
    settings = frozenset({"tokenizer", "scheduler"})

    def arguments(self, spec: SoundSpec, pipe: Any, seconds: float) -> dict[str, Any]:
        """As in the base class. Raises UnsupportedModelError for more seconds than the folder's weights make."""
        longest = pipe.transformer.config.sample_size * pipe.vae.hop_length / pipe.vae.config.sampling_rate
        if seconds > longest:
            raise UnsupportedModelError(f"{spec.id or spec.repo} makes sounds of at most {longest:g} seconds.")
        return {**_common(spec), "audio_end_in_s": seconds}

    def rate(self, pipe: Any) -> int:
        """As in the base class."""
        return int(pipe.vae.config.sampling_rate)

    def callback(self, after_step: Callable[[int], None]) -> dict[str, Any]:
        """As in the base class; this pipeline has the older argument."""

        def on_step(step: int, _time: Any, _latents: Any) -> None:
            after_step(step + 1)

        return {"callback": on_step}


class LongCatAudio(SoundFamily):
    """LongCat-AudioDiT."""

    pipeline_class = "LongCatAudioDiTPipeline"
    folder_classes = frozenset({"LongCatAudioDiTPipeline"})
    parts = (
        Part("text_encoder", PartKind.TEXT_ENCODER, "transformers:UMT5EncoderModel"),
        Part("transformer", PartKind.DENOISER, "diffusers:LongCatAudioDiTTransformer"),
        Part("vae", PartKind.VAE, "diffusers:LongCatAudioDiTVae"),
    )
    settings = frozenset({"tokenizer"})
    optional_settings = frozenset({"scheduler"})

    def used_settings(self, index: ModelIndex) -> list[str]:
        """As in the base class. diffusers lists a scheduler also where it saves none, and makes the usual one."""
        return [name for name in super().used_settings(index) if (index.path.parent / name).is_dir()]

    def arguments(self, spec: SoundSpec, pipe: Any, seconds: float) -> dict[str, Any]:
        """As in the base class. The class makes whole latents, rounded down: one more is asked for.

        Raises UnsupportedModelError for more seconds than the folder's weights make.
        """
        if seconds > pipe.max_wav_duration:
            raise UnsupportedModelError(
                f"{spec.id or spec.repo} makes sounds of at most {pipe.max_wav_duration:g} seconds."
            )
        return {**_common(spec), "audio_duration_s": seconds + _SLACK * pipe.vae_scale_factor / pipe.sample_rate}

    def decode(self, pipe: Any, latents: Any) -> Any:
        """As in the base class; these latents are (batch, length, channels)."""
        return super().decode(pipe, latents.permute(0, 2, 1))

    def max_tokens(self, pipe: Any) -> int:
        """As in the base class. The pipeline replaces a limit beyond its own."""
        limit = super().max_tokens(pipe)
        return limit if 0 < limit <= _MOST_LONGCAT_TOKENS else _LONGCAT_TOKENS

    def rate(self, pipe: Any) -> int:
        """As in the base class."""
        return int(pipe.sample_rate)


SOUND_FAMILIES: dict[str, SoundFamily] = {
    family.pipeline_class: family for family in (StableAudio3(), StableAudio(), LongCatAudio())
}
"""All families. A new one is added here."""


def sound_family_of(pipeline_class: str) -> SoundFamily:
    """Return the family of a pipeline class that makes sounds. Raises UnsupportedModelError with those there are."""
    family = SOUND_FAMILIES.get(pipeline_class)
    if family is None:
        raise UnsupportedModelError(
            f"pipeline_class must be one of {', '.join(sorted(SOUND_FAMILIES))}, not {pipeline_class!r}."
        )
    return family
