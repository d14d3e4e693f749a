"""Reads a transformer from one file, as fine-tunes and quantizations of it are published, by diffusers' names.

The file is GGUF or safetensors, with the original repository's names or diffusers'. It is memory-mapped: bytes are read
when a tensor is used. Quantized GGUF tensors stay quantized (diffusers' `GGUFParameter`); all others become plain
tensors. The scales that some fp8 files store beside their matrices are multiplied in.

`python -m pipelines.loading.single_file PIPELINE_CLASS PART=FILE... [--lora PART=FILE]...` prints each file's
`FileShape` as JSON, for a caller that does not import torch.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import gguf
import torch
from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES, convert_wan_transformer_to_diffusers
from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES, GGUFParameter
from safetensors import SafetensorError, safe_open

from pipelines.core.errors import PipelineError, UnsupportedModelError, WeightsNotFoundError
from pipelines.loading.fp8_scales import with_scales
from pipelines.loading.lora.loras import Loras
from pipelines.models.family import Part, SingleFileLayout
from pipelines.models.registry import family_of
from pipelines.planning.shapes import BF16, FP32, FileShape, StoredBytes

_TYPES = gguf.GGMLQuantizationType
_PLAIN = (_TYPES.F32, _TYPES.F16)

DEQUANTIZING_BYTES = {
    **dict.fromkeys(("Q8_0", "Q4_0"), 4.0),
    **dict.fromkeys(("Q4_1", "Q2_K", "Q3_K", "Q4_K", "Q6_K"), 5.4),
    "Q5_K": 7.2,
    **dict.fromkeys(("Q5_0", "Q5_1"), 10.0),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), 12.3),
}
"""Peak bytes for each value of a matrix while it is dequantized to bf16, by its GGUF type."""


@dataclass(frozen=True, slots=True)
class SingleFile:
    """A file with all weights of a part. Its methods raise WeightsNotFoundError or UnsupportedModelError."""

    path: Path
    part: Part

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Return the names and memory-mapped tensors."""
        return self._named(_read(self.path))

    def headers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Return the names, each with a tensor of its shape and dtype on the meta device."""
        return self._named({name: tensor.to("meta") for name, tensor in _read(self.path).items()})

    @property
    def is_quantized(self) -> bool:
        """Whether the file has quantized matrices. These stay as they are, with every plan."""
        return any(self._stays_quantized(name, tensor) for name, tensor in self.headers())

    def check(self, module: Any) -> None:
        """Raise UnsupportedModelError unless the file has exactly the tensors of a skeleton."""
        named = dict(self.headers())
        found = {name: _shape(tensor) for name, tensor in named.items()}
        known = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        if not found.keys() & known.keys():
            raise self._foreign(found)
        for name in sorted(known.keys() & found.keys()):
            if found[name] != known[name]:
                raise UnsupportedModelError(
                    f"{self.path} is for a model of another size: its {name} is {list(found[name])}, but "
                    f"{list(known[name])} in the configuration."
                )
        if missing := known.keys() - found.keys():
            raise UnsupportedModelError(f"{self.path} has no {_some_of(missing)}.")
        if extra := found.keys() - known.keys():
            raise UnsupportedModelError(f"{self.path} is for another kind of model: it also has {_some_of(extra)}.")
        for name, tensor in named.items():
            if not tensor.is_floating_point() and not isinstance(tensor, GGUFParameter):
                raise UnsupportedModelError(f"{self.path} has {name} as {_format(tensor)}, which is not supported.")

    def measure(self, loras: Loras | None = None) -> FileShape:
        """Return the bytes that the file's tensors take where they are stored, with LoRAs beside quantized matrices."""
        named = dict(self.headers())
        if not any(name.startswith(self._layout.typical) for name in named):
            raise self._foreign(named)
        formats = sorted({_format(tensor) for tensor in named.values()})
        is_quantized = any(self._stays_quantized(name, tensor) for name, tensor in named.items())
        return FileShape(self.path.name, tuple(formats), self._stored_bytes(named, loras) if is_quantized else None)

    @property
    def _layout(self) -> SingleFileLayout:
        if self.part.single_file is None:
            raise UnsupportedModelError(f"{self.path} cannot replace {self.part.name}: it has to come from a folder.")
        return self.part.single_file

    @property
    def _fp32_modules(self) -> frozenset[str]:
        """The modules whose weights diffusers keeps in fp32, quantized or not."""
        return frozenset(resolve_name(self.part.model_class)._keep_in_fp32_modules)

    def _named(self, state: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        layout = self._layout
        # markers of the whole file may have names without the prefix
        prefix = next((known for known in layout.prefixes if any(name.startswith(known) for name in state)), "")
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        if any(name in state for name in CHECKPOINT_KEY_NAMES[layout.checkpoint]):
            state = dict(resolve_name(layout.converter)(state))
        return with_scales(self.path, state)

    def _stored_bytes(self, named: Mapping[str, torch.Tensor], loras: Loras | None) -> StoredBytes:
        blocks: dict[int, list[int]] = {}
        others: list[int] = []
        converted = 0
        for name, tensor in named.items():
            stays = self._stays_quantized(name, tensor)
            in_memory = 0 if stays else _shape(tensor).numel() * self._itemsize(name)
            if stays and loras is not None:
                in_memory = loras.rank(name) * sum(_shape(tensor)) * BF16
            size = in_memory + (int(tensor.nbytes) if stays else 0)
            words = name.split(".")
            if words[0] == "blocks" and words[1].isdecimal():
                blocks.setdefault(int(words[1]), []).append(size)
                converted += in_memory
            else:
                others.append(size)
        return StoredBytes(
            blocks=tuple(sum(sizes) for _, sizes in sorted(blocks.items())),
            others=sum(others),
            converted=converted,
            dequantized=max(
                round(DEQUANTIZING_BYTES[_format(tensor)] * _shape(tensor).numel())
                for name, tensor in named.items()
                if self._stays_quantized(name, tensor)
            ),
        )

    def _itemsize(self, name: str) -> int:
        return FP32 if self._fp32_modules & set(name.split(".")) else BF16

    def _stays_quantized(self, name: str, tensor: torch.Tensor) -> bool:
        """Return whether a tensor is the quantized matrix of a linear layer; all others are dequantized."""
        is_matrix = name.endswith(".weight") and len(_shape(tensor)) == 2
        return isinstance(tensor, GGUFParameter) and is_matrix and not self._fp32_modules & set(name.split("."))

    def _foreign(self, names: Collection[str]) -> UnsupportedModelError:
        example = f": it has {min(names)}" if names else ", nor anything else"
        return UnsupportedModelError(f"{self.path} has no weights of a {self._layout.description}{example}.")


def convert_wan_transformer(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a Wan transformer by diffusers' names, from those of the original repository."""
    # diffusers' own conversion leaves out the positions of two images
    positions = {"img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed"}
    renamed = {positions.get(name, name): tensor for name, tensor in state.items()}
    return dict(convert_wan_transformer_to_diffusers(renamed))


def _shape(tensor: torch.Tensor) -> torch.Size:
    return torch.Size(tensor.quant_shape if isinstance(tensor, GGUFParameter) else tensor.shape)


def _format(tensor: torch.Tensor) -> str:
    if isinstance(tensor, GGUFParameter):
        return str(tensor.quant_type.name)
    return str(tensor.dtype).removeprefix("torch.")


def _some_of(names: Collection[str]) -> str:
    first, others = min(names), len(names) - 1
    return first if not others else f"{first} and {others} other tensor{'s' if others > 1 else ''}"


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return _read_gguf(path) if path.suffix == ".gguf" else _read_safetensors(path)
    except PipelineError:
        raise
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        raise WeightsNotFoundError(f"{path} is truncated, damaged or in another format: {error}.") from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary


def _read_gguf(path: Path) -> dict[str, torch.Tensor]:
    # copy on write: torch accepts only writable arrays, and the file must not change
    reader = gguf.GGUFReader(path, mode="c")
    return {tensor.name: _gguf_tensor(path, reader, tensor) for tensor in reader.tensors}


def _gguf_tensor(path: Path, reader: Any, read: Any) -> torch.Tensor:
    tensor = torch.from_numpy(read.data)
    if read.tensor_type is _TYPES.BF16:
        tensor = tensor.view(torch.bfloat16)
    elif read.tensor_type not in _PLAIN:
        if read.tensor_type not in SUPPORTED_GGUF_QUANT_TYPES:
            supported = ", ".join(known.name for known in SUPPORTED_GGUF_QUANT_TYPES)
            raise UnsupportedModelError(
                f"{path} has {read.name} as {read.tensor_type.name}, which diffusers does not support. Use a file with "
                f"{supported}, F16 or F32."
            )
        return GGUFParameter(tensor, quant_type=read.tensor_type)
    # GGUF has four dimensions at most: converters store the shape of a convolution in a field of its own
    shape = reader.get_field(f"comfy.gguf.orig_shape.{read.name}")
    return tensor if shape is None else tensor.reshape(shape.contents())


def _part_and_path(option: str) -> tuple[str, Path]:
    part, _, path = option.partition("=")
    return part, Path(path)


def main() -> None:
    """Print what was measured of each file as JSON, or the message of an error as one JSON string."""
    parser = ArgumentParser(prog="python -m pipelines.loading.single_file")
    parser.add_argument("pipeline_class")
    parser.add_argument("files", nargs="*", type=_part_and_path, metavar="PART=FILE")
    parser.add_argument("--lora", action="append", default=[], type=_part_and_path, metavar="PART=FILE")
    args = parser.parse_args()
    try:
        family = family_of(args.pipeline_class)
        measured = []
        for part, path in args.files:
            loras = Loras([(lora, 1.0) for changed, lora in args.lora if changed == part], family, part)
            measured.append(asdict(SingleFile(path, family.part(part)).measure(loras)))
        json.dump(measured, sys.stdout)
    except PipelineError as error:
        json.dump(str(error), sys.stdout)


if __name__ == "__main__":
    main()
