"""What a model needs of a hub's repository, and where each file of it goes on this machine."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its size in bytes, and its checksum: sha256 for a large one, git's blob id for others."""

    name: str
    size: int
    sha256: str | None = None
    blob_id: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a pipeline needs of a repository, as a hub has it: the files at `commit`, which `revision` names.

    `hub` is the hub's address, `cache` the folder of the hub cache on this machine.
    """

    repo: str
    revision: str
    commit: str
    hub: str
    cache: Path
    files: tuple[HubFile, ...]

    @property
    def folder(self) -> Path:
        """Where the weights are once fetched, in diffusers' layout."""
        return self.storage / "snapshots" / self.commit

    @property
    def storage(self) -> Path:
        """The repository's folder in the cache."""
        return self.cache / f"models--{self.repo.replace('/', '--')}"

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def here(self) -> int:
        """Bytes that are on this machine, those of half-fetched files included."""
        return sum(file.size if self.is_here(file) else size_of(self.partial(file)) or 0 for file in self.files)

    @property
    def missing(self) -> int:
        """Bytes still to fetch."""
        return max(0, self.total - self.here)

    @property
    def is_whole(self) -> bool:
        """Whether every file is in its place, with the size it should have."""
        return all(size_of(self.path(file)) == file.size for file in self.files)

    def is_here(self, file: HubFile) -> bool:
        """Whether a file is here with the size it should have, in its place or from another commit."""
        return file.size in (size_of(self.path(file)), size_of(self.blob(file)))

    def path(self, file: HubFile) -> Path:
        """Where a file's readers find it."""
        return self.folder / file.name

    def blob(self, file: HubFile) -> Path:
        """Where the cache keeps a file's bytes, for all commits that have it."""
        return self.storage / "blobs" / (file.sha256 or file.blob_id or file.name)

    def partial(self, file: HubFile) -> Path:
        """Where a file's bytes gather until it is whole."""
        # a name of our own: huggingface_hub of other versions keeps other things in files that end alike
        return self.blob(file).with_name(f"{self.blob(file).name}.pull.incomplete")


def readable(size: int) -> str:
    """Bytes for people, in the units disks are sold in."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def size_of(path: Path) -> int | None:
    """Bytes of a file; None if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return None
