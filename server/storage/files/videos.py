"""Finished videos: named by generation and attempt, fetched by clients through signed links."""

from collections.abc import Iterable

from server.core.errors import UnavailableError, reason
from server.core.generation import Generation
from server.storage.files.generation_files import GenerationFiles
from server.storage.files.interface import FileStorage
from server.storage.files.signing import LinkSigner, SignedLinks
from server.storage.files.stills import VIDEO_SUFFIX, Stills

SUFFIX = VIDEO_SUFFIX

DIRECT_SECONDS = 3600.0
"""So long a URL of the object store works, unless links end sooner: a player asks for one part of a video after another
by the same one."""


_INDEX_BYTES = 2**20
"""The index of a file is at its beginning, and smaller."""

_SOUND = b"soun"
"""What an MP4's index has for a track that is a sound."""


def video_key(generation_id: str, attempt: int) -> str:
    """The storage key of the file that an attempt leaves."""
    return f"{generation_id}.{attempt}{SUFFIX}"


class Videos(GenerationFiles):
    """The videos, the signed tokens that stand for them in links, and their `stills`.

    `redirects`: clients that open a link are sent on to a URL of the object store, where they fetch the video.
    """

    def __init__(self, storage: FileStorage, signer: LinkSigner, stills: Stills, *, redirects: bool = False) -> None:
        super().__init__(storage)
        self.stills = stills
        self.redirects = redirects
        self._direct_seconds = min(DIRECT_SECONDS, signer.ttl)
        self.links = SignedLinks(storage, signer, (SUFFIX,))

    async def delete(self, keys: Iterable[str]) -> None:
        """Remove videos, half-written versions of them, and their stills."""
        videos = [*keys]
        await super().delete(videos)
        await self.stills.delete_of(videos)

    async def direct_url(self, key: str) -> str | None:
        """The URL that a client is sent on to; None if the server serves the video itself. Raises UnavailableError."""
        if not self.redirects:
            return None
        try:
            return await self.storage.direct_url(key, self._direct_seconds)
        except OSError as error:
            raise UnavailableError(f"The video cannot be read now: {reason(error)}.", 5) from error

    async def finished(self, generation: Generation) -> str | None:
        """The key of the file that the last successful attempt at a generation left, None if there is none."""
        keys = [video_key(generation.id, attempt) for attempt in range(generation.attempt, 0, -1)]
        found = await self.storage.stat(keys)
        return next((key for key in keys if key in found), None)

    async def has_audio(self, generation: Generation, key: str) -> bool:
        """Whether a sound is heard with a generation's finished video. Raises OSError.

        One that a model was to make may have failed: the file says so.
        """
        params = generation.params
        if params is None or not params.generate_audio:
            return params is not None and params.audio is not None
        head = b"".join([chunk async for chunk in self.storage.open(key, 0, _INDEX_BYTES)])
        return _SOUND in head
