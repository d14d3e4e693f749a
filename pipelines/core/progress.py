"""Progress of a load or a generation, and the result of a generation."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


Frames: TypeAlias = "npt.NDArray[np.uint8]"
"""RGB frames, (frames, height, width, 3), one byte a channel."""


SILENT = "The video is silent."
"""Begins the warning of a video whose sound could not be made."""


class Stage(StrEnum):
    """The stages of a generation, in order."""

    LORAS = "merging LoRAs"
    """Only where the weights do not have the request's LoRAs yet."""
    PROMPT = "encoding the prompt"
    DENOISE = "denoising"
    DECODE = "decoding and writing the video"
    SOUND = "making the sound"
    """Only where a model makes one."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a generation: `step` of `steps` in `stage`, and `fraction` (0 … 1) of the whole.

    `seconds` is the time spent on it so far, including the time before it was resumed from a checkpoint.
    """

    stage: Stage
    step: int
    steps: int
    fraction: float
    seconds: float


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """Work done for a video, and work saved: prompts encoded or found in the cache, denoising steps computed or
    skipped by the step cache. For a resumed generation only the work after the checkpoint counts.
    """

    prompts_encoded: int = 0
    prompts_cached: int = 0
    steps_computed: int = 0
    steps_skipped: int = 0

    def __add__(self, other: "GenerationStats") -> "GenerationStats":
        return GenerationStats(
            self.prompts_encoded + other.prompts_encoded,
            self.prompts_cached + other.prompts_cached,
            self.steps_computed + other.steps_computed,
            self.steps_skipped + other.steps_skipped,
        )


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A finished video on disk: sides in pixels, length in frames, `fps` in frames a second, `size` in bytes.

    `has_audio` says whether a sound is heard with it.
    """

    path: Path
    width: int
    height: int
    num_frames: int
    fps: int
    size: int
    stats: GenerationStats = GenerationStats()
    has_audio: bool = False


ProgressCallback = Callable[[Progress], None]


LoadCallback = Callable[[str, float], None]
"""Called with the component being loaded and the fraction (0 … 1) of all bytes loaded so far."""


CancelCheck = Callable[[], bool]
