"""The disk space that a model's weights need on this machine: what is to be downloaded, and what will be converted."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.model import ModelSpec
from pipelines.hub.cache import free_bytes, hub_cache

DEFAULT_MODEL_BYTES = 77 * 10**9
"""The size of the default model's files on its hub."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that are still to be written into a folder, which need not exist; `what` names them."""

    what: str
    folder: Path
    size: int


def to_download(spec: ModelSpec) -> Need:
    """The default model's files that are not in the hub cache yet; parts of files count as there."""
    cache = hub_cache()
    here = _size(cache / f"models--{spec.repo.replace('/', '--')}" / "blobs")
    return Need("to download", cache, max(0, DEFAULT_MODEL_BYTES - here))


def to_convert(data_dir: Path, needed: int) -> Need:
    """The `needed` bytes of converted weights that are not in the data directory yet."""
    folder = data_dir / "cache" / "weights"
    return Need("at most to convert", folder, max(0, needed - _size(folder)))


@dataclass(frozen=True, slots=True)
class Room:
    """What is needed on one disk, and the bytes that are free there."""

    needs: tuple[Need, ...]
    free: int

    @property
    def is_enough(self) -> bool:
        """Whether everything fits."""
        return sum(need.size for need in self.needs) <= self.free


def rooms(needs: Iterable[Need]) -> list[Room]:
    """The needs by disk, without those of nothing."""
    by_disk: dict[int, list[Need]] = {}
    for need in needs:
        if need.size:
            existing = next(path for path in (need.folder, *need.folder.parents) if path.exists())
            by_disk.setdefault(existing.stat().st_dev, []).append(need)
    return [Room(tuple(found), free_bytes(found[0].folder)) for found in by_disk.values()]


def _size(folder: Path) -> int:
    """Bytes of the files in a folder that may not exist."""
    return sum(entry.stat(follow_symlinks=False).st_size for entry in _files(folder))


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                yield entry
