"""What the rest of the program asks about a family of models, instead of branching on names.

A family is the set of models that one pipeline class of diffusers runs. Classes of other libraries are named as
"module:name", so that a family can be read without importing them; `pkgutil.resolve_name` returns the class.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipelines.core.errors import UnsupportedModelError
from pipelines.core.geometry import Geometry
from pipelines.models.model_index import ModelIndex, check_boundary, read_model_index
from pipelines.models.safetensors_header import read_header
from pipelines.models.weight_files import read_json, weight_files
from pipelines.planning.shapes import ModelShape

_BLOCK = re.compile(r"blocks[._](\d{1,4})[._](.+)")

Configs = Mapping[str, Mapping[str, Any]]
"""The configurations of a pipeline's parts by name, and that of the pipeline itself as "pipeline"."""


class PartKind(StrEnum):
    """What a part does, which decides how it is placed, streamed and quantized."""

    DENOISER = "denoiser"
    """A transformer that a denoising step calls. Its blocks are its attribute `blocks`."""
    TEXT_ENCODER = "text encoder"
    IMAGE_ENCODER = "image encoder"
    CONDITIONER = "conditioner"
    """A small part that turns other conditions, such as a length, into what the denoiser reads."""
    VAE = "VAE"


class InputUse(StrEnum):
    """Whether requests may or must have an input."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """Which images requests have: the one that a video begins with, and the one that it ends with."""

    first: InputUse = InputUse.NONE
    last: InputUse = InputUse.NONE


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
class LoraLayout:
    """How LoRA files name the layers and parameters of a part.

    `layers` and `block_layers` have diffusers' names by those of the original repository, outside and inside of the
    blocks. Files use either name, with dots or with underscores between its words, after any of `prefixes`. Names that
    start with `left_aside` are of other models. Only models that take an image have the layers in `image_layers`. The
    last words in `tables` are those of parameters that are no layer's weight.
    """

    layers: Mapping[str, str]
    block_layers: Mapping[str, str]
    image_layers: frozenset[str]
    tables: frozenset[str]
    prefixes: tuple[str, ...]
    left_aside: str

    def layer(self, name: str) -> str | None:
        """Return diffusers' name of a layer or parameter from its name in a file without prefixes; None if unknown."""
        block = _BLOCK.fullmatch(name)
        if block is None:
            return _named(self.layers, name)
        found = _named(self.block_layers, block[2])
        return None if found is None else f"blocks.{int(block[1])}.{found}"

    def weight(self, layer: str) -> str:
        """Return the name of a layer's weight, or of a parameter itself, by diffusers' names."""
        return layer if layer.rpartition(".")[2] in self.tables else f"{layer}.weight"

    def is_for_images(self, layer: str) -> bool:
        """Return whether only models that take an image have a layer, given diffusers' name."""
        block = _BLOCK.fullmatch(layer)
        return (layer if block is None else block[2]) in self.image_layers


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a pipeline that has weights.

    `name` is the pipeline's attribute and the folder of the weights; `model_class` builds the part. `single_file` is
    the layout of single files with its weights, `lora` that of LoRA files; None if it takes none. The names of tensors
    in a folder may begin with `stored_prefix`, which those of the class have lost.
    """

    name: str
    kind: PartKind
    model_class: str
    is_optional: bool = False
    single_file: SingleFileLayout | None = None
    lora: LoraLayout | None = None
    stored_prefix: str = ""

    @property
    def takes_loras(self) -> bool:
        """Whether LoRAs can change its weights."""
        return self.lora is not None

    @property
    def library(self) -> str:
        """The library that its weight files are named for."""
        return "transformers" if self.kind in (PartKind.TEXT_ENCODER, PartKind.IMAGE_ENCODER) else "diffusers"

    @property
    def class_name(self) -> str:
        """The name of its class."""
        return self.model_class.partition(":")[2]

    @property
    def is_denoiser(self) -> bool:
        """Whether it is a transformer made of blocks."""
        return self.kind is PartKind.DENOISER


class PipelineFamily(ABC):
    """A pipeline class of diffusers with its parts, as folders in its layout have them.

    `pipeline_class` is its name in a model's file, `folder_classes` are the names that its folders may have in
    model_index.json. `parts` are in the order in which they are loaded; `settings` are the components without weights,
    of which a folder may lack the `optional_settings`. `module` is that of diffusers' pipelines with classes of parts
    that no other pipeline has.
    """

    module: str | None = None
    pipeline_class: str
    folder_classes: frozenset[str]
    parts: tuple[Part, ...]
    settings: frozenset[str]
    optional_settings: frozenset[str] = frozenset()

    @abstractmethod
    def check_sizes(self, folder: Path) -> None:
        """Raise UnsupportedModelError or WeightsNotFoundError if the parts of a folder do not fit together."""

    def part(self, name: str) -> Part:
        """Return the part of that name. Raises UnsupportedModelError if the family has none."""
        found = next((part for part in self.parts if part.name == name), None)
        if found is None:
            raise UnsupportedModelError(f"{self.pipeline_class} has no part {name}; it has {_names(self.parts)}.")
        return found

    @property
    def components(self) -> frozenset[str]:
        """The names of all components that the pipeline uses. A folder may have others."""
        return self.settings | self.optional_settings | {part.name for part in self.parts}

    def read_index(self, folder: Path) -> ModelIndex:
        """Return which components a folder in diffusers' layout has for this family's pipeline.

        Raises WeightsNotFoundError if the list cannot be read; UnsupportedModelError if it is of another class, lacks a
        component, or has other experts than the pipeline can run.
        """
        index = read_model_index(folder, self.components, self.module)
        if index.pipeline_class not in self.folder_classes:
            raise UnsupportedModelError(
                f"{folder} is a {index.pipeline_class}, but the model's file says {self.pipeline_class}."
            )
        for part in self.parts:
            found = index.components.get(part.name)
            if found is not None and found[0] != part.library:
                raise UnsupportedModelError(
                    f"{index.path} has {part.name} of {found[0]}; {self.pipeline_class} needs one of {part.library}."
                )
        required = [part.name for part in self.parts if not part.is_optional] + sorted(self.settings)
        if missing := next((name for name in required if name not in index.components), None):
            raise UnsupportedModelError(f"{index.path} does not list {missing}, which {self.pipeline_class} needs.")
        denoisers = [part for part in self.parts if part.is_denoiser]
        check_boundary(index, len(self.used(index, denoisers)))
        return index

    def used_settings(self, index: ModelIndex) -> list[str]:
        """Return the components without weights that a folder's pipeline uses, by name."""
        return sorted(name for name in self.settings | self.optional_settings if name in index.components)

    def used(self, index: ModelIndex, parts: Iterable[Part] | None = None) -> list[Part]:
        """Return the parts, of all or of `parts`, that a folder's pipeline uses, in their order."""
        return [part for part in (self.parts if parts is None else parts) if part.name in index.components]


class ModelFamily(PipelineFamily):
    """A family of models that make videos.

    `pipeline` is diffusers' class. `image_pipeline` is the class that runs requests with an image, on the same parts;
    None if no weights of the family take one. The sides of a video are multiples of `side_multiple` pixels,
    whatever the VAE.

    The pipeline's denoising loop carries `loop_tensors` from step to step, by its own names: a checkpoint must save
    them, and the pipeline accepts each as an argument. A batch of guidance's two passes repeats those of the
    transformer's `repeated_inputs` that it has, and has both prompts' embeddings as `text_input`. The pipeline cleans a
    prompt by the function `prompt_cleaner` before it is tokenized. The function `activations` sets the accuracy and the
    slices of a transformer.
    """

    pipeline: str
    image_pipeline: str | None
    side_multiple: int
    loop_tensors: tuple[str, ...]
    repeated_inputs: tuple[str, ...]
    text_input: str
    prompt_cleaner: str
    activations: str

    @abstractmethod
    def shape(self, configs: Configs) -> ModelShape:
        """Return the sizes of the parts that configurations describe. The VAE's must also state its `parameters`.

        Raises UnsupportedModelError if a field is missing or the parts do not fit together.
        """

    @abstractmethod
    def forward_inputs(self, shape: ModelShape, geometry: Geometry, text_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the inputs of one forward pass of a transformer, by their names, for a batch of one."""

    def inputs(self, configs: Configs | None) -> frozenset[str]:
        """Return the kinds of input that requests may have, for weights with these configurations or (None) any."""
        images = self.images(None if configs is None else self.shape(configs))
        return frozenset({"text"} if images.first is InputUse.NONE else {"text", "image"})

    @abstractmethod
    def images(self, shape: ModelShape | None) -> ImageInputs:
        """Return which images requests may or must have, for weights of these sizes or (None) for any of the family."""

    @abstractmethod
    def takes_video(self, shape: ModelShape | None) -> bool:
        """Return whether requests may have a video that theirs is made from, for weights as in `images`."""

    @property
    def denoisers(self) -> tuple[Part, ...]:
        """The transformers, the one for the noisier steps first."""
        return tuple(part for part in self.parts if part.is_denoiser)

    @property
    def text_encoder(self) -> Part:
        """The text encoder."""
        (encoder,) = (part for part in self.parts if part.kind is PartKind.TEXT_ENCODER)
        return encoder

    @property
    def vae(self) -> Part:
        """The VAE."""
        (vae,) = (part for part in self.parts if part.kind is PartKind.VAE)
        return vae

    def check_sizes(self, folder: Path) -> None:
        """As in the base class."""
        self.read_shape(folder)

    def read_shape(self, folder: Path) -> ModelShape:
        """Return the sizes of the parts in a folder of diffusers' layout.

        Raises WeightsNotFoundError if a file cannot be read, or UnsupportedModelError.
        """
        index = self.read_index(folder)
        configs = {part.name: read_json(folder / part.name / "config.json") for part in self.used(index)}
        configs["pipeline"] = dict(index.settings)
        configs[self.vae.name]["parameters"] = stored_parameters(folder / self.vae.name, self.vae)
        try:
            return self.shape(configs)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{folder} cannot be planned for: {error}") from error


def _named(layers: Mapping[str, str], name: str) -> str | None:
    """Return the value of the entry whose key or value is `name`, whatever stands between its words."""
    flat = _flat(name)
    return next((ours for theirs, ours in layers.items() if flat in (_flat(theirs), _flat(ours))), None)


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _names(parts: tuple[Part, ...]) -> str:
    return ", ".join(part.name for part in parts)


def stored_parameters(folder: Path, part: Part) -> int:
    """Return the number of parameters in a part's weight files, from their headers."""
    return sum(tensor.numel for path in weight_files(folder, part.library) for tensor in read_header(path).values())
