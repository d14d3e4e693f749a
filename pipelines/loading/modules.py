"""Weight files → a module, tensor by tensor, so that host memory holds only the weights that stay there.

The libraries' own loading reads a whole part before it is placed: 27 GiB of host memory for the 14B transformer, whose
published files are twice as large again, in fp32. The modules made here equal those of `from_pretrained`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import init_empty_weights

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.hub.folder import read_config
from pipelines.loading.part_folder import PartFolder
from pipelines.loading.single_file import SingleFile
from pipelines.models.family import Part

StoredTensors = Mapping[str, torch.Tensor]
"""What is stored for one tensor, by name: a tensor of the same name, and possibly its scales."""

Converter = Callable[[str, torch.Tensor], StoredTensors]
"""Converts a tensor that was read, given its name, to what is stored for it."""


class TensorSource(Protocol):
    """Where the tensors of a part come from. `path` is used in messages."""

    @property
    def path(self) -> Path: ...

    @property
    def nbytes(self) -> int:
        """Bytes of its files."""
        ...

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the names and tensors. Those are memory-mapped where possible: their bytes are read when used."""
        ...


@dataclass(frozen=True, slots=True)
class WeightSource:
    """The published weights of a part: those of its folder, or one file.

    Its methods raise WeightsNotFoundError or UnsupportedModelError.
    """

    path: Path
    part: Part

    @property
    def nbytes(self) -> int:
        """Bytes of the files with the weights."""
        return sum(path.stat().st_size for path in ((self.path,) if self.path.is_file() else self._folder.files))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the names and tensors."""
        return self._reader.tensors()

    def headers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the names, each with a tensor of its shape and dtype on the meta device."""
        return self._reader.headers()

    def check(self, module: Any) -> None:
        """Raise unless the files have exactly the tensors of a skeleton. Reads no weights."""
        self._reader.check(module)

    @property
    def _folder(self) -> PartFolder:
        return PartFolder(self.path, self.part)

    @property
    def _reader(self) -> "SingleFile | PartFolder":
        return SingleFile(self.path, self.part) if self.path.is_file() else self._folder


def skeleton(model_class: Any, folder: Path) -> Any:
    """Return a model of a class of diffusers or transformers, by the configuration in `folder`, without weights.

    Raises WeightsNotFoundError or UnsupportedModelError.
    """
    read_config(folder)
    try:
        if hasattr(model_class, "load_config"):
            return build_empty(model_class.from_config, model_class.load_config(folder, local_files_only=True))
        config = model_class.config_class.from_pretrained(folder, local_files_only=True)
        return build_empty(model_class._from_config, config)
    # whatever a library makes of values that it does not expect
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UnsupportedModelError(
            f"{folder / 'config.json'} does not describe a {model_class.__name__}: {reason}."
        ) from error


def build_empty(make: Callable[[Any], Any], config: Any) -> Any:
    """Return the model that `make` builds from a configuration, for inference, with its parameters on meta."""
    # buffers are computed instead of read
    with init_empty_weights(include_buffers=False):
        module = make(config)
    return module.eval().requires_grad_(False)


def load_weights(
    module: Any, source: TensorSource, convert: Converter, on_bytes: Callable[[int], None] = lambda _: None
) -> None:
    """Assign the weights of `source` to a skeleton. `on_bytes` is called with the bytes that each tensor has on disk.

    Raises WeightsNotFoundError that names the first missing parameter, or UnsupportedModelError.
    """
    assign_tensors(module, source.tensors(), convert, on_bytes)
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            raise WeightsNotFoundError(f"The weights are incomplete: {source.path} has no {name}.")


def assign_tensors(
    module: Any,
    named: Iterable[tuple[str, torch.Tensor]],
    convert: Converter,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Assign tensors to a skeleton by their names, each as `convert` returns it. Unknown names are ignored.

    Raises UnsupportedModelError for a tensor whose shape is not that of the configuration.
    """
    known = module.state_dict()
    for name, tensor in named:
        if name in known:
            if known[name].shape != tensor.shape and tensor.dtype is not torch.uint8:
                raise UnsupportedModelError(
                    f"{name} is {list(tensor.shape)} in the files, {list(known[name].shape)} in the configuration."
                )
            for stored_name, stored in convert(name, tensor).items():
                _assign(module, stored_name, stored)
        on_bytes(tensor.nbytes)
    _tie_weights(module)


def _tie_weights(module: Any) -> None:
    """Share matrices that have two names, of which the files may contain either: UMT5's embedding."""
    for name, other in getattr(module, "all_tied_weights_keys", {}).items():
        names = (name, other)
        found = next((module.get_parameter(n) for n in names if not module.get_parameter(n).is_meta), None)
        if found is not None:
            for each in names:
                _assign(module, each, found)


def _assign(module: Any, name: str, tensor: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    parent = module.get_submodule(owner)
    if leaf in parent._buffers:
        parent.register_buffer(leaf, tensor)
        return
    if not isinstance(tensor, torch.nn.Parameter):
        tensor = torch.nn.Parameter(tensor, requires_grad=False)
    parent.register_parameter(leaf, tensor)
