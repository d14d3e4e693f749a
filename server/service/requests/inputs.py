"""The images that requests bring: decoded one at a time, and kept under the digest of their pixels."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from server.core.errors import InvalidParamsError
from server.media.limits import RefusedInputError
from server.media.process import run_child
from server.storage.files.inputs import Inputs, input_key
from server.storage.files.interface import CHUNK_BYTES

IMAGE = "input_image"
"""The parameter for the image that a video begins with."""


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image that is kept: the digest of its pixels, its sides in pixels, and what its sender should know."""

    digest: str
    width: int
    height: int
    warnings: tuple[str, ...] = ()

    @property
    def aspect_ratio(self) -> str:
        """Its ratio, at most 4:1 or 1:4: a video has sides that can be watched."""
        width = min(self.width, 4 * self.height)
        return f"{width}:{min(self.height, 4 * width)}"


class InputImages:
    """Decodes the images of requests, and keeps them."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._one = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def keep(self, tenant: str, files: Mapping[str, Path]) -> InputImage | None:
        """Keep the image of a request, and return it; None if the request has none.

        The image lasts as long as a row names it, and an hour without one. Raises InvalidParamsError.
        """
        source = files.get(IMAGE)
        if source is None:
            return None
        turn = self._turns.setdefault(tenant, asyncio.Lock())
        # of one tenant one at a time waits for its turn among all
        async with turn, self._one:
            with tempfile.TemporaryDirectory(prefix="image-", ignore_cleanup_errors=True) as folder:
                target = Path(folder) / "image.png"
                try:
                    found = await run_child("server.media.decode_image", str(source), str(target))
                except RefusedInputError as error:
                    raise InvalidParamsError(f"{IMAGE} {error}.") from None
                image = InputImage(
                    found["digest"], found["width"], found["height"], tuple(f"{IMAGE} {w}." for w in found["warnings"])
                )
                # also if it is there already: from now it is as young as a new one
                await self._inputs.storage.put(input_key(tenant, image.digest), _content(target))
        return image


async def _content(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, 16 * CHUNK_BYTES):
            yield chunk
