"""What the rest of the program asks about a family of models, instead of branching on names.

A family is the set of models that one pipeline class of diffusers runs. Classes of other libraries are named as
"module:name", so that a family can be read without importing them; `pkgutil.resolve_name` returns the class.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Any

from pipelines.core.errors import UnsupportedModelError
from pipelines.core.geometry import Geometry
from pipelines.planning.shapes import ModelShape

Configs = Mapping[str, Mapping[str, Any]]
"""The configurations of a pipeline's parts by name, and that of the pipeline itself as "pipeline"."""


class PartKind(StrEnum):
    """What a part does, which decides how it is placed, streamed and quantized."""

    DENOISER = "denoiser"
    """A transformer that a denoising step calls. Its blocks are its attribute `blocks`."""
    TEXT_ENCODER = "text encoder"
    VAE = "VAE"


@dataclass(frozen=True, slots=True)
class SingleFileLayout:
    """How files with all weights of a part, as fine-tunes and quantizations are published, name their tensors.

    `prefixes` may precede all names. `checkpoint` is the key in diffusers' `CHECKPOINT_KEY_NAMES` of the tensors that
    only the original repository's names include; `converter` is the function that converts these names to diffusers'.
    Every file has tensors whose names start with `typical`. `description` is used in error messages.
    """

    prefixes: tuple[str, ...]
    checkpoint: str
    converter: str
    typical: str
    description: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a pipeline that has weights.

    `name` is the pipeline's attribute and the folder of the weights; `model_class` builds the part. `single_file` is
    the layout of single files with its weights, None if it takes none.
    """

    name: str
    kind: PartKind
    model_class: str
    is_optional: bool = False
    single_file: SingleFileLayout | None = None
    takes_loras: bool = False

    @property
    def is_denoiser(self) -> bool:
        """Whether it is a transformer made of blocks."""
        return self.kind is PartKind.DENOISER


class ModelFamily(ABC):
    """A family of models.

    `pipeline_class` is its name in a model's file, `folder_classes` are the names that its folders may have in
    model_index.json, and `pipeline` is diffusers' class. `parts` are in the order in which they are loaded; `settings`
    are the components without weights. `inputs` are the kinds of input that a request may have. The sides of a video
    are multiples of `side_multiple` pixels, whatever the VAE.

    The pipeline's denoising loop carries `loop_tensors` from step to step, by its own names: a checkpoint must save
    them, and the pipeline accepts each as an argument. A batch of guidance's two passes repeats `repeated_inputs` of
    the transformer and has both prompts' embeddings as `text_input`.
    """

    pipeline_class: str
    folder_classes: frozenset[str]
    pipeline: str
    parts: tuple[Part, ...]
    settings: frozenset[str]
    inputs: frozenset[str]
    side_multiple: int
    loop_tensors: tuple[str, ...]
    repeated_inputs: tuple[str, ...]
    text_input: str

    @abstractmethod
    def shape(self, configs: Configs) -> ModelShape:
        """Return the sizes of the parts that configurations describe. The VAE's must also state its `parameters`.

        Raises UnsupportedModelError if a field is missing or the parts do not fit together.
        """

    @abstractmethod
    def forward_inputs(self, shape: ModelShape, geometry: Geometry, text_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the inputs of one forward pass of a transformer, by their names, for a batch of one."""

    def part(self, name: str) -> Part:
        """Return the part of that name. Raises UnsupportedModelError if the family has none."""
        found = next((part for part in self.parts if part.name == name), None)
        if found is None:
            raise UnsupportedModelError(f"{self.pipeline_class} has no part {name}; it has {_names(self.parts)}.")
        return found

    @property
    def components(self) -> frozenset[str]:
        """The names of all components that the pipeline uses. A folder may have others."""
        return self.settings | {part.name for part in self.parts}

    @property
    def denoisers(self) -> tuple[Part, ...]:
        """The transformers, the one for the noisier steps first."""
        return tuple(part for part in self.parts if part.is_denoiser)

    @property
    def vae(self) -> Part:
        """The VAE."""
        (vae,) = (part for part in self.parts if part.kind is PartKind.VAE)
        return vae

    def read_shape(self, folder: Path) -> ModelShape:
        """Return the sizes of the parts in a folder of diffusers' layout. Raises UnsupportedModelError."""
        try:
            configs = {
                part.name: json.loads((folder / part.name / "config.json").read_text(encoding="utf-8"))
                for part in self.parts
                if not part.is_optional or (folder / part.name).is_dir()
            }
            configs["pipeline"] = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
            configs[self.vae.name]["parameters"] = _stored_parameters(folder / self.vae.name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnsupportedModelError(f"{folder} does not have a layout that can be planned for: {error}") from error
        try:
            return self.shape(configs)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{folder} cannot be planned for: {error}") from error


def _names(parts: tuple[Part, ...]) -> str:
    return ", ".join(part.name for part in parts)


def _stored_parameters(folder: Path) -> int:
    """Return the number of parameters in a part's safetensors files, from their headers."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total
