"""Converted weights on disk, in the format a plan stores them in: written once, read at every later start."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers.quantizers.gguf.utils import GGUFParameter
from safetensors import SafetensorError
from safetensors.torch import save_file

from pipelines.core.cache_folder import CacheEntry, CacheFolder, Facts
from pipelines.core.errors import PipelineError, WeightFormatError
from pipelines.core.precision import Precision
from pipelines.hub.folder import part_digest
from pipelines.hub.local import file_digest
from pipelines.loading.modules import WeightSource
from pipelines.loading.part_folder import open_safetensors, read_tensor
from pipelines.loading.weight_format import WeightFormat
from pipelines.planning.layout import GIB
from pipelines.planning.memory_model import SHARD_BYTES

MAX_CONVERTED_BYTES = 128 * GIB
"""Limit of all converted weights on disk. Wan2.2 A14B streamed from disk in bf16 takes 64 GiB, 14B in fp8 14 GiB."""

FORMAT = 1
"""Raised when this project converts weights differently: older ones are then made again."""

_LIBRARIES = ("diffusers", "gguf", "torchao")


@dataclass(frozen=True, slots=True)
class ConvertedWeights:
    """Converted weights of a part. Its tensors are what is stored, scales included. They stay while it is in use."""

    entry: CacheEntry

    @property
    def path(self) -> Path:
        """Their folder."""
        return self.entry.path

    @property
    def nbytes(self) -> int:
        """Bytes of their files."""
        return sum(path.stat().st_size for path in self.entry.files)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the names and memory-mapped tensors."""
        for path in self.entry.files:
            with open_safetensors(path) as file:
                for name in file.keys():  # noqa: SIM118 - it is no dictionary
                    yield name, read_tensor(path, file, name)


def converted_weights(cache: Path) -> CacheFolder:
    """Return the converted weights in a folder for caches. Those whose source has changed or is gone are orphans."""
    return CacheFolder(cache / "weights", MAX_CONVERTED_BYTES, _is_current)


def made_from(
    source: WeightSource, precision: Precision, dtype: torch.dtype, loras: Sequence[tuple[Path, float]]
) -> dict[str, Any]:
    """Return everything that converted weights depend on: the part's own files, the changes to them, the format."""
    return {
        "library": source.part.library,
        "digest": _digest(source.path, source.part.library),
        "loras": [[file_digest(path), strength] for path, strength in loras],
        "precision": str(precision),
        "dtype": str(dtype),
        **_versions(),
    }


def convert_once(
    source: WeightSource,
    weight_format: WeightFormat,
    cache: CacheFolder,
    facts: Facts,
    loras: Sequence[Path] = (),
    on_bytes: Callable[[int], None] = lambda _: None,
) -> ConvertedWeights:
    """Return the weights of a part in a format, from the cache; they are written if they are not there or damaged.

    They are kept for as long as the source and the files `loras` are there. Another process that needs the same weights
    waits for them. `on_bytes` is called with the bytes that each tensor has in the source. Raises WeightFormatError if
    the disk has no space.
    """
    needed = sum(weight_format.size(name, tensor) for name, tensor in source.headers())
    try:
        entry = cache.make(
            source.part.name,
            facts,
            lambda folder: _write(source, weight_format, folder, needed, on_bytes),
            needed,
            [str(path.absolute()) for path in (source.path, *loras)],
        )
    except (OSError, SafetensorError) as error:
        raise WeightFormatError(f"{source.path.name} could not be converted in {cache.path}: {error}") from error
    return ConvertedWeights(entry)


def _write(
    source: WeightSource,
    weight_format: WeightFormat,
    folder: Path,
    needed: int,
    on_bytes: Callable[[int], None],
) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WeightFormatError(
            f"Converting {source.path.name} as the plan requires needs {needed / GIB:.1f} GiB in {folder.parent}, "
            f"where {free / GIB:.1f} GiB is free."
        )
    for number, shard in enumerate(_shards(source, weight_format, on_bytes)):
        save_file(shard, folder / f"{number:05}.safetensors")


def _is_current(facts: Facts, origin: Sequence[str]) -> bool:
    if any(facts[name] != value for name, value in _versions().items()):
        return False
    source, *loras = map(Path, origin)
    try:
        digests = [file_digest(path) for path in loras]
        return facts["digest"] == _digest(source, facts["library"]) and digests == [lora[0] for lora in facts["loras"]]
    except PipelineError:
        return False


def _digest(path: Path, library: str) -> str:
    return file_digest(path) if path.is_file() else part_digest(path, library)


def _versions() -> dict[str, Any]:
    return {"format": FORMAT, **{name: version(name) for name in _LIBRARIES}}


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
