"""All files that a generation leaves, and the disk they are on."""

from dataclasses import dataclass
from pathlib import Path

from server.storage.files import checkpoints, previews, videos
from server.storage.files.checkpoints import Checkpoints
from server.storage.files.disk import Disk
from server.storage.files.folder import FolderStorage
from server.storage.files.previews import Previews
from server.storage.files.signing import LinkSigner
from server.storage.files.videos import Videos


@dataclass(frozen=True, slots=True)
class LocalFolders:
    """The folders of a data directory, which workers on this machine are given to write to."""

    videos: FolderStorage
    checkpoints: FolderStorage
    previews: FolderStorage

    @classmethod
    def of(cls, data_dir: Path) -> "LocalFolders":
        """The folders, made if they do not exist; raises OSError."""
        return cls(
            FolderStorage(data_dir / "videos", videos.SUFFIX),
            FolderStorage(data_dir / "checkpoints", checkpoints.SUFFIX),
            FolderStorage(data_dir / "previews", previews.SUFFIX),
        )


@dataclass(frozen=True, slots=True)
class FileStores:
    """Where videos, checkpoints and previews are kept."""

    videos: Videos
    checkpoints: Checkpoints
    previews: Previews
    disk: Disk

    @classmethod
    def local(cls, folders: LocalFolders, signer: LinkSigner, disk: Disk) -> "FileStores":
        """All in folders of one disk."""
        return cls(Videos(folders.videos, signer), Checkpoints(folders.checkpoints), Previews(folders.previews), disk)


def link_signer(data_dir: Path, ttl: float) -> LinkSigner:
    """The signer of links to videos, whose key is in the data directory; raises OSError."""
    return LinkSigner(data_dir / "signing.key", ttl, salt="video")
