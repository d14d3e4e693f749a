"""Makes the thumbnail and the spritesheet of a finished video, in a child process with limits of its own."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path

from pipelines.core.files import opened
from server.core.errors import UnavailableError, reason
from server.core.generation import Generation
from server.core.logging import ids
from server.media.limits import RefusedInputError
from server.media.process import run_child
from server.storage.files.interface import CHUNK_BYTES
from server.storage.files.stills import SPRITESHEET, THUMBNAIL, still_keys
from server.storage.files.videos import Videos

log = logging.getLogger("paddock.stills")

PATIENCE_SECONDS = 15.0
"""So long the end of a generation waits for its stills, which usually take a quarter of a second."""

_AT_ONCE = 2
_CHILD = "server.media.pictures.draw_stills"


class StillsMaker:
    """Draws the stills of videos, wherever these are kept, and keeps them beside them; two at once."""

    def __init__(self, videos: Videos) -> None:
        self._videos = videos
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def make_soon(self, held: Generation, key: str) -> bool | None:
        """Make the stills of a generation's new video, and return whether it has them.

        None: that is not known yet, since it failed for now or took too long. Nothing is raised: a video never fails
        for want of its stills.
        """
        said = ids(held.id, held.attempt)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self.make(key)
        except TimeoutError:
            log.warning("the stills of %s take too long; they are made later", key, extra=said)
        except (OSError, UnavailableError) as error:
            log.warning("the stills of %s were not made; trying again later: %s", key, _why(error), extra=said)
        except Exception:
            log.exception("the stills of %s were not made; trying again later", key, extra=said)
        return None

    async def make(self, key: str) -> bool:
        """Make the stills of the video with this storage key, and return whether it has them.

        One whose frames cannot be decoded has none. Raises FileNotFoundError if there is no such video, OSError, or
        UnavailableError.
        """
        async with self._turns:
            with tempfile.TemporaryDirectory(prefix="stills-", ignore_cleanup_errors=True) as name:
                folder = Path(name)
                drawn = {THUMBNAIL: folder / "thumbnail.webp", SPRITESHEET: folder / "spritesheet.webp"}
                await self._fetch(key, folder / "video.mp4")
                try:
                    await run_child(_CHILD, *map(str, (folder / "video.mp4", *drawn.values())))
                except RefusedInputError as error:
                    log.warning("%s has no stills: it %s", key, error)
                    return False
                await self._keep(key, drawn)
        return True

    async def _fetch(self, key: str, path: Path) -> None:
        async with opened(path, "wb") as file, aclosing(self._videos.storage.open(key)) as content:
            async for chunk in content:
                await asyncio.to_thread(file.write, chunk)

    async def _keep(self, key: str, drawn: dict[str, Path]) -> None:
        try:
            for suffix, still in still_keys(key).items():
                async with aclosing(_content(drawn[suffix])) as content:
                    await self._videos.stills.storage.put(still, content)
        except OSError:
            # the error of the first is the one to tell
            with suppress(OSError):
                await self._videos.stills.delete_of([key])
            raise


async def _content(path: Path) -> AsyncGenerator[bytes, None]:
    async with opened(path, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


def _why(error: OSError | UnavailableError) -> str:
    return reason(error) if isinstance(error, OSError) else str(error)
