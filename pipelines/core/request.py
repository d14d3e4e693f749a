"""The parameters of one video."""

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


@dataclass(frozen=True, slots=True)
class VideoParams:
    """The parameters of one video, with all defaults filled in: sides in pixels, length in frames, seed 0 … 2^53 - 1.

    `run_fast` selects a model's distillation to few steps; models without one ignore it. `step_cache` sets how many
    steps may be skipped. `sampler` is None for the model's own.
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

    @property
    def is_guided(self) -> bool:
        """Whether the pass on the negative prompt runs: diffusers omits it at a guidance scale of 1 or below."""
        return self.guidance_scale > 1
