"""The images that requests bring: decoded one at a time, and kept under the digest of their pixels."""

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from weakref import WeakValueDictionary

from server.core.errors import InvalidParamsError, QueueFullError, UnavailableError
from server.media.limits import RefusedInputError
from server.media.process import run_child
from server.service.record_limits import HourlyLimit
from server.storage.files.inputs import Inputs, input_key
from server.storage.files.interface import CHUNK_BYTES

IMAGE = "input_image"
"""The parameter for the image that a video begins with."""

LAST_IMAGES = ("end_image_url", "tail_image_url")
"""The names of the parameter for the image that a video ends with. Rows tell the first."""

MAX_WAITING = 16
"""So many requests of a tenant may wait for their images to be decoded."""

MAX_BYTES_PER_HOUR = 2**31
"""Limit of the new images that are kept for a tenant. They last an hour even if their request is refused."""


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image that is kept: the digest of its pixels, its sides in pixels, and what its sender should know."""

    digest: str
    width: int
    height: int
    warnings: tuple[str, ...] = ()


class InputImages:
    """Decodes the images of requests, and keeps them."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._one = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting: Counter[str] = Counter()
        self._kept = HourlyLimit(MAX_BYTES_PER_HOUR)

    async def keep(self, tenant: str, name: str, source: Path) -> InputImage:
        """Keep an image, the parameter `name` of a request, and return it.

        The image lasts as long as a row names it, and an hour without one. Raises InvalidParamsError, QueueFullError
        or UnavailableError.
        """
        if self._waiting[tenant] >= MAX_WAITING:
            raise QueueFullError(f"{MAX_WAITING} requests with images of this key are being read already.", 5)
        turn = self._turns.setdefault(tenant, asyncio.Lock())
        self._waiting[tenant] += 1
        try:
            # of one tenant one at a time waits for its turn among all
            async with turn, self._one:
                return await self._decode(tenant, name, source)
        except OSError as error:
            raise UnavailableError(f"The server cannot keep the image: {os.strerror(error.errno or 0)}.", 5) from error
        finally:
            self._waiting[tenant] -= 1
            self._waiting += Counter()

    async def _decode(self, tenant: str, name: str, source: Path) -> InputImage:
        with tempfile.TemporaryDirectory(prefix="image-", ignore_cleanup_errors=True) as folder:
            target = Path(folder) / "image.png"
            try:
                found = await run_child("server.media.decode_image", str(source), str(target))
            except RefusedInputError as error:
                raise InvalidParamsError(f"{name} {error}.") from None
            warnings = tuple(f"{name} {warning}." for warning in found["warnings"])
            image = InputImage(found["digest"], found["width"], found["height"], warnings)
            key, storage = input_key(tenant, image.digest), self._inputs.storage
            async with self._inputs.changing:
                if not await storage.stat([key]):
                    size = (await asyncio.to_thread(target.stat)).st_size
                    if (wait := self._kept.wait(tenant, size)) is not None:
                        raise QueueFullError(
                            f"Images of {MAX_BYTES_PER_HOUR} bytes in all came within an hour: this is the limit.",
                            ceil(wait),
                        )
                    self._kept.add(tenant, size)
                # also if it is there already: from now it is as young as a new one
                await storage.put(key, _content(target))
        return image


async def _content(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, 16 * CHUNK_BYTES):
            yield chunk
