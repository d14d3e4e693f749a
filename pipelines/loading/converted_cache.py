"""Weights on disk in the form that a plan keeps them in, written once and read at every later start."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers.quantizers.gguf.utils import (
    GGUFParameter,
)
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import save_file

from pipelines.core.errors import WeightFormatError
from pipelines.core.files import atomic_path, sync
from pipelines.loading.modules import headers, tensors
from pipelines.loading.weight_format import WeightFormat
from pipelines.planning.layout import GIB
from pipelines.planning.memory_model import SHARD_BYTES


def convert_once(
    source: Path, weight_format: WeightFormat, target: Path, on_bytes: Callable[[int], None] = lambda _: None
) -> Path:
    """The part in `source` as `weight_format` keeps it, in the folder `target`; written there once, whole or not
    at all.

    A second process that asks for the same waits for the first. Raises StorageError when there is no room for it.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _write(source, weight_format, target, on_bytes)
    except (OSError, SafetensorError) as error:
        raise WeightFormatError(f"{source.name} could not be kept in {target.parent}: {error}") from error
    return target


def _write(source: Path, weight_format: WeightFormat, target: Path, on_bytes: Callable[[int], None]) -> None:
    needed = sum(weight_format.size(name, tensor) for name, tensor in headers(source))
    # the folder is used because its name exists: after a power failure the name must not be there without the content
    with atomic_path(target) as part:
        free = shutil.disk_usage(target.parent).free
        if needed > free:
            raise WeightFormatError(
                f"Keeping {source.name} as the plan has it needs {needed / GIB:.1f} GiB in {target.parent}, where "
                f"{free / GIB:.1f} GiB is free."
            )
        part.mkdir()
        for number, shard in enumerate(_shards(source, weight_format, on_bytes)):
            path = part / f"{number:05}.safetensors"
            save_file(shard, path)
            sync(path)


def _shards(
    source: Path, weight_format: WeightFormat, on_bytes: Callable[[int], None]
) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    for name, tensor in tensors(source):
        if sum(held.nbytes for held in shard.values()) > SHARD_BYTES:
            yield shard
            shard = {}
        for kept_name, kept in weight_format.convert(name, tensor).items():
            shard[kept_name] = kept.as_tensor() if isinstance(kept, GGUFParameter) else kept.contiguous()
        on_bytes(tensor.nbytes)
    yield shard
