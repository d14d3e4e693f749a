"""The stores of all files that a generation leaves, and the disk they are on."""

from dataclasses import dataclass

from server.storage.files.checkpoints import Checkpoints
from server.storage.files.disk import Disk
from server.storage.files.previews import Previews
from server.storage.files.videos import Artifacts


@dataclass(frozen=True, slots=True)
class FileStores:
    """Where videos, checkpoints and previews are kept."""

    videos: Artifacts
    checkpoints: Checkpoints
    previews: Previews
    disk: Disk
