"""Folders of files that were derived from others and can be made again: converted weights, compiled code.

Each entry is a folder with a manifest, which is written last and says what the entry was made from, and the size and
hash of each file. An entry whose manifest does not match is discarded and made anew. Entries that nobody uses are
removed, those used least recently first, until all take at most a stated size.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.files import atomic_write, sha256_of, sync

MANIFEST = "entry.json"

ORIGIN = "origin.json"
"""Beside the manifest: the paths of what an entry was made from, at its last use."""

ALWAYS_HASHED_BYTES = 2**26
"""Files up to this size are compared with their hash at each use; larger ones only if their time has changed.

So a start reads the gigabytes of converted weights only once.
"""

_MAX_MANIFEST_BYTES = 2**24
_NAME = re.compile(r"[a-z0-9_]+(-[a-z0-9_]+)*-[0-9a-f]{16}")
# what version 0.2.0 left: compiled blocks are empty files, converted weights folders
_OLD_NAME = re.compile(r"[0-9a-f]{16}")

log = logging.getLogger("paddock.cache")

Facts = Mapping[str, Any]
"""What an entry is made from, as JSON."""


class CacheEntry:
    """A complete entry that no process removes while this object exists."""

    def __init__(self, path: Path, descriptor: int, files: tuple[Path, ...]) -> None:
        self.path = path
        self.files = files
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let the entry be removed."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """Entries in the folder `path`, which take at most `limit` bytes. The entries in use may take more.

    `is_current` says of what an entry was made from, and of the paths where that was, whether it is still there; other
    entries are removed.
    `is_fixed` says of the files of an entry, by their paths in it, whether they never change; only these are compared.
    """

    path: Path
    limit: int
    is_current: Callable[[Facts, Sequence[str]], bool]
    is_fixed: Callable[[str], bool] = lambda _: True

    def find(self, kind: str, facts: Facts, origin: Sequence[str] = ()) -> CacheEntry | None:
        """Return the entry of a kind (words in lower case) that was made from `facts`; None if there is none.

        `origin` are the paths where these are now: the same files elsewhere do not make another entry. A damaged one is
        discarded, with a line in the log. Raises OSError.
        """
        path = self._entry(kind, facts)
        held = _lock(path / MANIFEST, fcntl.LOCK_SH)
        if held is None:
            return None
        try:
            files = self._check(path, facts)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("%s is damaged and will be made again: %s", path, error)
            self._discard(path, held)
            os.close(held)
            return None
        with suppress(OSError):
            os.utime(path / MANIFEST)
            if _read_origin(path) != list(origin):
                atomic_write(path / ORIGIN, json.dumps(list(origin)), durable=False)
        return CacheEntry(path, held, files)

    def make(
        self,
        kind: str,
        facts: Facts,
        write: Callable[[Path], None],
        needed: int = 0,
        origin: Sequence[str] = (),
    ) -> CacheEntry:
        """Return the entry as `find` does. If there is none, `write` is called with an empty folder to write it to.

        Another process that needs the same entry waits. Room is made for the `needed` bytes first. Raises OSError.
        """
        path = self._entry(kind, facts)
        if (found := self.find(kind, facts, origin)) is not None:
            return found
        with self._writing(path):
            # another process may have written it in the meantime
            if (found := self.find(kind, facts, origin)) is not None:
                return found
            self.clean(needed)
            with suppress(FileNotFoundError):
                shutil.rmtree(path)
            path.mkdir()
            try:
                write(path)
                self._finish(path, facts)
            except BaseException:
                shutil.rmtree(path, ignore_errors=True)
                raise
            made = self.find(kind, facts, origin)
        if made is None:
            raise OSError(f"{path} was damaged while it was written")
        self.clean()
        return made

    def discard(self, kind: str, facts: Facts) -> None:
        """Remove an entry, whether it is in use or not."""
        with suppress(OSError):
            shutil.rmtree(self._entry(kind, facts))

    def clean(self, needed: int = 0) -> None:
        """Remove entries that are not current or incomplete, and the least recently used, to have room for `needed`."""
        with suppress(OSError):
            entries = [path for path in self.path.iterdir() if _NAME.fullmatch(path.name)]
            old = [path for path in self.path.iterdir() if _OLD_NAME.fullmatch(path.name)]
            locks = self.path.glob("*.lock")
            for path in [*old, *(each for each in entries if not self._is_wanted(each))]:
                self._remove(path)
            for path in locks:
                _remove_stale(path)
            self._shrink([path for path in entries if path.exists()], needed)

    def _shrink(self, entries: list[Path], needed: int) -> None:
        sizes = {path: _size(path) for path in entries}
        total = sum(sizes.values()) + needed
        for path in sorted(entries, key=_used_at):
            free = shutil.disk_usage(self.path).free if needed else 0
            if total <= self.limit and free >= needed:
                return
            if self._remove(path):
                total -= sizes[path]

    def _discard(self, path: Path, manifest: int) -> None:
        """Remove a damaged entry by the descriptor of its manifest, unless another process makes or made it again."""
        with suppress(OSError):
            writing = _lock(_lock_path(path), fcntl.LOCK_EX | fcntl.LOCK_NB, create=True)
            if writing is None:
                return
            try:
                if os.path.samestat(os.fstat(manifest), (path / MANIFEST).stat()):
                    shutil.rmtree(path)
            finally:
                _lock_path(path).unlink(missing_ok=True)
                os.close(writing)

    def _is_wanted(self, path: Path) -> bool:
        try:
            return self.is_current(_read_manifest(path)["made_from"], _read_origin(path))
        except (OSError, ValueError, LookupError, TypeError):
            return False

    def _remove(self, path: Path) -> bool:
        """Remove an entry unless it is being written or used. Return whether it was removed."""
        writing = _lock(_lock_path(path), fcntl.LOCK_EX | fcntl.LOCK_NB, create=True)
        if writing is None:
            return False
        try:
            manifest = path / MANIFEST
            using = _lock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if using is None and manifest.exists():
                return False
            log.info("%s is removed from the cache", path)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            if using is not None:
                os.close(using)
        except OSError as error:
            log.warning("%s cannot be removed: %s", path, error)
            return False
        else:
            return True
        finally:
            _lock_path(path).unlink(missing_ok=True)
            os.close(writing)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(_lock_path(path), fcntl.LOCK_EX, create=True)
        assert descriptor is not None, "it waits for the lock"
        try:
            yield
        finally:
            # a process that waits for it sees that the file is gone, and creates it again
            _lock_path(path).unlink(missing_ok=True)
            os.close(descriptor)

    def _entry(self, kind: str, facts: Facts) -> Path:
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return self.path / f"{kind}-{key}"

    def _finish(self, path: Path, facts: Facts) -> None:
        """Write the manifest, after all other files are on the disk."""
        files = {}
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            name = str(file.relative_to(path))
            if self.is_fixed(name):
                sync(file)
                status = file.stat()
                files[name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256_of(file)}
        sync(path)
        atomic_write(path / MANIFEST, json.dumps({"made_from": facts, "files": files}, indent=1))
        sync(path.parent)

    def _check(self, path: Path, facts: Facts) -> tuple[Path, ...]:
        """Return the files of an entry. Raises ValueError that names the one which differs."""
        manifest = _read_manifest(path)
        if json.dumps(manifest["made_from"], sort_keys=True) != json.dumps(facts, sort_keys=True):
            raise ValueError("it was made from something else")
        files = []
        for name, stated in manifest["files"].items():
            file = path / name
            status = file.stat()
            is_trusted = status.st_size > ALWAYS_HASHED_BYTES and status.st_mtime_ns == stated["mtime_ns"]
            if status.st_size != stated["size"] or not (is_trusted or sha256_of(file) == stated["sha256"]):
                raise ValueError(f"{name} has changed")
            files.append(file)
        return tuple(files)


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = _read_json(path / MANIFEST)
    return manifest


def _read_origin(path: Path) -> list[str]:
    try:
        origin = _read_json(path / ORIGIN)
    except (OSError, ValueError):
        return []
    return [str(each) for each in origin] if isinstance(origin, list) else []


def _read_json(path: Path) -> Any:
    with path.open("rb") as file:
        content = file.read(_MAX_MANIFEST_BYTES + 1)
    if len(content) > _MAX_MANIFEST_BYTES:
        raise ValueError(f"{path.name} is too large")
    return json.loads(content)


def _used_at(path: Path) -> int:
    try:
        return (path / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def _size(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _remove_stale(path: Path) -> None:
    """Remove the lock file of a process that ended without removing it."""
    if (descriptor := _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)) is not None:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path, operation: int, create: bool = False) -> int | None:
    """Lock a file and return its descriptor, which holds the lock; None if it is locked or does not exist."""
    while True:
        try:
            descriptor = os.open(path, (os.O_RDWR | os.O_CREAT) if create else os.O_RDONLY, 0o666)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(descriptor, operation)
            # the holder before may have removed it
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
