"""All files that a generation leaves, and the disk they are on."""

from dataclasses import dataclass
from pathlib import Path

from server.storage.files import checkpoints, inputs, previews, videos
from server.storage.files.checkpoints import Checkpoints
from server.storage.files.disk import Disk
from server.storage.files.folder import FolderStorage
from server.storage.files.inputs import UPLOAD_SECONDS, Inputs
from server.storage.files.previews import Previews
from server.storage.files.signing import LinkSigner, TenantSigner
from server.storage.files.videos import Videos

_KEY_FILE = "signing.key"


@dataclass(frozen=True, slots=True)
class LocalFolders:
    """The folders of a data directory, which workers on this machine are given to write to, and to read inputs from."""

    videos: FolderStorage
    checkpoints: FolderStorage
    previews: FolderStorage
    inputs: FolderStorage

    @classmethod
    def of(cls, data_dir: Path) -> "LocalFolders":
        """The folders, made if they do not exist; raises OSError."""
        return cls(
            FolderStorage(data_dir / "videos", videos.SUFFIX),
            FolderStorage(data_dir / "checkpoints", checkpoints.SUFFIX),
            FolderStorage(data_dir / "previews", previews.SUFFIX),
            FolderStorage(data_dir / "inputs", *inputs.SUFFIXES),
        )


@dataclass(frozen=True, slots=True)
class FileStores:
    """Where videos, checkpoints, previews and inputs are kept."""

    videos: Videos
    checkpoints: Checkpoints
    previews: Previews
    inputs: Inputs
    disk: Disk

    @classmethod
    def local(cls, folders: LocalFolders, data_dir: Path, ttl: float, disk: Disk) -> "FileStores":
        """All in folders of one disk. Links last `ttl` seconds; raises OSError."""
        return cls(
            Videos(folders.videos, link_signer(data_dir, ttl)),
            Checkpoints(folders.checkpoints),
            Previews(folders.previews),
            Inputs(folders.inputs, link_signer(data_dir, ttl, "input"), upload_signer(data_dir)),
            disk,
        )


def link_signer(data_dir: Path, ttl: float, kind: str = "video") -> LinkSigner:
    """The signer of links to one kind of files, whose key is in the data directory; raises OSError."""
    return LinkSigner(data_dir / _KEY_FILE, ttl, salt=kind)


def upload_signer(data_dir: Path) -> TenantSigner:
    """The signer of the ids of uploads; raises OSError."""
    return TenantSigner(data_dir / _KEY_FILE, UPLOAD_SECONDS, salt="upload")
