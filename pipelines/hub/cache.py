"""The hub cache on this machine: huggingface_hub's own, so that its functions find what is downloaded here."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.core.errors import DiskSpaceError, FetchError
from pipelines.core.files import atomic_write
from pipelines.hub.listing import Listing, readable


def hub_cache() -> Path:
    """The folder of the cache, which HF_HOME and HF_HUB_CACHE set."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def check_room(*listings: Listing) -> None:
    """Raise DiskSpaceError unless the missing files of all listings fit together on the cache's disk."""
    cache, missing = listings[0].cache, sum(listing.missing for listing in listings)
    free = free_bytes(cache)
    if missing > free:
        repos = " and ".join(listing.repo for listing in listings if listing.missing)
        raise DiskSpaceError(
            f"{repos} need {readable(missing)} more in {cache}, and {readable(free)} are free there. Make room, or set "
            "HF_HOME to a folder on a larger disk."
        )


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def link(blob: Path, path: Path) -> None:
    """Make a blob of the cache readable at its path in a snapshot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        # a file system without links: there the cache holds the files themselves in its snapshots
        blob.replace(path)


def is_published(listing: Listing) -> bool:
    """Whether the cache resolves the listing's revision to its commit."""
    if listing.revision == listing.commit:
        return True
    try:
        return _reference(listing).read_text(encoding="utf-8") == listing.commit
    except OSError:
        return False


def publish(listing: Listing) -> None:
    """Make the cache resolve the listing's revision, a branch or a tag, to its commit."""
    if not is_published(listing):
        reference = _reference(listing)
        reference.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(reference, listing.commit)


def _reference(listing: Listing) -> Path:
    return listing.storage / "refs" / listing.revision


@contextmanager
def exclusive(listing: Listing) -> Iterator[None]:
    """Raise FetchError if another process downloads the same repository: both would write to the same partial files."""
    path = listing.cache / ".locks" / listing.storage.name / "pull.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise FetchError(f"{listing.repo} is being downloaded by another process.") from None
    try:
        yield
    finally:
        lock.release()
