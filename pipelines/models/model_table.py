"""The table `[model]` of a model's file: what is loaded, and how it is run."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipelines.core.errors import UnsupportedModelError
from pipelines.core.model import (
    TEXT_PIPELINE,
    Fast,
    LatentRgb,
    Lora,
    ModelSpec,
    NoiseSchedule,
    OptionalLora,
    StepTolerances,
    WeightFile,
)
from pipelines.core.request import MAX_LORA_STRENGTH, Sampler, is_lora_name
from pipelines.models.registry import family_of
from pipelines.models.table import Table

LATENT_RGB = Path(__file__).resolve().parents[2] / "configs" / "latent_rgb"
"""Maps from latents to RGB, one file per VAE; several models may share one."""


class _LoraTable(Table):
    repo: str
    file: str
    part: str = "transformer"
    revision: str | None = None
    strength: float = 1.0

    def lora(self) -> Lora:
        return Lora(**self.model_dump())


class _OptionalLoraTable(Table):
    name: str
    repo: str
    file: str
    part: str | None = None
    revision: str | None = None
    strength: float = Field(default=1.0, ge=-MAX_LORA_STRENGTH, le=MAX_LORA_STRENGTH)
    description: str = Field(default="", max_length=500)

    @field_validator("name")
    @classmethod
    def _name_is_valid(cls, name: str) -> str:
        if not is_lora_name(name):
            raise ValueError("must be at most 128 letters, digits, spaces and the signs _ . , + = ( ) [ ] -")
        return name

    @field_validator("strength")
    @classmethod
    def _strength_is_not_zero(cls, strength: float) -> float:
        if strength == 0:
            raise ValueError("must not be 0, which changes nothing")
        return strength

    def lora(self) -> OptionalLora:
        return OptionalLora(**self.model_dump())


class _WeightFileTable(Table):
    repo: str
    file: str
    revision: str | None = None

    @model_validator(mode="after")
    def _has_a_known_format(self) -> "_WeightFileTable":
        if not self.file.endswith((".gguf", ".safetensors")):
            raise ValueError("file must be a .gguf or a .safetensors file")
        return self


class _FastTable(Table):
    loras: list[_LoraTable] = Field(min_length=1)
    flow_shift: float


_Triple = Annotated[list[float], Field(min_length=3, max_length=3)]


class _LatentRgbTable(Table):
    factors: list[_Triple] = Field(min_length=1)
    bias: _Triple

    def latent_rgb(self) -> LatentRgb:
        (red, green, blue), factors = self.bias, [(r, g, b) for r, g, b in self.factors]
        return LatentRgb(tuple(factors), (red, green, blue))


class _StepCacheTable(Table):
    balanced: float = Field(ge=0, le=10)
    fast: float = Field(ge=0, le=10)


_Interval = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)]


class ModelTable(Table):
    """How a model is loaded and run; the fields are those of `ModelSpec`."""

    repo: str
    fps: int = Field(ge=1, le=120)
    revision: str | None = None
    pipeline_class: str = TEXT_PIPELINE
    max_sequence_length: int = Field(default=512, ge=1)
    shape: dict[str, dict[str, Any]] | None = None
    flow_shift: dict[Literal["480p", "720p"], float] | None = Field(default=None, min_length=2)
    sampler: Annotated[Sampler | None, Field(strict=False)] = None
    schedule: Annotated[NoiseSchedule, Field(strict=False)] = NoiseSchedule.WAN
    files: dict[str, _WeightFileTable] = Field(default={})
    loras: list[_LoraTable] = Field(default=[])
    optional_loras: list[_OptionalLoraTable] = Field(default=[], max_length=100)
    fast: _FastTable | None = None
    guidance_interval: _Interval = Field(default=[0.0, 1.0])
    step_cache: _StepCacheTable | None = None
    latent_rgb: str | None = None

    @field_validator("pipeline_class")
    @classmethod
    def _family_exists(cls, pipeline_class: str) -> str:
        try:
            family_of(pipeline_class)
        except UnsupportedModelError as error:
            raise ValueError(str(error)) from error
        return pipeline_class

    @model_validator(mode="after")
    def _parts_exist(self) -> "ModelTable":
        parts = family_of(self.pipeline_class).parts
        loras = self.loras + (self.fast.loras if self.fast else [])
        for key, named, known in (
            ("files", list(self.files), [part.name for part in parts if part.single_file is not None]),
            ("loras", [lora.part for lora in loras], [part.name for part in parts if part.takes_loras]),
            (
                "optional_loras",
                [lora.part for lora in self.optional_loras if lora.part is not None],
                [part.name for part in parts if part.takes_loras],
            ),
        ):
            for name in named:
                if name not in known:
                    raise ValueError(f"{key}: the part must be one of {', '.join(known)}, not {name}")
        return self

    @model_validator(mode="after")
    def _optional_loras_are_unambiguous(self) -> "ModelTable":
        by_name: dict[str, list[_OptionalLoraTable]] = {}
        for lora in self.optional_loras:
            by_name.setdefault(lora.name, []).append(lora)
        for name, entries in by_name.items():
            parts = {entry.part for entry in entries}
            if len(parts) < len(entries) or (None in parts and len(parts) > 1):
                raise ValueError(f"optional_loras: {name} has several entries for the same part")
            if len({entry.strength for entry in entries}) > 1:
                raise ValueError(f"optional_loras: the entries of {name} must have the same strength")
        return self

    @model_validator(mode="after")
    def _interval_is_ascending(self) -> "ModelTable":
        if self.guidance_interval[0] > self.guidance_interval[1]:
            raise ValueError("guidance_interval must start with the lower noise level")
        return self

    @model_validator(mode="after")
    def _latent_rgb_exists(self) -> "ModelTable":
        known = sorted(path.stem for path in LATENT_RGB.glob("*.toml"))
        if self.latent_rgb is not None and self.latent_rgb not in known:
            raise ValueError(f"latent_rgb must be one of {', '.join(known)}")
        return self

    def spec(self, model_id: str, sizes: tuple[tuple[int, int, int], ...]) -> ModelSpec:
        """The table as a ModelSpec; `sizes` as there."""
        fields = self.model_dump(
            exclude={"files", "loras", "fast", "guidance_interval", "step_cache", "latent_rgb", "optional_loras"}
        )
        files = tuple(WeightFile(**table.model_dump(), part=part) for part, table in self.files.items())
        fast = None if self.fast is None else Fast(tuple(map(_LoraTable.lora, self.fast.loras)), self.fast.flow_shift)
        loras = tuple(map(_LoraTable.lora, self.loras))
        rgb = None if self.latent_rgb is None else _read_latent_rgb(LATENT_RGB / f"{self.latent_rgb}.toml")
        tolerances = StepTolerances() if self.step_cache is None else StepTolerances(**self.step_cache.model_dump())
        return ModelSpec(
            **fields,
            id=model_id,
            sizes=sizes,
            files=files,
            loras=loras,
            optional_loras=tuple(map(_OptionalLoraTable.lora, self.optional_loras)),
            fast=fast,
            guidance_interval=(self.guidance_interval[0], self.guidance_interval[1]),
            step_cache=tolerances,
            latent_rgb=rgb,
        )


def _read_latent_rgb(path: Path) -> LatentRgb:
    return _LatentRgbTable.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).latent_rgb()
