"""Finished videos: named by generation and attempt, fetched by clients through signed links."""

from server.core.generation import Generation
from server.storage.files.generation_files import GenerationFiles
from server.storage.files.interface import FileStorage
from server.storage.files.signing import LinkSigner, SignedLinks

SUFFIX = ".mp4"


def video_key(generation_id: str, attempt: int) -> str:
    """The storage key of the file that an attempt leaves."""
    return f"{generation_id}.{attempt}{SUFFIX}"


class Videos(GenerationFiles):
    """The videos, and the signed tokens that stand for them in links."""

    def __init__(self, storage: FileStorage, signer: LinkSigner) -> None:
        super().__init__(storage)
        self.links = SignedLinks(storage, signer, (SUFFIX,))

    async def finished(self, generation: Generation) -> str | None:
        """The key of the file that the last successful attempt at a generation left, None if there is none."""
        keys = [video_key(generation.id, attempt) for attempt in range(generation.attempt, 0, -1)]
        found = await self.storage.stat(keys)
        return next((key for key in keys if key in found), None)
