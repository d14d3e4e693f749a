"""The weights of a part in a folder of diffusers' layout: read tensor by tensor, and checked before that.

Names, shapes and dtypes come from the files' headers, so a check reads no weights.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.loading.fp8_scales import apply_scale, check_owners, is_beside_weights, scale_of
from pipelines.models.family import Part
from pipelines.models.safetensors_header import StoredTensor, read_header
from pipelines.models.weight_files import weight_files

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True, slots=True)
class PartFolder:
    """A folder with the weights of a part. Its methods raise WeightsNotFoundError or UnsupportedModelError."""

    path: Path
    part: Part

    @property
    def files(self) -> tuple[Path, ...]:
        """The files with the weights."""
        return weight_files(self.path, self.part.library)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the names and tensors. They are memory-mapped, unless scales are multiplied in."""
        located = self._located()
        owned = (scale_of(name, located) for name in located)
        scales = {name: self._read_one(located[name][0], name) for name in owned if name is not None}
        for path in self.files:
            with open_safetensors(path) as file:
                for stored_name in file.keys():  # noqa: SIM118 - it is no dictionary
                    name = self._name(stored_name)
                    if not is_beside_weights(name):
                        tensor, scale = read_tensor(path, file, stored_name), scale_of(name, scales)
                        yield name, tensor if scale is None else apply_scale(path, name, tensor, scales[scale])

    def headers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the names, each with a tensor of its shape and dtype on the meta device."""
        located = self._located()
        check_owners(self.path, located)
        for name, (path, stored) in located.items():
            if not is_beside_weights(name):
                tensor, scale = _on_meta(path, name, stored), scale_of(name, located)
                if scale is not None:
                    tensor = apply_scale(path, name, tensor, _on_meta(path, scale, located[scale][1]))
                yield name, tensor

    def check(self, module: Any) -> None:
        """Raise unless the folder has exactly the tensors of a skeleton; of a tied matrix either name is enough."""
        located = self._located()
        found = dict(self.headers())
        known = module.state_dict()
        for name, tensor in found.items():
            path = located[name][0]
            if name not in known:
                if not _is_ignored(module, name):
                    raise UnsupportedModelError(
                        f"{path} is for another kind of model: it has {name}, which {self.part.class_name} lacks."
                    )
            elif tensor.shape != known[name].shape:
                raise UnsupportedModelError(
                    f"{path}: {name} is {list(tensor.shape)} in the files, {list(known[name].shape)} in the "
                    "configuration."
                )
        tied = dict(getattr(module, "all_tied_weights_keys", {}))
        tied |= {other: name for name, other in tied.items()}
        for name, _ in module.named_parameters(remove_duplicate=False):
            if name not in found and tied.get(name) not in found:
                raise WeightsNotFoundError(f"The weights are incomplete: {self.path} has no {name}.")

    def _located(self) -> dict[str, tuple[Path, StoredTensor]]:
        """Return the tensors of all files by name, each with its file."""
        located: dict[str, tuple[Path, StoredTensor]] = {}
        for path in self.files:
            for stored_name, stored in read_header(path).items():
                name = self._name(stored_name)
                if name in located:
                    raise UnsupportedModelError(f"{located[name][0]} and {path.name} both have {name}.")
                located[name] = path, stored
        return located

    def _name(self, stored_name: str) -> str:
        return stored_name.removeprefix(self.part.stored_prefix)

    def _read_one(self, path: Path, name: str) -> torch.Tensor:
        stored_name = name if name in read_header(path) else f"{self.part.stored_prefix}{name}"
        with open_safetensors(path) as file:
            return read_tensor(path, file, stored_name)


def open_safetensors(path: Path) -> Any:
    """Return safetensors' reader of a file, a context. Raises WeightsNotFoundError."""
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise WeightsNotFoundError(f"{path} is truncated or damaged: {error}.") from error


def read_tensor(path: Path, file: Any, name: str) -> torch.Tensor:
    """Return a tensor of an open file, memory-mapped. Raises WeightsNotFoundError."""
    try:
        tensor: torch.Tensor = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise WeightsNotFoundError(f"{path}: {name} cannot be read: {error}.") from error
    return tensor


def _on_meta(path: Path, name: str, stored: StoredTensor) -> torch.Tensor:
    if stored.dtype not in _DTYPES:
        raise UnsupportedModelError(f"{path} has {name} as {stored.dtype}, which is not supported.")
    return torch.empty(stored.shape, dtype=_DTYPES[stored.dtype], device="meta")


def _is_ignored(module: Any, name: str) -> bool:
    """Return whether the model's class says that published files may have a tensor that it does not use."""
    patterns = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)
