"""Files that go between the server's folders and those of a worker's host, in chunks."""

import asyncio
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path

from pipelines.core.files import durable_rename, opened, part_path
from pipelines.core.request import INPUTS
from server.engine.interface import WorkerOptions
from server.engine.protocol import Run

CHUNK_BYTES = 2**20
"""Of a message: Ray keeps a few of them in memory."""


class Folder(StrEnum):
    """The folders that a worker shares with its server."""

    ARTIFACTS = "artifacts"
    CHECKPOINTS = "checkpoints"
    PREVIEWS = "previews"
    INPUTS = "inputs"


class WorkerFolders:
    """The folders of a worker: of the server on its side, and of the host on the other."""

    def __init__(self, options: WorkerOptions) -> None:
        self._paths = {folder: Path(getattr(options, folder)) for folder in Folder}

    def make(self) -> None:
        """Make the folders."""
        for path in self._paths.values():
            path.mkdir(parents=True, exist_ok=True)

    async def read(self, folder: Folder, key: str) -> AsyncIterator[bytes]:
        """The file that has the key now, in chunks; raises FileNotFoundError at the first."""
        async with opened(self._path(folder, key), "rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk

    async def append(self, folder: Folder, key: str, chunk: bytes, *, is_first: bool) -> None:
        """Add a chunk to the unfinished file of a key."""
        part = part_path(self._path(folder, key))

        def write() -> None:
            with part.open("wb" if is_first else "ab") as file:
                file.write(chunk)

        await asyncio.to_thread(write)

    async def complete(self, folder: Folder, key: str) -> None:
        """Let the unfinished file have its key, in place of the one before."""
        path = self._path(folder, key)
        await asyncio.to_thread(durable_rename, part_path(path), path)

    async def remove(self, folder: Folder, key: str) -> None:
        """Remove a file, finished or not, if there is one."""
        await asyncio.to_thread(self._path(folder, key).unlink, missing_ok=True)
        await self.remove_unfinished(folder, key)

    async def remove_unfinished(self, folder: Folder, key: str) -> None:
        """Remove the unfinished file of a key, if there is one."""
        await asyncio.to_thread(part_path(self._path(folder, key)).unlink, missing_ok=True)

    def _path(self, folder: Folder, key: str) -> Path:
        if key != Path(key).name or key.startswith("."):
            raise ValueError(f"not a storage key: {key!r}")
        return self._paths[folder] / key


def read_by(run: Run) -> list[tuple[Folder, str]]:
    """The files that a worker needs for a run, as far as they exist."""
    inputs = (getattr(run, name) for name in INPUTS)
    checkpoints = [] if run.resume_from is None else [(Folder.CHECKPOINTS, run.resume_from)]
    return [*checkpoints, *((Folder.INPUTS, key) for key in inputs if key is not None)]


def written_by(run: Run) -> list[tuple[Folder, str]]:
    """The files that a worker may leave of a run."""
    return [
        (Folder.ARTIFACTS, run.artifact),
        (Folder.CHECKPOINTS, run.checkpoint),
        (Folder.PREVIEWS, run.preview),
    ]
