"""What is loaded for a model, and how it is run."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pipelines.core.precision import PrecisionSetting
from pipelines.core.request import StepCaching

TRANSFORMERS = ("transformer", "transformer_2")
"""The parts of a pipeline that are made of blocks and denoise; Wan2.2's A14B has both."""


@dataclass(frozen=True, slots=True)
class Lora:
    """A fine-tuning of low rank that is merged into the part "transformer" or "transformer_2".

    `file` is a safetensors file in `repo`, a hub repository or a local folder; `strength` scales the change.
    """

    repo: str
    file: str
    part: str = "transformer"
    revision: str | None = None
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file with all weights of the part "transformer" or "transformer_2", in place of those in a model's `repo`.

    `file` is a GGUF or safetensors file in `repo`, a hub repository or a local folder.
    """

    repo: str
    file: str
    part: str = "transformer"
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Fast:
    """A distillation to few steps, made of `loras`: it runs without guidance, at its own `flow_shift`."""

    loras: tuple[Lora, ...]
    flow_shift: float


class Attention(StrEnum):
    """Which kernel computes attention: the fastest exact one, or one by name.

    `native` is torch's own choice, `cudnn` NVIDIA's by way of torch; the others need a package of theirs. All are exact
    but `sage` and `fp8`, which multiply in 8 bits.
    """

    AUTO = "auto"
    NATIVE = "native"
    CUDNN = "cudnn"
    FLASH = "flash"
    FLASH_3 = "flash3"
    SAGE = "sage"
    FP8 = "fp8"


class Compile(StrEnum):
    """Whether the transformers' blocks are compiled: on a card where that is of use, wherever it can be, or never."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class StepTolerances:
    """How wrong a foretold step may be, in the measure of `pipelines.stages.step_cache`.

    The defaults are the demo weights', found by `python -m pipelines.tools.calibrate_step_cache`.
    """

    balanced: float = 0.025
    fast: float = 0.05

    def of(self, level: StepCaching) -> float:
        """That of a level; 0 where every step is computed."""
        return {StepCaching.EXACT: 0.0, StepCaching.BALANCED: self.balanced, StepCaching.FAST: self.fast}[level]


@dataclass(frozen=True, slots=True)
class LatentRgb:
    """A linear map from a VAE's normalised latents to RGB in about -1 … 1, for a look at them without decoding.

    `factors` is what a channel adds to red, green and blue, one triple a channel; `bias` is added to all.
    """

    factors: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is loaded for a model, and how it is run.

    `repo` is a hub repository (`owner/name`) or a local folder in diffusers' layout, `revision` a branch, tag or
    commit of the repository; `files` hold the weights of parts that are not taken from there. `fps` is the rate the
    model was trained at, in frames a second. `max_sequence_length` is in text tokens; Wan's output depends on it,
    because padding is not masked. `sizes` are the videos to lay it out for, (width, height, frames), the largest
    first, then the usual one; `shape` holds the configurations of the parts, as far as planning needs them, for a
    machine that has no weights yet. `flow_shift` is how far the noise levels lean towards the noisy end, at the
    resolutions "480p" and "720p"; None leaves the scheduler's own. `loras` are merged into the weights, `fast` is what
    `run_fast` asks for, and `guidance` tells whether the weights want any, which is then given at noise levels (1: all
    noise … 0: none) of the `guidance_interval`. `step_cache` is how wrong a step may be that is foretold instead of
    computed, by level (`pipelines.stages.step_cache`).
    `latent_rgb` is what previews are made by, unless the weights come with
    a map of their own; without either there are none. `precision` is what a plan may keep the weights in; those of
    quantized files stay as they are. `attention` is computed by the kernel of that name; `compile` is whether blocks
    are compiled. `id` is what the catalogue calls it, empty outside of one.
    """

    repo: str
    fps: int
    revision: str | None = None
    pipeline_class: str = "WanPipeline"
    max_sequence_length: int = 512
    sizes: tuple[tuple[int, int, int], ...] = ((1280, 720, 120), (832, 480, 81))
    shape: dict[str, dict[str, Any]] | None = None
    flow_shift: dict[str, float] | None = None
    files: tuple[WeightFile, ...] = ()
    loras: tuple[Lora, ...] = ()
    fast: Fast | None = None
    guidance: bool = True
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    step_cache: StepTolerances = StepTolerances()
    latent_rgb: LatentRgb | None = None
    precision: PrecisionSetting = PrecisionSetting.AUTO
    attention: Attention = Attention.AUTO
    compile: Compile = Compile.AUTO
    id: str = ""

    @property
    def every_lora(self) -> tuple[Lora, ...]:
        """Its LoRAs and those of `run_fast`: what must be on this machine for all its requests."""
        return self.loras + (self.fast.loras if self.fast else ())

    @property
    def every_file(self) -> tuple[WeightFile | Lora, ...]:
        """Every single file that must be on this machine beside the repository's."""
        return self.files + self.every_lora

    @property
    def replaced(self) -> frozenset[str]:
        """The parts whose weights are not the repository's."""
        return frozenset(file.part for file in self.files)

    def for_other_weights(self) -> "ModelSpec":
        """The same without what is made for the model's own weights and would not fit others."""
        return replace(
            self,
            files=(),
            loras=(),
            guidance=True,
            guidance_interval=(0.0, 1.0),
            step_cache=StepTolerances(),
            latent_rgb=None,
        )

    def variant(self, fast: bool) -> "ModelSpec":
        """What is loaded for requests with or without `run_fast`; the model itself where it has no such choice."""
        if self.fast is None:
            return self
        if not fast:
            return replace(self, fast=None)
        shift = dict.fromkeys(("480p", "720p"), self.fast.flow_shift)
        return replace(self, fast=None, loras=self.loras + self.fast.loras, flow_shift=shift, guidance=False)
