"""The parameters of one video."""

import math
import re
import secrets
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from pipelines.core.errors import VideoParamsError

MAX_SEED = 2**53 - 1
"""The largest seed: JavaScript has no larger integers."""

LIMITS = {
    "height": (1, 2**14),
    "width": (1, 2**14),
    "num_frames": (1, 10_000),
    "num_inference_steps": (1, 1000),
    "seed": (0, MAX_SEED),
}
"""The least and the largest value of each whole number, for any model. A model's file may allow less."""

MAX_GUIDANCE_SCALE = 1000.0

DEFAULT_STRENGTH = 0.8
"""How much of an input video is made anew, unless a request says otherwise."""

V = TypeVar("V", bound=StrEnum)


class StepCaching(StrEnum):
    """How many denoising steps may be skipped by reusing earlier results: none, some or many."""

    EXACT = "exact"
    BALANCED = "balanced"
    FAST = "fast"


class Sampler(StrEnum):
    """The solver of the denoising steps: UniPC, DPM-Solver++ of second order, or Euler's method."""

    UNIPC = "unipc"
    DPM = "dpm++"
    EULER = "euler"


class ImageMode(StrEnum):
    """How weights that were trained for text alone begin a video with an image.

    `first_frame` replaces the first latent frame in each step. The video may cut to something else behind it.
    """

    FIRST_FRAME = "first_frame"


MAX_LORAS = 8
"""So many LoRAs a request may have."""

MIN_LORA_STRENGTH = 1e-3
"""A smaller strength, of either sign, changes nothing that could be seen."""

MAX_LORA_STRENGTH = 4.0
"""A request's LoRA has a strength between the negative of this and this, but not 0."""

_LORA_NAME = re.compile(r"\w[\w .,+=()\[\]-]{0,127}")

_DIGEST = re.compile("[0-9a-f]{64}")

IMAGES = ("image", "last_image")
"""The fields of a video that name images."""

INPUTS = (*IMAGES, "video", "extends", "audio")
"""The fields of a video that name inputs."""

_LEAST_EXTENDING = 2

_FROM_VIDEO = ("video", "strength")
"""The fields that count only if a video is made from another one."""

_HEARD = frozenset({"audio", "generate_audio", "audio_prompt"})
"""The fields that decide what is heard, and nothing of what is seen."""

REQUEST_LORAS = "request_loras"
"""The fact of a video's fingerprint that names its own LoRAs, with the digests of their files."""

SOUND_MODEL = "sound"
"""The fact of a video's fingerprint that names what made its sound, with the digest of the weights."""

OF_REQUEST = frozenset({REQUEST_LORAS, SOUND_MODEL})
"""The facts of a video's fingerprint that other requests do not share."""


def is_lora_name(name: str) -> bool:
    """Whether a LoRA may have this name. It is also that of a file, so it must not lead out of a folder."""
    return _LORA_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class RequestLora:
    """A LoRA of a request: a name from the model's optional LoRAs or the folder of LoRAs, and the factor it has.

    Raises VideoParamsError that names the fault and its limits.
    """

    name: str
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not is_lora_name(self.name):
            raise VideoParamsError(f"loras: {_described(self.name)} cannot be the name of a LoRA.")
        strength, limit = self.strength, MAX_LORA_STRENGTH
        is_number = isinstance(strength, int | float) and not isinstance(strength, bool)
        if not is_number or strength == 0 or not -limit <= strength <= limit:
            raise VideoParamsError(
                f"loras: the strength of {self.name} must be a number from -{limit:g} to {limit:g} and not 0, "
                f"not {_described(strength)}."
            )


@dataclass(frozen=True, slots=True)
class VideoParams:
    """The parameters of one video: sides in pixels, length in frames, seed 0 … MAX_SEED (random if not given).

    The defaults are those of Wan2.1 14B in the hosted API. `run_fast` selects a model's distillation to few steps;
    models without one ignore it. `step_cache` sets how many steps may be skipped. `sampler` is None for the model's
    own. `loras` are merged into the weights for this video. `image` names the image that it begins with, `last_image`
    the one that it ends with, by `pipelines.stages.conditioning.images.image_digest`. `image_mode` is for weights that
    are not trained to begin with one. `video` names the video that it is made from, by the SHA-256 of its file; the
    greater `strength` is, the less is left of that one. `extends` names the video that this one continues, in the same
    way: it begins with that one's last frame, and both become one file. `audio` names the sound that is heard with it;
    with `generate_audio` a model makes one from `audio_prompt`, or without it from `prompt`.
    Raises VideoParamsError that names the parameter and its limits.
    """

    prompt: str
    negative_prompt: str = " "
    height: int = 480
    width: int = 832
    num_frames: int = 81
    num_inference_steps: int = 16
    guidance_scale: float = 5.0
    seed: int = field(default_factory=lambda: secrets.randbelow(MAX_SEED + 1))
    run_fast: bool = False
    step_cache: StepCaching = StepCaching.EXACT
    sampler: Sampler | None = None
    loras: tuple[RequestLora, ...] = ()
    image: str | None = None
    last_image: str | None = None
    video: str | None = None
    strength: float = DEFAULT_STRENGTH
    image_mode: ImageMode | None = None
    extends: str | None = None
    audio: str | None = None
    generate_audio: bool = False
    audio_prompt: str | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt"):
            if not isinstance(getattr(self, name), str):
                raise VideoParamsError(f"{name} must be a string, not {_described(getattr(self, name))}.")
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise VideoParamsError(f"{name} must be an integer from {low} to {high}, not {_described(value)}.")
        scale = self.guidance_scale
        if not _is_number(scale) or not 0 <= scale <= MAX_GUIDANCE_SCALE:
            raise VideoParamsError(
                f"guidance_scale must be a number from 0 to {MAX_GUIDANCE_SCALE:g}, not {_described(scale)}."
            )
        # names are accepted as well: a notebook has strings
        object.__setattr__(self, "step_cache", _named(StepCaching, "step_cache", self.step_cache))
        if self.sampler is not None:
            object.__setattr__(self, "sampler", _named(Sampler, "sampler", self.sampler))
        if self.image_mode is not None:
            object.__setattr__(self, "image_mode", _named(ImageMode, "image_mode", self.image_mode))
        object.__setattr__(self, "loras", _loras(self.loras))
        for name in IMAGES:
            digest = getattr(self, name)
            if digest is not None and (not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None):
                raise VideoParamsError(f"{name} must be the digest of an image, not {_described(digest)}.")
        if self.audio is not None and (not isinstance(self.audio, str) or _DIGEST.fullmatch(self.audio) is None):
            raise VideoParamsError(f"audio must be the digest of a sound, not {_described(self.audio)}.")
        self._check_video()
        self._check_extends()
        self._check_generated_audio()

    @property
    def facts(self) -> dict[str, Any]:
        """Its fields, as far as what is seen depends on them."""
        # checkpoints are older than the images and the video
        absent = {name for name in (*IMAGES, "image_mode", "extends") if getattr(self, name) is None} | _HEARD
        absent |= set(_FROM_VIDEO) if self.video is None else set()
        return {name: value for name, value in asdict(self).items() if name not in absent}

    @property
    def first_step(self) -> int:
        """How many of the denoising steps are left out: those at noise levels above that of the video's `strength`.

        It is 0 without a video. Source: `get_timesteps` of `WanVideoToVideoPipeline` in diffusers.
        """
        if self.video is None:
            return 0
        return self.num_inference_steps - int(self.num_inference_steps * self.strength)

    @property
    def is_guided(self) -> bool:
        """Whether the pass on the negative prompt runs: diffusers omits it at a guidance scale of 1 or below."""
        return self.guidance_scale > 1

    def _check_video(self) -> None:
        if not _is_number(self.strength) or not 0 < self.strength <= 1:
            raise VideoParamsError(f"strength must be a number above 0 and at most 1, not {_described(self.strength)}.")
        if self.video is None:
            return
        if not isinstance(self.video, str) or _DIGEST.fullmatch(self.video) is None:
            raise VideoParamsError(f"video must be the digest of a video, not {_described(self.video)}.")
        if excluded := next((name for name in IMAGES if getattr(self, name) is not None), None):
            raise VideoParamsError(f"video must not be given together with {excluded}.")
        steps = self.num_inference_steps
        if self.first_step == steps:
            # rounded up: of this strength a step is left
            least = math.ceil(10_000 / steps) / 10_000
            raise VideoParamsError(
                f"strength must be at least {least:g} where num_inference_steps is {steps}, so that one step is made, "
                f"not {_described(self.strength)}."
            )

    def _check_extends(self) -> None:
        if self.extends is None:
            return
        if not isinstance(self.extends, str) or _DIGEST.fullmatch(self.extends) is None:
            raise VideoParamsError(f"extends must be the digest of a video, not {_described(self.extends)}.")
        if self.video is not None:
            raise VideoParamsError("extends must not be given together with video.")
        if self.num_frames < _LEAST_EXTENDING:
            raise VideoParamsError(
                f"num_frames must be at least {_LEAST_EXTENDING} where a video is extended: the first repeats its last."
            )

    def _check_generated_audio(self) -> None:
        if not isinstance(self.generate_audio, bool):
            raise VideoParamsError(f"generate_audio must be true or false, not {_described(self.generate_audio)}.")
        if self.audio_prompt is not None and not isinstance(self.audio_prompt, str):
            raise VideoParamsError(f"audio_prompt must be a string, not {_described(self.audio_prompt)}.")
        if self.audio_prompt is not None and not self.generate_audio:
            raise VideoParamsError("audio_prompt must only be given where generate_audio is true.")
        if self.generate_audio and self.audio is not None:
            raise VideoParamsError("generate_audio must not be true where audio is given: a video has one sound.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _named(kind: type[V], name: str, value: Any) -> V:
    try:
        return kind(value)
    except ValueError as error:
        raise VideoParamsError(f"{name} must be one of {', '.join(kind)}, not {_described(value)}.") from error


def _loras(value: Any) -> tuple[RequestLora, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(lora, RequestLora) for lora in value):
        raise VideoParamsError(f"loras must be a list of RequestLora, not {_described(value)}.")
    if len(value) > MAX_LORAS:
        raise VideoParamsError(f"loras must have at most {MAX_LORAS} entries, not {len(value)}.")
    if len({lora.name for lora in value}) < len(value):
        raise VideoParamsError("loras must not have the same name twice.")
    return tuple(value)


def _described(value: Any) -> str:
    return repr(value)[:100]
