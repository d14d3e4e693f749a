"""The parameters of one video."""

import re
from dataclasses import dataclass
from enum import StrEnum


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


MAX_LORAS = 8
"""So many LoRAs a request may have."""

MAX_LORA_STRENGTH = 4.0
"""A request's LoRA has a strength between the negative of this and this, but not 0."""

_LORA_NAME = re.compile(r"\w[\w .,+=()\[\]-]{0,127}")

REQUEST_LORAS = "request_loras"
"""The fact of a video's fingerprint that names its own LoRAs, with the digests of their files."""


def is_lora_name(name: str) -> bool:
    """Whether a LoRA may have this name. It is also that of a file, so it must not lead out of a folder."""
    return _LORA_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class RequestLora:
    """A LoRA of a request: a name from the model's optional LoRAs or the folder of LoRAs, and the factor it has."""

    name: str
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class VideoParams:
    """The parameters of one video, with all defaults filled in: sides in pixels, length in frames, seed 0 … 2^53 - 1.

    `run_fast` selects a model's distillation to few steps; models without one ignore it. `step_cache` sets how many
    steps may be skipped. `sampler` is None for the model's own. `loras` are merged into the weights for this video.
    """

    prompt: str
    negative_prompt: str
    height: int
    width: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    run_fast: bool = False
    step_cache: StepCaching = StepCaching.EXACT
    sampler: Sampler | None = None
    loras: tuple[RequestLora, ...] = ()

    @property
    def is_guided(self) -> bool:
        """Whether the pass on the negative prompt runs: diffusers omits it at a guidance scale of 1 or below."""
        return self.guidance_scale > 1
