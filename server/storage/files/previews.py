"""Previews of running generations: one small JPEG each, removed when its attempt ends."""

from contextlib import suppress

from server.core.errors import PreviewNotFoundError, UnavailableError, reason
from server.storage.files.generation_files import GenerationFiles

SUFFIX = ".jpg"


def preview_key(generation_id: str) -> str:
    """The storage key of a generation's preview, which is replaced as the generation gets further."""
    return f"{generation_id}{SUFFIX}"


class Previews(GenerationFiles):
    """The previews. Workers write them; the server reads and removes them."""

    async def preview(self, generation_id: str) -> bytes:
        """The current preview of a generation; raises PreviewNotFoundError when there is none, or UnavailableError."""
        try:
            return await self.read(preview_key(generation_id))
        except FileNotFoundError:
            raise PreviewNotFoundError from None
        except OSError as error:
            raise UnavailableError(f"The preview cannot be read now: {reason(error)}.", 5) from error

    async def discard(self, generation_id: str) -> None:
        """Remove a generation's preview; on a disk that refuses it stays."""
        # a preview that stays must not stand in the way of its video
        with suppress(OSError):
            await self.delete([preview_key(generation_id)])
