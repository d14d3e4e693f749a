"""Converted weights on disk, in the format a plan stores them in: written once, read at every later start."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.quantizers.gguf.utils import GGUFParameter
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import save_file

from pipelines.core.errors import WeightFormatError
from pipelines.core.files import atomic_path, sync
from pipelines.loading.modules import WeightSource
from pipelines.loading.part_folder import open_safetensors
from pipelines.loading.weight_format import WeightFormat
from pipelines.planning.layout import GIB
from pipelines.planning.memory_model import SHARD_BYTES


@dataclass(frozen=True, slots=True)
class ConvertedWeights:
    """A folder of converted weights. Its tensors are what is stored, scales included."""

    path: Path

    @property
    def files(self) -> list[Path]:
        """Its files."""
        return sorted(self.path.glob("*.safetensors"))

    @property
    def nbytes(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.files)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the names and memory-mapped tensors."""
        for path in self.files:
            with open_safetensors(path) as file:
                for name in file.keys():  # noqa: SIM118 - it is no dictionary
                    yield name, file.get_tensor(name)


def convert_once(
    source: WeightSource, weight_format: WeightFormat, target: Path, on_bytes: Callable[[int], None] = lambda _: None
) -> "ConvertedWeights":
    """Return the weights of a part in a format, from the folder `target`, which is written if it does not exist.

    Another process that needs the same folder waits for it. `on_bytes` is called with the bytes that each tensor has in
    the source. Raises WeightFormatError if the disk has no space.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _write(source, weight_format, target, on_bytes)
    except (OSError, SafetensorError) as error:
        raise WeightFormatError(f"{source.path.name} could not be converted in {target.parent}: {error}") from error
    return ConvertedWeights(target)


def _write(source: WeightSource, weight_format: WeightFormat, target: Path, on_bytes: Callable[[int], None]) -> None:
    needed = sum(weight_format.size(name, tensor) for name, tensor in source.headers())
    # the folder is used because its name exists: after a power failure the name must not be there without the content
    with atomic_path(target) as part:
        free = shutil.disk_usage(target.parent).free
        if needed > free:
            raise WeightFormatError(
                f"Converting {source.path.name} as the plan requires needs {needed / GIB:.1f} GiB in {target.parent}, "
                f"where {free / GIB:.1f} GiB is free."
            )
        part.mkdir()
        for number, shard in enumerate(_shards(source, weight_format, on_bytes)):
            path = part / f"{number:05}.safetensors"
            save_file(shard, path)
            sync(path)


def _shards(
    source: WeightSource, weight_format: WeightFormat, on_bytes: Callable[[int], None]
) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    for name, tensor in source.tensors():
        if sum(stored.nbytes for stored in shard.values()) > SHARD_BYTES:
            yield shard
            shard = {}
        for stored_name, stored in weight_format.convert(name, tensor).items():
            shard[stored_name] = stored.as_tensor() if isinstance(stored, GGUFParameter) else stored.contiguous()
        on_bytes(tensor.nbytes)
    yield shard
