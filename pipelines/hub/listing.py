"""The files of a hub's repository that a model needs, and their paths on this machine."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its size in bytes and its checksum, sha256 for a large file, git's blob id for others."""

    name: str
    size: int
    sha256: str | None = None
    blob_id: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files that a pipeline needs of a repository, at `commit`, which `revision` resolves to.

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
        """The folder of the downloaded weights, in diffusers' layout."""
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
        """Bytes on this machine, including partial files."""
        return sum(file.size if self.is_here(file) else size_of(self.partial(file)) or 0 for file in self.files)

    @property
    def missing(self) -> int:
        """Bytes that are still to be downloaded."""
        return max(0, self.total - self.here)

    @property
    def is_complete(self) -> bool:
        """Whether every file is in the folder and has the right size."""
        return all(size_of(self.path(file)) == file.size for file in self.files)

    def is_here(self, file: HubFile) -> bool:
        """Whether a file of the right size is here, in the folder or from another commit."""
        return file.size in (size_of(self.path(file)), size_of(self.blob(file)))

    def path(self, file: HubFile) -> Path:
        """The path of a file in the folder."""
        return self.folder / file.name

    def blob(self, file: HubFile) -> Path:
        """Where the cache stores a file's content, for all commits that have it."""
        return self.storage / "blobs" / (file.sha256 or file.blob_id or file.name)

    def partial(self, file: HubFile) -> Path:
        """Where a file is stored until its download is complete."""
        # a name of our own: the partial files of some versions of huggingface_hub end alike, with other content
        return self.blob(file).with_name(f"{self.blob(file).name}.pull.incomplete")


def readable(size: int) -> str:
    """A number of bytes for people, in decimal units, as disks are sold."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def size_of(path: Path) -> int | None:
    """Size of a file in bytes; None if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return None
