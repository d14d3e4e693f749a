"""What is loaded for a model, and how it is run."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from pipelines.core.precision import Accuracy, PrecisionSetting
from pipelines.core.request import Sampler, StepCaching

TEXT_PIPELINE = "WanPipeline"
"""The class of diffusers' pipeline for a model whose file names none."""


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA that is merged into the component `part`: "transformer" or "transformer_2".

    `file` is a safetensors file in `repo`, which is a hub repository or a local folder. `strength` scales it.
    """

    repo: str
    file: str
    part: str = "transformer"
    revision: str | None = None
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class OptionalLora:
    """A LoRA that requests may name. Entries with the same name form one LoRA, each for another part.

    `file` is as in `Lora`. `part` is None for every part that takes LoRAs. `strength` holds for a request without one.
    """

    name: str
    repo: str
    file: str
    part: str | None = None
    revision: str | None = None
    strength: float = 1.0
    description: str = ""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file with all weights of the component `part`, used instead of those in a model's `repo`.

    `part` is "transformer" or "transformer_2". `file` is a GGUF or safetensors file in `repo`, which is a hub
    repository or a local folder.
    """

    repo: str
    file: str
    part: str = "transformer"
    revision: str | None = None


class Weights(Protocol):
    """Where the weights of a model are: a folder or a repository in diffusers' layout, and single files.

    The fields are those of `ModelSpec`.
    """

    @property
    def id(self) -> str: ...
    @property
    def repo(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def pipeline_class(self) -> str: ...
    @property
    def files(self) -> tuple[WeightFile, ...]: ...
    @property
    def every_file(self) -> tuple[WeightFile | Lora | OptionalLora, ...]: ...
    @property
    def replaced(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class Fast:
    """A distillation to few steps by `loras`. It runs without guidance, with its own `flow_shift`."""

    loras: tuple[Lora, ...]
    flow_shift: float


class Attention(StrEnum):
    """The kernel that computes attention: `auto` is the fastest exact one.

    `native` is torch's own choice, `cudnn` is NVIDIA's through torch; each of the others needs a package. All are exact
    except `sage` and `fp8`, which multiply in 8 bits.
    """

    AUTO = "auto"
    NATIVE = "native"
    CUDNN = "cudnn"
    FLASH = "flash"
    FLASH_3 = "flash3"
    SAGE = "sage"
    FP8 = "fp8"


class NoiseSchedule(StrEnum):
    """Whose noise levels the denoising steps have: those of Wan's authors, or those that diffusers computes.

    diffusers differs from the authors since its version 0.37. Its levels are only for comparing with it.
    """

    WAN = "wan"
    DIFFUSERS = "diffusers"


class Compile(StrEnum):
    """Whether the transformers' blocks are compiled: `auto` on GPUs that gain from it, `on` wherever possible."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class StepTolerances:
    """The largest error of a skipped step, as defined in `pipelines.stages.step_cache`.

    The defaults fit the demo weights; `python -m pipelines.tools.calibrate_step_cache` found them.
    """

    balanced: float = 0.025
    fast: float = 0.05

    def of(self, level: StepCaching) -> float:
        """The tolerance of a level; 0 if every step is computed."""
        return {StepCaching.EXACT: 0.0, StepCaching.BALANCED: self.balanced, StepCaching.FAST: self.fast}[level]


@dataclass(frozen=True, slots=True)
class LatentRgb:
    """A linear map from a VAE's normalised latents to RGB in about -1 … 1, for previews without decoding.

    `factors` has one triple per channel, the weights of red, green and blue; `bias` is added to the sum.
    """

    factors: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float]


class SoundFailure(StrEnum):
    """What becomes of a video whose sound cannot be made: it is silent and has a warning, or it fails."""

    SILENT = "silent"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Licence:
    """The licence of weights: its name, the address of its text, and what it asks of whoever uses them."""

    name: str
    url: str
    summary: str = ""


@dataclass(frozen=True, slots=True)
class SoundSpec:
    """What is loaded for a model that makes sounds from text, and how it is run.

    - `repo`, `revision`, `pipeline_class` and `id` are as in `ModelSpec`.
    - `max_seconds`: the longest sound that it makes.
    - `num_inference_steps`, `guidance_scale` and `negative_prompt`: those of every sound.
    - `licence`: that of the weights, if they ask for something. `is_gated`: a hub gives them only to who has agreed.
    - `if_failed`: what becomes of a video whose sound cannot be made.
    """

    repo: str
    pipeline_class: str
    revision: str | None = None
    max_seconds: float = 10.0
    num_inference_steps: int = 8
    guidance_scale: float = 1.0
    negative_prompt: str | None = None
    licence: Licence | None = None
    is_gated: bool = False
    if_failed: SoundFailure = SoundFailure.SILENT
    id: str = ""

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """None: all weights are in its repository."""
        return ()

    @property
    def every_file(self) -> tuple[WeightFile, ...]:
        """None: see `files`."""
        return ()

    @property
    def replaced(self) -> frozenset[str]:
        """None: see `files`."""
        return frozenset()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is loaded for a model, and how it is run.

    - `repo`: a hub repository (`owner/name`) or a local folder in diffusers' layout; `revision`: a branch, tag or
      commit of it.
    - `files`: single files with the weights of some components, used instead of those in `repo`.
    - `fps`: the frame rate the model was trained at, in frames per second.
    - `max_sequence_length`: text tokens per prompt. Wan does not mask padding, so its output depends on this length.
    - `sizes`: videos to plan memory for, as (width, height, frames): the largest first, then the usual one.
    - `shape`: the components' configurations, as far as planning needs them, for a machine without the weights.
    - `flow_shift`: shift of the noise schedule at "480p" and "720p"; None keeps the scheduler's own.
    - `sampler`: the solver for requests that name none; None takes the one that the folder's scheduler has. `schedule`:
      whose noise levels its steps have.
    - `loras`: merged into the weights. `optional_loras`: those that requests may name. `fast`: what `run_fast` selects.
    - `guidance`: whether the model uses classifier-free guidance; `guidance_interval`: the noise levels (1: only noise,
      0: none) at which it is applied.
    - `step_cache`: the largest error of a skipped step, by level (`pipelines.stages.step_cache`).
    - `latent_rgb`: the map for previews, unless the weights bring their own. Without either there are no previews.
    - `precision`: limits the formats a plan may choose. Quantized files keep their format.
    - `accuracy`: the residual stream and the VAE in fp32 where there is memory, or never.
    - `attention`: the attention kernel; `compile`: whether blocks are compiled.
    - `sound`: the model that makes the sounds of its videos; None: it has none.
    - `id`: the model's id in the catalogue, or an empty string.
    """

    repo: str
    fps: int
    revision: str | None = None
    pipeline_class: str = TEXT_PIPELINE
    max_sequence_length: int = 512
    sizes: tuple[tuple[int, int, int], ...] = ((1280, 720, 120), (832, 480, 81))
    shape: dict[str, dict[str, Any]] | None = None
    flow_shift: dict[str, float] | None = None
    sampler: Sampler | None = None
    schedule: NoiseSchedule = NoiseSchedule.WAN
    files: tuple[WeightFile, ...] = ()
    loras: tuple[Lora, ...] = ()
    optional_loras: tuple[OptionalLora, ...] = ()
    fast: Fast | None = None
    guidance: bool = True
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    step_cache: StepTolerances = StepTolerances()
    latent_rgb: LatentRgb | None = None
    precision: PrecisionSetting = PrecisionSetting.AUTO
    accuracy: Accuracy = Accuracy.HIGH
    attention: Attention = Attention.AUTO
    compile: Compile = Compile.AUTO
    sound: SoundSpec | None = None
    id: str = ""

    @property
    def every_lora(self) -> tuple[Lora, ...]:
        """The model's LoRAs and those of `run_fast`: some request may need any of them."""
        return self.loras + (self.fast.loras if self.fast else ())

    @property
    def every_file(self) -> tuple[WeightFile | Lora | OptionalLora, ...]:
        """Every single file that the model or a request may need in addition to its repository."""
        return self.files + self.every_lora + self.optional_loras

    @property
    def replaced(self) -> frozenset[str]:
        """The components whose weights do not come from the repository."""
        return frozenset(file.part for file in self.files)

    def for_other_weights(self) -> "ModelSpec":
        """A copy for other weights that need only text, without the settings that were made for the model's own."""
        return replace(
            self,
            pipeline_class=TEXT_PIPELINE,
            files=(),
            loras=(),
            optional_loras=(),
            guidance=True,
            guidance_interval=(0.0, 1.0),
            step_cache=StepTolerances(),
            latent_rgb=None,
            flow_shift=None,
            sampler=None,
            sound=None,
        )

    def variant(self, fast: bool) -> "ModelSpec":
        """What is loaded for requests with or without `run_fast`; unchanged for a model without a distillation."""
        if self.fast is None:
            return self
        if not fast:
            return replace(self, fast=None)
        shift = dict.fromkeys(("480p", "720p"), self.fast.flow_shift)
        return replace(self, fast=None, loras=self.loras + self.fast.loras, flow_shift=shift, guidance=False)
