"""Downloads files from a hub into its cache on this machine: several at a time, resumed, verified.

Requests and cache are huggingface_hub's. Its own downloads start again after an interruption, so a large file is read
by its `http_get` into a partial file, which the next call continues.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any

from pipelines.core.errors import DamagedFileError
from pipelines.hub.cache import check_room, exclusive, is_published, link, publish
from pipelines.hub.errors import explained, is_transient
from pipelines.hub.listing import HubFile, Listing, size_of

DownloadCallback = Callable[[str, int], None]
"""Called with the current action and the bytes of all files so far; from several threads, one at a time."""

WORKERS = 4
"""Files that are downloaded at a time."""

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds to wait before each retry of a broken connection. A retry that receives data starts again with the first."""

_BLOCK = 8 * 2**20
_ATTEMPTS = 2


def download(listing: Listing, on_progress: DownloadCallback = lambda *_: None, verify: bool = False) -> Path:
    """Download the missing files of a listing and return their folder.

    Files and parts of files that are here are not downloaded again. A downloaded file is compared with its checksum;
    with `verify` a file that was here is compared, too. One that differs is downloaded again, once. Raises FetchError.
    """
    if not verify and listing.is_complete and is_published(listing):
        return listing.folder
    check_room(listing)
    with explained(listing), exclusive(listing):
        download_files(listing, on_progress, verify)
        # last, so that readers of the revision get the old files until all new ones are here
        publish(listing)
    return listing.folder


def download_files(listing: Listing, on_progress: DownloadCallback = lambda *_: None, verify: bool = False) -> None:
    """Download every file of a listing, without checking the free space and without publishing the revision."""
    _Download(listing, on_progress, verify).run()


class _Stopped(Exception):  # noqa: N818 - not an error
    """Raised in a thread to end it, when another one failed or the caller was interrupted."""


class _Download:
    """One download of a listing's files, several at a time."""

    def __init__(self, listing: Listing, on_progress: DownloadCallback = lambda *_: None, verify: bool = False) -> None:
        self._listing = listing
        self._on_progress = on_progress
        self._verify = verify
        self._stop = Event()
        self._counting = Lock()
        self._done = {
            file.name: 0 if verify else file.size if listing.is_here(file) else size_of(listing.partial(file)) or 0
            for file in listing.files
        }

    def run(self) -> None:
        """Return when every file is here; raise the first error."""
        waiting = deque(sorted(self._listing.files, key=lambda file: -file.size))
        failures: list[Exception] = []

        def work() -> None:
            while waiting and not self._stop.is_set():
                try:
                    self._obtain(waiting.popleft())
                except (_Stopped, IndexError):
                    return
                except Exception as error:  # noqa: BLE001 - raised again after the threads have ended
                    failures.append(error)
                    self._stop.set()

        # daemons, so that Ctrl-C need not wait for a slow connection: partial files survive it
        threads = [Thread(target=work, daemon=True) for _ in range(min(WORKERS, len(waiting)))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            self._stop.set()
        if failures:
            raise failures[0]

    def _obtain(self, file: HubFile) -> None:
        listing = self._listing
        if not listing.is_here(file) or (self._verify and not self._is_intact(file, self._kept(file), counted=True)):
            self._discard(file)
            self._download(file)
        if size_of(listing.path(file)) != file.size:
            link(listing.blob(file), listing.path(file))
        self.count(file.name, file.name, file.size)

    def _kept(self, file: HubFile) -> Path:
        path = self._listing.path(file)
        return path if path.exists() else self._listing.blob(file)

    def _discard(self, file: HubFile) -> None:
        path = self._listing.path(file)
        # also the target of a link, or the library would link it again; but no file outside the cache
        target = path.resolve()
        targets = [target] if target.is_relative_to(self._listing.cache.resolve()) else []
        for damaged in (*targets, path, self._listing.blob(file)):
            damaged.unlink(missing_ok=True)

    def _download(self, file: HubFile) -> None:
        for _ in range(_ATTEMPTS):
            path = self._persist(file, self._resume if file.sha256 else self._read_whole)
            if self._is_intact(file, path):
                if file.sha256:
                    path.replace(self._listing.blob(file))
                return
            self._listing.partial(file).unlink(missing_ok=True)
            self._discard(file)
        raise DamagedFileError(
            f"{file.name} of {self._listing.repo} does not match the checksum of the hub at {self._listing.hub}, even "
            "after a second download."
        )

    def _persist(self, file: HubFile, read: Callable[[HubFile], Path]) -> Path:
        """Read a file; retry when the connection breaks."""
        pauses = iter(PAUSES)
        while True:
            before = self._done[file.name]
            try:
                return read(file)
            except Exception as error:
                if self._done[file.name] > before:
                    pauses = iter(PAUSES)
                pause = next(pauses, None)
                if pause is None or not is_transient(error):
                    raise
            self.count(file.name, "connection lost, retrying", self._done[file.name])
            if self._stop.wait(pause):
                raise _Stopped

    def _resume(self, file: HubFile) -> Path:
        """Read the rest of a large file."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        listing = self._listing
        partial = listing.partial(file)
        partial.parent.mkdir(parents=True, exist_ok=True)
        if (size_of(partial) or 0) > file.size:
            partial.unlink()
        url = hf_hub_url(listing.repo, file.name, revision=listing.commit, endpoint=listing.hub)
        with partial.open("ab") as gathering:
            http_get(
                url,
                gathering,
                resume_size=gathering.tell(),
                # compressed responses do not support ranges
                headers={**build_hf_headers(), "Accept-Encoding": "identity"},
                expected_size=file.size,
                displayed_filename=file.name,
                tqdm_class=_Bar(self, file.name).start,
            )
        return partial

    def _read_whole(self, file: HubFile) -> Path:
        """Read a small file from the start, by the library's own function."""
        from huggingface_hub import hf_hub_download

        listing = self._listing
        return Path(
            hf_hub_download(
                listing.repo,
                file.name,
                revision=listing.commit,
                cache_dir=listing.cache,
                endpoint=listing.hub,
                tqdm_class=_Bar(self, file.name).start,
            )
        )

    def _is_intact(self, file: HubFile, path: Path, counted: bool = False) -> bool:
        """Whether a file on disk has the size and the checksum that the hub states."""
        if size_of(path) != file.size:
            return False
        checksum = hashlib.sha256() if file.sha256 else _git_blob(file.size)
        read = 0
        with path.open("rb") as content:
            while block := content.read(_BLOCK):
                checksum.update(block)
                read += len(block)
                self.count(file.name, f"verifying {file.name}", read if counted else file.size)
        return checksum.hexdigest() == (file.sha256 or file.blob_id or checksum.hexdigest())

    def count(self, name: str, doing: str, done: int) -> None:
        """Report that `done` bytes of a file are here. Raises _Stopped to end the calling thread."""
        if self._stop.is_set():
            raise _Stopped
        with self._counting:
            self._done[name] = done
            self._on_progress(doing, sum(self._done.values()))

    def counted(self, name: str) -> int:
        """Bytes of a file so far."""
        return self._done[name]


class _Bar:
    """Passes for the library's progress bar of one file."""

    def __init__(self, download: _Download, name: str) -> None:
        self._download = download
        self._name = name

    def start(self, *, initial: int = 0, **_: Any) -> "_Bar":
        self._download.count(self._name, self._name, initial)
        return self

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, more: float | None = 1) -> None:
        self._download.count(self._name, self._name, self._download.counted(self._name) + int(more or 0))

    def close(self) -> None:
        pass


def _git_blob(size: int) -> Any:
    """The hash of git's blob id, before any content."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
