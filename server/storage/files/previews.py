"""Previews of running generations: one small JPEG for each attempt, removed when it ends."""

from collections.abc import Iterable
from contextlib import suppress

from server.core.errors import PreviewNotFoundError, UnavailableError, reason
from server.storage.files.generation_files import GenerationFiles

SUFFIX = ".jpg"


def preview_key(generation_id: str, attempt: int) -> str:
    """The storage key of an attempt's preview, which is replaced as the attempt gets further.

    An attempt that counts no more neither replaces nor removes that of the next one, on whichever server it runs.
    """
    return f"{generation_id}.{attempt}{SUFFIX}"


class Previews(GenerationFiles):
    """The previews. Workers write them; the server reads and removes them."""

    async def preview(self, generation_id: str, attempt: int) -> bytes:
        """The current preview of an attempt; raises PreviewNotFoundError when there is none, or UnavailableError."""
        try:
            return await self.read(preview_key(generation_id, attempt))
        except FileNotFoundError:
            raise PreviewNotFoundError from None
        except OSError as error:
            raise UnavailableError(f"The preview cannot be read now: {reason(error)}.", 5) from error

    async def discard(self, keys: Iterable[str]) -> None:
        """Remove previews; on a disk that refuses they stay."""
        # a preview that stays must not stand in the way of its video
        with suppress(OSError):
            await self.delete(keys)
