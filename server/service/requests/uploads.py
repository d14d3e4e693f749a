"""Images, videos and sounds that are sent in advance, for requests to name by the ids that the uploads get."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import NamedTuple

from server.core.errors import InvalidParamsError, QueueFullError, UnavailableError, reason
from server.media.containers import is_audio, is_video
from server.media.limits import AUDIO_FORMATS, IMAGE_FORMATS, VIDEO_FORMATS
from server.service.record_limits import HourlyLimit
from server.service.requests.inputs import (
    AUDIO_NAMES,
    IMAGE,
    LAST_IMAGES,
    UPLOAD_PREFIX,
    VIDEO,
    Input,
    InputAudio,
    InputFiles,
    InputImage,
    InputVideo,
)
from server.storage.files.inputs import AUDIO_SUFFIX, IMAGE_SUFFIX, UPLOAD_SECONDS, VIDEO_SUFFIX, Inputs, input_key

MAX_BYTES_PER_HOUR = 500 * 2**20
"""Limit of what a tenant uploads: no upload lasts longer without a request that names it."""

_NOT_FOUND = "there is no such upload, or it has expired: upload the file again."


@dataclass(frozen=True, slots=True)
class Upload:
    """An input that was sent in advance. `size` is that of its file in bytes, `expires` in Unix seconds."""

    id: str
    input: Input
    size: int
    expires: float


class _Kind(NamedTuple):
    """A kind of input: what only it has, how it is made, called and kept, and which parameters take it."""

    field: str
    make: Callable[..., Input]
    parameters: tuple[str, ...]
    name: str
    suffix: str


_KINDS = (
    _Kind("fps", InputVideo, (VIDEO,), "a video", VIDEO_SUFFIX),
    _Kind("seconds", InputAudio, AUDIO_NAMES, "a sound", AUDIO_SUFFIX),
    _Kind("width", InputImage, (IMAGE, *LAST_IMAGES), "an image", IMAGE_SUFFIX),
)
"""By what tells them apart: a video has a width, too."""


class Uploads:
    """Keeps inputs for their tenants. The id of an upload says which one it is, and is signed for its tenant."""

    def __init__(self, inputs: Inputs, files: InputFiles) -> None:
        self._inputs = inputs
        self._files = files
        self._came = HourlyLimit(MAX_BYTES_PER_HOUR)

    async def keep(self, tenant: str, file: Path) -> Upload:
        """Decode and keep an image, a video or a sound.

        Raises InvalidParamsError, QueueFullError or UnavailableError.
        """
        size = (await asyncio.to_thread(file.stat)).st_size
        if (wait := self._came.wait(tenant, size)) is not None:
            raise QueueFullError(
                f"Uploads of {MAX_BYTES_PER_HOUR} bytes in all came within an hour: this is the limit.", ceil(wait)
            )
        # before it is kept: others come meanwhile
        self._came.add(tenant, size)
        began = time.time()
        name = await asyncio.to_thread(_parameter_for, file)
        try:
            kept = await self._files.keep(tenant, name, file)
        except InvalidParamsError as error:
            self._came.add(tenant, -size)
            if str(error) == f"{IMAGE} must be {IMAGE_FORMATS}.":
                raise InvalidParamsError(
                    f"The file must be {IMAGE_FORMATS}, {VIDEO_FORMATS}, or {AUDIO_FORMATS}."
                ) from None
            raise
        except BaseException:
            self._came.add(tenant, -size)
            raise
        return Upload(self.id_of(tenant, kept), kept, size, began + UPLOAD_SECONDS)

    def id_of(self, tenant: str, kept: Input) -> str:
        """The id by which requests of a tenant name what is kept for it."""
        return UPLOAD_PREFIX + self._inputs.uploads.sign(tenant, asdict(kept))

    async def find(self, tenant: str, name: str, upload: str) -> Input:
        """The input of an upload, which the parameter `name` names. From now it lasts as long as one of a request.

        Raises InvalidParamsError, in the same words for an unknown id, one of another tenant and one that has expired.
        """
        value = self._inputs.uploads.verify(tenant, upload.removeprefix(UPLOAD_PREFIX))
        if not isinstance(value, dict):
            raise InvalidParamsError(f"{name}: {_NOT_FOUND}")
        kind = next(each for each in _KINDS if each.field in value)
        if name not in kind.parameters:
            raise InvalidParamsError(f"{name}: the upload is {kind.name}.")
        kept = kind.make(**value | {"warnings": tuple(value["warnings"])})
        suffix = kind.suffix
        key, storage = input_key(tenant, kept.digest, suffix), self._inputs.storage
        try:
            async with self._inputs.changing():
                # as new, or it could be removed before the request is recorded
                if not await storage.touch(key):
                    raise InvalidParamsError(f"{name}: {_NOT_FOUND}")
        except OSError as error:
            raise UnavailableError(f"The server cannot keep inputs: {reason(error)}.", 5) from error
        return kept


def _parameter_for(file: Path) -> str:
    """A parameter that takes a file, by its first bytes."""
    if is_video(file):
        return VIDEO
    return AUDIO_NAMES[0] if is_audio(file) else IMAGE
