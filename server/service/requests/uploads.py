"""Images that are sent in advance, for requests to name by the ids that the uploads get."""

import asyncio
import os
import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from server.core.errors import InvalidParamsError, QueueFullError, UnavailableError
from server.service.record_limits import HourlyLimit
from server.service.requests.inputs import IMAGE, InputImage, InputImages
from server.storage.files.inputs import UPLOAD_SECONDS, Inputs, input_key

PREFIX = "upload:"
"""What the id of an upload begins with."""

MAX_BYTES_PER_HOUR = 500 * 2**20
"""Limit of what a tenant uploads: no upload lasts longer without a request that names it."""

_NOT_FOUND = "there is no such upload, or it has expired: upload the image again."


@dataclass(frozen=True, slots=True)
class Upload:
    """An image that was sent in advance. `size` is that of its file in bytes, `expires` in Unix seconds."""

    id: str
    image: InputImage
    size: int
    expires: float


class Uploads:
    """Keeps images for their tenants. The id of an upload says which image it is, and is signed for its tenant."""

    def __init__(self, inputs: Inputs, images: InputImages) -> None:
        self._inputs = inputs
        self._images = images
        self._came = HourlyLimit(MAX_BYTES_PER_HOUR)

    async def keep(self, tenant: str, file: Path) -> Upload:
        """Decode and keep an image. Raises InvalidParamsError, QueueFullError or UnavailableError."""
        size = (await asyncio.to_thread(file.stat)).st_size
        if (wait := self._came.wait(tenant, size)) is not None:
            raise QueueFullError(
                f"Uploads of {MAX_BYTES_PER_HOUR} bytes in all came within an hour: this is the limit.", ceil(wait)
            )
        # before it is kept: others come meanwhile
        self._came.add(tenant, size)
        began = time.time()
        try:
            image = await self._images.keep(tenant, IMAGE, file)
        except BaseException:
            self._came.add(tenant, -size)
            raise
        token = self._inputs.uploads.sign(tenant, [image.digest, image.width, image.height, *image.warnings])
        return Upload(PREFIX + token, image, size, began + UPLOAD_SECONDS)

    async def find(self, tenant: str, name: str, upload: str) -> InputImage:
        """The image of an upload, which the parameter `name` names. From now it lasts as long as one of a request.

        Raises InvalidParamsError, in the same words for an unknown id, one of another tenant and one that has expired.
        """
        value = self._inputs.uploads.verify(tenant, upload.removeprefix(PREFIX))
        if value is None:
            raise InvalidParamsError(f"{name}: {_NOT_FOUND}")
        digest, width, height, *warnings = value
        key, storage = input_key(tenant, digest), self._inputs.storage
        try:
            async with self._inputs.changing:
                if not await storage.stat([key]):
                    raise InvalidParamsError(f"{name}: {_NOT_FOUND}")
                # as new, or it could be removed before the request is recorded
                await storage.put(key, storage.open(key))
        except OSError as error:
            raise UnavailableError(f"The server cannot keep the image: {os.strerror(error.errno or 0)}.", 5) from error
        return InputImage(digest, width, height, tuple(warnings))
