"""All files that a generation leaves, and the disk they are on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.storage.db.sharing.locks import Locks
from server.storage.files import checkpoints, inputs, previews, stills, videos
from server.storage.files.checkpoints import Checkpoints
from server.storage.files.disk import Disk
from server.storage.files.folder import FolderStorage
from server.storage.files.inputs import UPLOAD_SECONDS, Inputs
from server.storage.files.object_store.bucket import Bucket
from server.storage.files.object_store.scratch import Copies, Scratch
from server.storage.files.object_store.storage import ObjectStorage
from server.storage.files.previews import Previews
from server.storage.files.signing import LinkSigner, TenantSigner, read_key_file
from server.storage.files.stills import Stills
from server.storage.files.videos import Videos

_KEY_FILE = "signing.key"
_SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class LocalFolders:
    """The folders of a data directory, which workers on this machine are given to write to, and to read inputs from.

    Stills are the server's own.
    """

    videos: FolderStorage
    checkpoints: FolderStorage
    previews: FolderStorage
    inputs: FolderStorage
    stills: FolderStorage

    @classmethod
    def of(cls, data_dir: Path, *, is_scratch: bool = False) -> "LocalFolders":
        """The folders, made if they do not exist; apart from these if they hold only copies. Raises OSError."""
        folder = data_dir / _SCRATCH if is_scratch else data_dir
        return cls(
            FolderStorage(folder / "videos", videos.SUFFIX),
            FolderStorage(folder / "checkpoints", checkpoints.SUFFIX),
            FolderStorage(folder / "previews", previews.SUFFIX),
            FolderStorage(folder / "inputs", *inputs.SUFFIXES),
            FolderStorage(folder / "stills", *stills.SUFFIXES),
        )


@dataclass(frozen=True, slots=True)
class FileStores:
    """Where videos with their stills, checkpoints, previews and inputs are kept.

    `scratch` has local copies, if it is an object store.
    """

    videos: Videos
    checkpoints: Checkpoints
    previews: Previews
    inputs: Inputs
    disk: Disk
    scratch: Scratch | None = None

    @classmethod
    def local(cls, folders: LocalFolders, keys: Sequence[str], ttl: float, disk: Disk, locks: Locks) -> "FileStores":
        """All in folders of one disk. Links are signed with the first of the keys, and last `ttl` seconds."""
        return cls(
            Videos(folders.videos, link_signer(keys, ttl), Stills(folders.stills, link_signer(keys, ttl, "still"))),
            Checkpoints(folders.checkpoints),
            Previews(folders.previews),
            Inputs(folders.inputs, link_signer(keys, ttl, "input"), upload_signer(keys), locks),
            disk,
        )

    @classmethod
    def in_bucket(
        cls,
        bucket: Bucket,
        folders: LocalFolders,
        keys: Sequence[str],
        ttl: float,
        disk: Disk,
        locks: Locks,
        *,
        redirects: bool = False,
    ) -> "FileStores":
        """All in an object store, and in local folders only while they are needed. `redirects`: see `Videos`."""
        copies = {
            name: Copies(local, ObjectStorage(bucket, name, *local.suffixes))
            for name, local in (
                ("videos", folders.videos),
                ("checkpoints", folders.checkpoints),
                ("previews", folders.previews),
                ("inputs", folders.inputs),
            )
        }
        pictures = Stills(ObjectStorage(bucket, "stills", *stills.SUFFIXES), link_signer(keys, ttl, "still"))
        return cls(
            Videos(copies["videos"].stored, link_signer(keys, ttl), pictures, redirects=redirects),
            Checkpoints(copies["checkpoints"].stored),
            Previews(copies["previews"].stored),
            Inputs(copies["inputs"].stored, link_signer(keys, ttl, "input"), upload_signer(keys), locks),
            disk,
            Scratch(**copies),
        )


def link_signer(keys: Sequence[str], ttl: float, kind: str = "video") -> LinkSigner:
    """The signer of links to one kind of files, which last `ttl` seconds."""
    return LinkSigner(keys, ttl, salt=kind)


def upload_signer(keys: Sequence[str]) -> TenantSigner:
    """The signer of the ids of uploads."""
    return TenantSigner(keys, UPLOAD_SECONDS, salt="upload")


def key_of(data_dir: Path) -> str | None:
    """The key that an earlier version kept in a data directory, if there is one; raises OSError."""
    return read_key_file(data_dir / _KEY_FILE)
