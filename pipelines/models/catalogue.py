"""The catalogue of models: reads and checks `configs/models/*.toml`.

Each file describes one model in two tables: `[api]` is what clients see, `[model]` is what is loaded. Users can add a
folder of their own; a file there replaces a built-in one with the same id.
"""

import tomllib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.core.errors import CatalogueError, UnsupportedModelError
from pipelines.core.model import Fast, LatentRgb, Lora, ModelSpec, StepTolerances, WeightFile
from pipelines.models.registry import family_of

DEFAULT_MODEL = "wan-ai-wan2-1-t2v-14b-diffusers"
"""The model that the command line and the examples use by default."""

BUILT_IN = Path(__file__).resolve().parents[2] / "configs" / "models"

LATENT_RGB = BUILT_IN.parent / "latent_rgb"
"""Maps from latents to RGB, one file per VAE; several models may share one."""

Json = dict[str, Any]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Parameter(_Table):
    """One request parameter: its JSON type, its limits (inclusive) and the texts shown for it."""

    name: str
    type: Literal["string", "integer", "number", "boolean"]
    title: str
    description: str
    default: str | int | float | bool | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    required: bool = False
    basic: bool = False

    @model_validator(mode="after")
    def _limits_are_for_numbers(self) -> "Parameter":
        if self.type not in ("integer", "number") and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"{self.name}: only an integer or a number has a minimum or a maximum")
        return self

    def json_schema(self, order: int) -> Json:
        """This parameter as a JSON Schema property; `order` is its position on the page."""
        stated = {"default": self.default, "minimum": self.minimum, "maximum": self.maximum}
        return {
            "type": self.type,
            "title": self.title,
            "description": self.description,
            **{key: value for key, value in stated.items() if value is not None},
            "x-order": order,
        }


_REQUIRED_TYPES = {
    "prompt": "string",
    "negative_prompt": "string",
    "height": "integer",
    "width": "integer",
    "num_frames": "integer",
    "num_inference_steps": "integer",
    "guidance_scale": "number",
    "seed": "integer",
}


class Developer(_Table):
    """The developer of a model."""

    name: str
    display_name: str
    logo: str | None = None


class ApiSpec(_Table):
    """What clients see of a model. `created` is in Unix seconds, `released_at` is a date."""

    id: str = Field(min_length=1, max_length=200)
    display_name: str
    summary: str
    description: str
    created: int
    released_at: str | None = None
    owned_by: str
    featured: bool = False
    image_url: str | None = None
    input: list[str] = ["text"]
    output: list[str] = ["video"]
    developer: Developer
    parameters: list[Parameter]

    @model_validator(mode="after")
    def _describes_a_whole_video(self) -> "ApiSpec":
        """Every field of a video has a parameter; all but prompt and seed have a default, and numbers have limits."""
        for name, kind in _REQUIRED_TYPES.items():
            parameter = self.by_name.get(name)
            if parameter is None or parameter.type != kind:
                raise ValueError(f"parameters: {name} is required, with the type {kind}")
            if name not in ("prompt", "seed") and parameter.default is None:
                raise ValueError(f"parameters: {name} must have a default")
            if kind != "string" and name != "seed" and (parameter.minimum is None or parameter.maximum is None):
                raise ValueError(f"parameters: {name} must have a minimum and a maximum")
        return self

    @cached_property
    def by_name(self) -> Mapping[str, Parameter]:
        """The parameters by name."""
        return {parameter.name: parameter for parameter in self.parameters}

    def size(self, which: Literal["default", "maximum"]) -> tuple[int, int, int]:
        """Width and height in pixels and length in frames of the default or the largest video."""
        width, height, frames = (getattr(self.by_name[name], which) for name in ("width", "height", "num_frames"))
        return width, height, frames

    @cached_property
    def request_schema(self) -> Json:
        """The JSON Schema of a request's parameters, in the form of the hosted API's model object."""
        return {
            "type": "object",
            "properties": {p.name: p.json_schema(order) for order, p in enumerate(self.parameters)},
            "required": [p.name for p in self.parameters if p.required],
            "basic": [p.name for p in self.parameters if p.basic],
        }


class _LoraTable(_Table):
    repo: str
    file: str
    part: str = "transformer"
    revision: str | None = None
    strength: float = 1.0

    def lora(self) -> Lora:
        return Lora(**self.model_dump())


class _WeightFileTable(_Table):
    repo: str
    file: str
    revision: str | None = None

    @model_validator(mode="after")
    def _has_a_known_format(self) -> "_WeightFileTable":
        if not self.file.endswith((".gguf", ".safetensors")):
            raise ValueError("file must be a .gguf or a .safetensors file")
        return self


class _FastTable(_Table):
    loras: list[_LoraTable] = Field(min_length=1)
    flow_shift: float


_Triple = Annotated[list[float], Field(min_length=3, max_length=3)]


class _LatentRgbTable(_Table):
    factors: list[_Triple] = Field(min_length=1)
    bias: _Triple

    def latent_rgb(self) -> LatentRgb:
        (red, green, blue), factors = self.bias, [(r, g, b) for r, g, b in self.factors]
        return LatentRgb(tuple(factors), (red, green, blue))


class _StepCacheTable(_Table):
    balanced: float = Field(ge=0, le=10)
    fast: float = Field(ge=0, le=10)


_Interval = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)]


class _ModelTable(_Table):
    repo: str
    fps: int = Field(ge=1, le=120)
    revision: str | None = None
    pipeline_class: str = "WanPipeline"
    max_sequence_length: int = Field(default=512, ge=1)
    shape: dict[str, dict[str, Any]] | None = None
    flow_shift: dict[Literal["480p", "720p"], float] | None = Field(default=None, min_length=2)
    files: dict[str, _WeightFileTable] = {}
    loras: list[_LoraTable] = []
    fast: _FastTable | None = None
    guidance_interval: _Interval = [0.0, 1.0]
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
    def _parts_exist(self) -> "_ModelTable":
        parts = family_of(self.pipeline_class).parts
        loras = self.loras + (self.fast.loras if self.fast else [])
        for key, named, known in (
            ("files", list(self.files), [part.name for part in parts if part.single_file is not None]),
            ("loras", [lora.part for lora in loras], [part.name for part in parts if part.takes_loras]),
        ):
            for name in named:
                if name not in known:
                    raise ValueError(f"{key}: the part must be one of {', '.join(known)}, not {name}")
        return self

    @model_validator(mode="after")
    def _interval_is_ascending(self) -> "_ModelTable":
        if self.guidance_interval[0] > self.guidance_interval[1]:
            raise ValueError("guidance_interval must start with the lower noise level")
        return self

    @model_validator(mode="after")
    def _latent_rgb_exists(self) -> "_ModelTable":
        known = sorted(path.stem for path in LATENT_RGB.glob("*.toml"))
        if self.latent_rgb is not None and self.latent_rgb not in known:
            raise ValueError(f"latent_rgb must be one of {', '.join(known)}")
        return self

    def spec(self, model_id: str, sizes: tuple[tuple[int, int, int], ...]) -> ModelSpec:
        """The table as a ModelSpec; `sizes` as there."""
        fields = self.model_dump(exclude={"files", "loras", "fast", "guidance_interval", "step_cache", "latent_rgb"})
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
            fast=fast,
            guidance_interval=(self.guidance_interval[0], self.guidance_interval[1]),
            step_cache=tolerances,
            latent_rgb=rgb,
        )


def _read_latent_rgb(path: Path) -> LatentRgb:
    return _LatentRgbTable.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).latent_rgb()


class CatalogueEntry(_Table):
    """One model: what clients see and what is loaded."""

    api: ApiSpec
    model: ModelSpec

    @property
    def id(self) -> str:
        """The model's id in requests."""
        return self.api.id

    @property
    def longest_seconds(self) -> float:
        """The longest video's duration in seconds."""
        frames = self.api.by_name["num_frames"].maximum
        assert frames is not None, "the catalogue requires it"
        return frames / self.model.fps

    def variant(self, run_fast: bool | None = None) -> "CatalogueEntry":
        """The entry for requests with or without `run_fast`; None stands for the parameter's default."""
        if run_fast is None:
            parameter = self.api.by_name.get("run_fast")
            run_fast = bool(parameter and parameter.default)
        return self.model_copy(update={"model": self.model.variant(run_fast)})


class _File(_Table):
    api: ApiSpec
    model: _ModelTable

    @model_validator(mode="after")
    def _fast_has_a_parameter(self) -> "_File":
        parameter = self.api.by_name.get("run_fast")
        if self.model.fast is not None and (parameter is None or parameter.type != "boolean"):
            raise ValueError("model.fast: requires a parameter run_fast of the type boolean")
        return self

    @model_validator(mode="after")
    def _inputs_are_supported(self) -> "_File":
        supported = family_of(self.model.pipeline_class).inputs
        if unsupported := set(self.api.input) - supported:
            raise ValueError(
                f"api.input: {self.model.pipeline_class} supports {', '.join(sorted(supported))}, "
                f"not {', '.join(sorted(unsupported))}"
            )
        return self


def read_entry(path: Path) -> CatalogueEntry:
    """Read one model file. Raises CatalogueError that names the file, the key and the fault."""
    try:
        table = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CatalogueError(f"{path}: {key}: {first['msg']}") from error
    sizes = (table.api.size("maximum"), table.api.size("default"))
    return CatalogueEntry(api=table.api, model=table.model.spec(table.api.id, sizes))


def read_catalogue(folders: Iterable[Path] = (BUILT_IN,)) -> dict[str, CatalogueEntry]:
    """All models of the folders by id, featured ones first, then by file name. Later folders override earlier ones.

    Raises CatalogueError if a folder is missing, a file is malformed, two files of one folder share an id, or there is
    no model.
    """
    entries: dict[str, CatalogueEntry] = {}
    for folder in folders:
        if not folder.is_dir():
            raise CatalogueError(f"{folder}: no such folder of models")
        here: dict[str, Path] = {}
        for path in sorted(folder.glob("*.toml")):
            entry = read_entry(path)
            if entry.id in here:
                raise CatalogueError(f"{path}: {here[entry.id].name} has the same id, {entry.id}")
            here[entry.id] = path
            entries[entry.id] = entry
    if not entries:
        raise CatalogueError("no model file (*.toml) in " + ", ".join(str(folder) for folder in folders))
    return dict(sorted(entries.items(), key=lambda item: not item[1].api.featured))
