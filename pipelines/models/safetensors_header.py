"""The names, dtypes and shapes of the tensors in a safetensors file, from its header alone and without torch.

Format: https://huggingface.co/docs/safetensors, "Format". A header that passes is one that the library accepts, too.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.models.weight_files import check_no_pointer

MAX_HEADER_BYTES = 2**24
"""Limit of a header; those of the published models have up to 200 KB."""

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""Bytes of a number, by the dtypes in which weights are read."""

_INTEGERS = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_SIZES = FLOATS | _INTEGERS
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The dtype of a tensor, by its name in the format, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Its number of values."""
        return prod(self.shape)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by name.

    Raises WeightsNotFoundError if the file cannot be read, is truncated or damaged, or is longer than its header says;
    UnsupportedModelError if it has a tensor of an unknown dtype.
    """
    try:
        with path.open("rb") as file:
            total = file.seek(0, 2)
            file.seek(0)
            start = file.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            if len(start) == _LENGTH_BYTES and length <= min(MAX_HEADER_BYTES, total - _LENGTH_BYTES):
                content = file.read(length)
            else:
                check_no_pointer(path, start + file.read(100))
                raise _damaged(path, "it has no header")
    except FileNotFoundError as error:
        raise WeightsNotFoundError(f"The weights are incomplete: {path} is missing.") from error
    except OSError as error:
        raise WeightsNotFoundError(f"{path} cannot be read: {error.strerror}.") from error
    return _parse(path, content, total - _LENGTH_BYTES - length)


def _parse(path: Path, content: bytes, data_bytes: int) -> dict[str, StoredTensor]:
    try:
        header = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not JSON")
    header.pop("__metadata__", None)
    tensors: dict[str, StoredTensor] = {}
    spans = []
    for name, entry in header.items():
        tensor, span = _entry(path, name, entry)
        tensors[name] = tensor
        spans.append(span)
    end = 0
    for first, last in sorted(spans):
        if first != end:
            raise _damaged(path, "its tensors overlap or leave gaps")
        end = last
    if end != data_bytes:
        raise _damaged(path, "its length is not the one in its header")
    return tensors


def _entry(path: Path, name: str, entry: Any) -> tuple[StoredTensor, tuple[int, int]]:
    """Return a tensor and its first and last byte."""
    try:
        dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        is_sound = isinstance(shape, list) and all(_is_size(number) for number in (*shape, first, last))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its header does not describe {name[:200]}") from error
    if is_sound and isinstance(dtype, str) and dtype not in _SIZES:
        raise UnsupportedModelError(f"{path} has {name} as {dtype[:20]}, which is not supported.")
    if not is_sound or not isinstance(dtype, str) or last - first != prod(shape) * _SIZES[dtype]:
        raise _damaged(path, f"its header does not describe {name[:200]}")
    return StoredTensor(dtype, tuple(shape)), (first, last)


def _is_size(number: Any) -> bool:
    return type(number) is int and number >= 0


def _damaged(path: Path, reason: str) -> WeightsNotFoundError:
    return WeightsNotFoundError(f"{path} is truncated or damaged: {reason}.")
