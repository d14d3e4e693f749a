"""One video as it is asked for, every choice made."""

from dataclasses import dataclass
from enum import StrEnum


class StepCaching(StrEnum):
    """How many of the denoising steps are computed: all, or fewer where the others can be foretold."""

    EXACT = "exact"
    BALANCED = "balanced"
    FAST = "fast"


@dataclass(frozen=True, slots=True)
class VideoParams:
    """One video, every choice made: sides in pixels, length in frames, seed in 0 … 2^53 - 1.

    `run_fast` asks for a model's distillation to few steps, and means nothing where it has none. `step_cache` is how
    far steps may be foretold instead of computed.
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

    @property
    def is_guided(self) -> bool:
        """Whether a negative pass runs: diffusers leaves it out at a guidance scale of 1 or below."""
        return self.guidance_scale > 1
