"""Tensors from one safetensors file to another: checked by their headers first, then read and written one by one."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pipelines.core.errors import UnsupportedModelError, WeightFormatError, WeightsNotFoundError
from pipelines.models.safetensors_header import StoredTensor, read_header

_WRITTEN = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8

DTYPES = {"F32": torch.float16, "F16": torch.float16, "BF16": torch.bfloat16}
"""The 16 bits in which a tensor is written, by the dtype it has."""


@dataclass(frozen=True, slots=True)
class Move:
    """A tensor to write: its name and dtype there, its shape, and its name in the file that is read.

    `order` are the indices of its equal groups of rows in the new order; empty if they stay as they are. `value` is the
    tensor itself if it is not read from the file.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    order: tuple[int, ...] = ()
    value: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the new file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor as it is written. Raises UnsupportedModelError if a number is not finite in its dtype."""
        if self.order:
            groups = tensor.chunk(len(self.order))
            tensor = torch.cat([groups[index] for index in self.order])
        converted = tensor.to(self.dtype)
        # without temporary tensors of its size
        if not all(map(torch.isfinite, converted.aminmax())):
            kind = str(self.dtype).removeprefix("torch.")
            raise UnsupportedModelError(f"{self.source} has numbers that are not finite in {kind}.")
        return converted.contiguous()


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A safetensors file that is read. Its methods raise WeightsNotFoundError or UnsupportedModelError."""

    path: Path
    headers: Mapping[str, StoredTensor]

    @classmethod
    def at(cls, path: Path) -> "SourceFile":
        """Read the header of a file."""
        return cls(path, read_header(path))

    def stored(self, name: str) -> StoredTensor:
        """Return the header of a tensor that the file must have, in one of the dtypes that are converted."""
        found = self.headers.get(name)
        if found is None:
            raise UnsupportedModelError(f"{self.path} has no {name}.")
        if found.dtype not in DTYPES:
            raise UnsupportedModelError(f"{self.path} has {name} as {found.dtype}, which is not converted.")
        return found

    def check_shape(self, name: str, shape: Sequence[int]) -> None:
        """Raise unless a tensor has a shape."""
        found = self.stored(name).shape
        if found != tuple(shape):
            raise UnsupportedModelError(f"{self.path} has {name} as {list(found)}; its settings need {list(shape)}.")

    def check_used(self, names: Iterable[str]) -> None:
        """Raise unless the names are all that the file has."""
        if extra := sorted(self.headers.keys() - set(names)):
            others = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            raise UnsupportedModelError(f"{self.path} also has {extra[0]}{others}, which no part of the model takes.")

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """A context with the file; its `get_tensor` reads one tensor."""
        try:
            with safe_open(self.path, "pt") as file:
                yield file
        except SafetensorError as error:
            raise WeightsNotFoundError(f"{self.path} is truncated or damaged: {error}.") from error


def write_tensors(source: SourceFile, moves: Iterable[Move], path: Path) -> None:
    """Write a safetensors file with the moved tensors; only one of them is in memory at a time.

    Raises WeightFormatError if the file cannot be written, and what reading raises.
    """
    # the widest numbers first, as the library does: each tensor then starts at a multiple of its numbers' size
    ordered = sorted(moves, key=lambda move: (-move.dtype.itemsize, move.name))
    try:
        with source.opened() as opened, path.open("xb") as file:
            file.write(_header(ordered))
            for move in ordered:
                tensor = opened.get_tensor(move.source) if move.value is None else move.value
                file.write(move.apply(tensor).reshape(-1).view(torch.uint8).numpy().data)
    except OSError as error:
        raise WeightFormatError(f"{path} cannot be written: {error.strerror}.") from error


def _header(moves: Iterable[Move]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for move in moves:
        first, end = end, end + move.nbytes
        entries[move.name] = {
            "dtype": _WRITTEN[move.dtype],
            "shape": list(move.shape),
            "data_offsets": [first, end],
        }
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    return len(encoded).to_bytes(8, "little") + encoded
