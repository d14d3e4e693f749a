"""A model's weights from a hub into its cache on this machine: listed, resumed, verified. No tensors.

huggingface_hub does the talking, and its cache is where the weights go. Its own downloads start anew after an
interruption, so a large file is read by its `http_get` into a partial file, which the next call goes on with.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any

from pipelines.core.errors import DamagedFileError, DiskSpaceError, FetchError, HubAccessError, HubUnreachableError
from pipelines.core.model import ModelSpec
from pipelines.hub import local as weights
from pipelines.hub.errors import explained, may_pass
from pipelines.hub.listing import HubFile, Listing, readable, size_of

FetchCallback = Callable[[str, int], None]
"""Called with what is being done and how many bytes of all files are here; from several threads, one at a time."""

WORKERS = 4
"""How many files are fetched at a time."""

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds to wait before each retry of a connection that broke; a retry that brings anything starts them anew."""

_INDEX = "model_index.json"
_SETTINGS_SUFFIXES = (".json", ".model", ".txt")
_BLOCK = 8 * 2**20
_TRIES = 2
_ANSWER_SECONDS = 30.0


def look_up(spec: ModelSpec, hub: str | None = None) -> Listing:
    """Ask a hub which files a model needs; `hub` is its address, None for the one that HF_ENDPOINT names or the usual.

    Fetches nothing but the file that names the components. Raises FetchError or UnsupportedModelError.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=hub)
    revision = spec.revision or constants.DEFAULT_REVISION
    blank = Listing(spec.repo, revision, "", api.endpoint, Path(constants.HF_HUB_CACHE).expanduser(), ())
    with explained(blank):
        found, files = _ask(api, blank)
        index = replace(found, files=tuple(file for file in files if file.name == _INDEX))
        if not index.files:
            raise HubAccessError(f"{spec.repo} is not in diffusers' layout: it has no {_INDEX}.")
        _Fetch(index).run()
        used = weights.parts(index.folder, spec.pipeline_class)
    return replace(found, files=tuple(file for file in files if _is_needed(file.name, used, spec.replaced)))


def look_up_files(spec: ModelSpec, hub: str | None = None) -> list[Listing]:
    """Ask a hub for a model's single files, the LoRAs of `run_fast` among them; what is in local folders is left out.

    Raises FetchError.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=hub)
    wanted: dict[tuple[str, str], set[str]] = {}
    for single in spec.every_file:
        if not (Path(single.repo).expanduser() / single.file).is_file():
            wanted.setdefault((single.repo, single.revision or constants.DEFAULT_REVISION), set()).add(single.file)
    listings = []
    for (repo, revision), names in wanted.items():
        blank = Listing(repo, revision, "", api.endpoint, Path(constants.HF_HUB_CACHE).expanduser(), ())
        with explained(blank):
            found, files = _ask(api, blank)
        listing = replace(found, files=tuple(file for file in files if file.name in names))
        if missing := names - {file.name for file in listing.files}:
            raise HubAccessError(f"{repo} has no {min(missing)}.")
        listings.append(listing)
    return listings


def _ask(api: Any, listing: Listing) -> tuple[Listing, list[HubFile]]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = api.model_info(listing.repo, revision=listing.revision, files_metadata=True, timeout=_ANSWER_SECONDS)
    except (HFValidationError, HfHubHTTPError):
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise HubUnreachableError(f"What answers at {listing.hub} is not a hub.") from error
    files = [_hub_file(sibling) for sibling in info.siblings or ()]
    if not re.fullmatch(r"[0-9a-f]{40}", info.sha or "") or None in files:
        raise HubUnreachableError(
            f"The hub at {listing.hub} does not tell the files of {listing.repo} and their sizes."
        )
    return replace(listing, commit=info.sha), [file for file in files if file is not None]


def _hub_file(sibling: Any) -> HubFile | None:
    if sibling.size is None:
        return None
    # they become names of files, so they must be what they are said to be
    sha256 = _matching(r"[0-9a-f]{64}", sibling.lfs.sha256 if sibling.lfs else None)
    return HubFile(sibling.rfilename, sibling.size, sha256, _matching(r"[0-9a-f]{40}", sibling.blob_id))


def _matching(pattern: str, text: str | None) -> str | None:
    return text if text is not None and re.fullmatch(pattern, text) else None


def _is_needed(name: str, used: list[str], replaced: Collection[str]) -> bool:
    """Not pictures, other formats of the same weights, their variants (`model.fp16.safetensors`), unused components.

    Nor weights of the parts `replaced`.
    """
    folder, _, file = name.rpartition("/")
    if name == _INDEX:
        return True
    if folder in replaced and file.endswith(weights.WEIGHT_SUFFIXES):
        return False
    stem, suffix = Path(file).stem, Path(file).suffix
    return folder in used and (suffix in _SETTINGS_SUFFIXES or (suffix == ".safetensors" and "." not in stem))


def check_room(listing: Listing) -> None:
    """Raise DiskSpaceError unless what is missing fits where the cache is."""
    free = free_bytes(listing.cache)
    if listing.missing > free:
        raise DiskSpaceError(
            f"{listing.repo} needs {readable(listing.missing)} more in {listing.cache}, and {readable(free)} are "
            "free there. Make room, or set HF_HOME to a folder on a larger disk."
        )


def free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def fetch(listing: Listing, on_progress: FetchCallback = lambda *_: None, verify: bool = False) -> Path:
    """Fetch what is missing of a listing; returns the folder, every file of it as the hub has it.

    What was fetched before, whole or in part, is not fetched again. A file is compared with its checksum when it is
    fetched, with `verify` also when it was here; one that differs is fetched anew, once. Raises FetchError.
    """
    if not verify and listing.is_whole and _is_published(listing):
        return listing.folder
    check_room(listing)
    with explained(listing), _alone(listing):
        _Fetch(listing, on_progress, verify).run()
        # last, so that readers of the revision keep what they had until this one is whole
        _publish(listing)
    return listing.folder


def local(spec: ModelSpec, source: Path) -> Path:
    """A model's weights, complete, in a folder of diffusers' layout or in a hub cache that is not the usual one.

    Raises WeightsNotFoundError or UnsupportedModelError, naming the first file that is missing or cut off.
    """
    snapshots = (weights.cached(spec, cache) for cache in (source, source / "hub"))
    folder = next((snapshot for snapshot in snapshots if snapshot is not None), source)
    weights.check(folder, spec.pipeline_class, spec.replaced)
    weights.check_lengths(folder, spec.pipeline_class, spec.replaced)
    return folder


class _Stopped(Exception):  # noqa: N818 - an order carried out, not an error
    """Raised in a thread whose caller has gone."""


class _Fetch:
    """One go at a listing's files, several at a time."""

    def __init__(self, listing: Listing, on_progress: FetchCallback = lambda *_: None, verify: bool = False) -> None:
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
        """Return when every file is here; raise what the first failure was."""
        waiting = deque(sorted(self._listing.files, key=lambda file: -file.size))
        failures: list[Exception] = []

        def work() -> None:
            while waiting and not self._stop.is_set():
                try:
                    self._obtain(waiting.popleft())
                except (_Stopped, IndexError):
                    return
                except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                    failures.append(error)
                    self._stop.set()

        # daemons, so that Ctrl-C need not wait for a slow connection: a partial file may be left at any time
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
        if not listing.is_here(file) or (self._verify and not self._is_sound(file, self._kept(file), counted=True)):
            self._discard(file)
            self._fetch(file)
        if size_of(listing.path(file)) != file.size:
            _link(listing.blob(file), listing.path(file))
        self.count(file.name, file.name, file.size)

    def _kept(self, file: HubFile) -> Path:
        path = self._listing.path(file)
        return path if path.exists() else self._listing.blob(file)

    def _discard(self, file: HubFile) -> None:
        path = self._listing.path(file)
        # what is linked to as well, or the library would link it again; but nothing of the user's outside the cache
        target = path.resolve()
        targets = [target] if target.is_relative_to(self._listing.cache.resolve()) else []
        for damaged in (*targets, path, self._listing.blob(file)):
            damaged.unlink(missing_ok=True)

    def _fetch(self, file: HubFile) -> None:
        for _ in range(_TRIES):
            path = self._persist(file, self._read_on if file.sha256 else self._read_whole)
            if self._is_sound(file, path):
                if file.sha256:
                    path.replace(self._listing.blob(file))
                return
            self._listing.partial(file).unlink(missing_ok=True)
            self._discard(file)
        raise DamagedFileError(
            f"{file.name} of {self._listing.repo} is not what the hub at {self._listing.hub} says it is, even when "
            "fetched again."
        )

    def _persist(self, file: HubFile, read: Callable[[HubFile], Path]) -> Path:
        """Read a file, trying again when the connection breaks."""
        pauses = iter(PAUSES)
        while True:
            before = self._done[file.name]
            try:
                return read(file)
            except Exception as error:
                if self._done[file.name] > before:
                    pauses = iter(PAUSES)
                pause = next(pauses, None)
                if pause is None or not may_pass(error):
                    raise
            self.count(file.name, "the connection broke: trying again", self._done[file.name])
            if self._stop.wait(pause):
                raise _Stopped

    def _read_on(self, file: HubFile) -> Path:
        """A large file: what is missing of it."""
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
                # a compressed answer has no ranges
                headers={**build_hf_headers(), "Accept-Encoding": "identity"},
                expected_size=file.size,
                displayed_filename=file.name,
                tqdm_class=_Bar(self, file.name).start,
            )
        return partial

    def _read_whole(self, file: HubFile) -> Path:
        """A small file: anew, by the library's own way."""
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

    def _is_sound(self, file: HubFile, path: Path, counted: bool = False) -> bool:
        """Whether a file on disk has the size and the checksum that the hub says."""
        if size_of(path) != file.size:
            return False
        checksum = hashlib.sha256() if file.sha256 else _git_blob(file.size)
        read = 0
        with path.open("rb") as content:
            while block := content.read(_BLOCK):
                checksum.update(block)
                read += len(block)
                self.count(file.name, f"checking {file.name}", read if counted else file.size)
        return checksum.hexdigest() == (file.sha256 or file.blob_id or checksum.hexdigest())

    def count(self, name: str, doing: str, done: int) -> None:
        """Report that a file has `done` bytes; raises in a thread that nobody waits for any more."""
        if self._stop.is_set():
            raise _Stopped
        with self._counting:
            self._done[name] = done
            self._on_progress(doing, sum(self._done.values()))

    def counted(self, name: str) -> int:
        """Bytes a file has."""
        return self._done[name]


class _Bar:
    """What the library takes for a progress bar of one file."""

    def __init__(self, fetch: _Fetch, name: str) -> None:
        self._fetch = fetch
        self._name = name

    def start(self, *, initial: int = 0, **_: Any) -> "_Bar":
        self._fetch.count(self._name, self._name, initial)
        return self

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, more: float | None = 1) -> None:
        self._fetch.count(self._name, self._name, self._fetch.counted(self._name) + int(more or 0))

    def close(self) -> None:
        pass


def _git_blob(size: int) -> Any:
    """What git names a file's content by, before the content."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _link(blob: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        # a file system without links: there the cache has its files themselves in their places
        blob.replace(path)


def _published(listing: Listing) -> Path:
    return listing.storage / "refs" / listing.revision


def _is_published(listing: Listing) -> bool:
    if listing.revision == listing.commit:
        return True
    try:
        return _published(listing).read_text(encoding="utf-8") == listing.commit
    except OSError:
        return False


def _publish(listing: Listing) -> None:
    if not _is_published(listing):
        reference = _published(listing)
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(listing.commit, encoding="utf-8")


@contextmanager
def _alone(listing: Listing) -> Iterator[None]:
    """Keep a second fetch of the same repository out: both would write to the same partial files."""
    path = listing.cache / ".locks" / listing.storage.name / "pull.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(f"{listing.repo} is being fetched by another process.") from None
        yield
