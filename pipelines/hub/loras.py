"""The LoRAs that a request may name, never by a path: a model's optional ones, and the files in a folder."""

import heapq
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import LoraError, LoraNotFoundError, WeightsNotFoundError
from pipelines.core.model import ModelSpec, OptionalLora
from pipelines.core.request import RequestLora, is_lora_name
from pipelines.hub import local as weights
from pipelines.models.safetensors_header import read_header

MAX_FILES = 1000
"""So many files of a folder are listed, the first by name."""

SUFFIX = ".safetensors"

_DOWN, _UP = re.compile(r"\.lora_(A|down)\."), re.compile(r"\.lora_(B|up)\.")

# "low" alone is an ordinary word, as in low-poly
_EXPERTS = tuple(
    re.compile(rf"(?<![A-Za-z])(?:(?i:{level}[ ._-]?noise)|{level.upper()})(?![A-Za-z])") for level in ("high", "low")
)


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A file in a folder of LoRAs; `name` is its name without the ending, `size` in bytes."""

    name: str
    path: Path
    size: int
    mtime_ns: int

    @property
    def identity(self) -> str:
        """Its name, size and time."""
        return f"{self.name} {self.size} {self.mtime_ns}"


@dataclass(frozen=True, slots=True)
class LocatedLora:
    """A request's LoRA as a file on this machine; `part` is None for every part that takes LoRAs.

    `digest` is that of the file when it was located.
    """

    name: str
    path: Path
    digest: str
    part: str | None
    strength: float

    @property
    def identity(self) -> str:
        """Everything of it that the bytes of a video depend on."""
        return f"{self.name} {self.digest}{'' if self.part is None else f' {self.part}'}*{self.strength}"

    @property
    def portable(self) -> str:
        """The same for every machine that has a copy of the file."""
        digest = weights.file_digest(self.path, is_timed=False)
        return f"{self.name} {digest}{'' if self.part is None else f' {self.part}'}*{self.strength}"

    def check_unchanged(self) -> None:
        """Raise LoraError if the file is not the one that was located."""
        if _digest(self.name, self.path) != self.digest:
            raise LoraError(f"The file of the LoRA {self.name} has changed while it was read.")


def list_files(folder: Path) -> list[LoraFile]:
    """The LoRAs in a folder by name: its safetensors files, without links. Raises LoraError that names the folder."""
    try:
        with os.scandir(folder) as entries:
            first = heapq.nsmallest(MAX_FILES, (entry.name for entry in entries if entry.name.endswith(SUFFIX)))
    except OSError as error:
        raise LoraError(f"The folder of LoRAs {folder} cannot be read: {error.strerror}.") from error
    files = (_file(folder, name.removesuffix(SUFFIX)) for name in first)
    return [file for file in files if file is not None]


def lora_widths(path: Path) -> frozenset[int] | None:
    """Return the features of the layers that a file's factors are for; None if it has no factors of a known name.

    A LoRA for a transformer changes layers from or to the features between its blocks, so it fits only a model that has
    one of these. Reads the header alone. Raises WeightsNotFoundError or UnsupportedModelError.
    """
    widths = set()
    for name, tensor in read_header(path).items():
        if len(tensor.shape) == 2:
            outside, inside = tensor.shape
            if _DOWN.search(name):
                widths.add(inside)
            elif _UP.search(name):
                widths.add(outside)
    return frozenset(widths) or None


def locate_loras(
    chosen: Sequence[RequestLora], spec: ModelSpec, folder: Path | None, parts: Sequence[str]
) -> tuple[LocatedLora, ...]:
    """Return the files of a request's LoRAs. `parts` are the model's transformers, the one for noisier steps first.

    A model's optional LoRA comes before a file of the same name. Raises LoraError that names the LoRA.
    """
    return tuple(located for lora in chosen for located in _locate(lora, spec, folder, parts))


def expert_of(name: str, parts: Sequence[str]) -> str | None:
    """Return the part that a file is for by its name, of a model with two transformers; None: for both.

    Files for one expert are published with "high_noise" or "low_noise" in their names, or with HIGH or LOW in capitals.
    """
    named = [part for part, expert in zip(parts, _EXPERTS, strict=False) if expert.search(name)]
    return named[0] if len(parts) == len(_EXPERTS) and len(named) == 1 else None


def _locate(lora: RequestLora, spec: ModelSpec, folder: Path | None, parts: Sequence[str]) -> list[LocatedLora]:
    entries = [entry for entry in spec.optional_loras if entry.name == lora.name]
    found = []
    for path, part in _files(lora.name, entries) if entries else [_file_in(folder, lora.name, parts)]:
        if part is not None and part not in parts:
            raise LoraError(f"The LoRA {lora.name} is for {part}, which this model does not have.")
        found.append(LocatedLora(lora.name, path, _digest(lora.name, path), part, lora.strength))
    return found


def _files(name: str, entries: Sequence[OptionalLora]) -> list[tuple[Path, str | None]]:
    """Return the files of a model's optional LoRA with their parts."""
    try:
        return [(weights.locate_file(entry.repo, entry.file, entry.revision), entry.part) for entry in entries]
    except WeightsNotFoundError as error:
        raise LoraNotFoundError(f"The LoRA {name} cannot be used: {error}") from error


def _file_in(folder: Path | None, name: str, parts: Sequence[str]) -> tuple[Path, str | None]:
    """Return a file of the folder of LoRAs with its part."""
    file = None if folder is None else _file(folder, name)
    if file is None:
        raise LoraNotFoundError(f"The LoRA {name} is not on this machine, or not any more.")
    return file.path, expert_of(name, parts)


def _digest(name: str, path: Path) -> str:
    try:
        # the time of its last change: a file may be replaced by one of the same size and time of writing
        return f"{weights.file_digest(path)}.{path.stat().st_ctime_ns:x}"
    except OSError as error:
        raise LoraNotFoundError(f"The LoRA {name} is not on this machine, or not any more.") from error


def _file(folder: Path, name: str) -> LoraFile | None:
    """Return the LoRA of that name in a folder; None if there is none that may be used."""
    path = folder / f"{name}{SUFFIX}"
    if not is_lora_name(name):
        return None
    try:
        status = path.lstat()
    except OSError:
        return None
    return LoraFile(name, path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None
