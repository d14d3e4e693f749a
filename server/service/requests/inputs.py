"""The files that requests bring: decoded one at a time, and kept under the digests of their content."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from pipelines.core.files import opened, sha256_of
from server.core.errors import InvalidParamsError, QueueFullError, UnavailableError, reason
from server.media.limits import RefusedInputError
from server.media.process import SECONDS, run_child
from server.service.record_limits import HourlyLimit
from server.storage.files.inputs import AUDIO_SUFFIX, IMAGE_SUFFIX, VIDEO_SUFFIX, Inputs, input_key
from server.storage.files.interface import CHUNK_BYTES

IMAGE = "input_image"
"""The parameter for the image that a video begins with."""

LAST_IMAGES = ("end_image_url", "tail_image_url")
"""The names of the parameter for the image that a video ends with. Rows tell the first."""

VIDEO = "input_video"
"""The parameter for the video that another one is made of."""

AUDIO_NAMES = ("input_audio", "audio_url")
"""The names of the parameter for the sound that is heard with a video. Rows tell the first."""

INPUTS = (IMAGE, *LAST_IMAGES, VIDEO, *AUDIO_NAMES)
"""The parameters whose values are files."""

UPLOAD_PREFIX = "upload:"
"""What the id of an upload begins with."""

MAX_WAITING = 16
"""So many requests of a tenant may wait for their inputs to be decoded."""

MAX_BYTES_PER_HOUR = 2**31
"""Limit of the new inputs that are kept for a tenant. They last an hour even if their request is refused."""

_VIDEO_FIELDS = ("digest", "width", "height", "num_frames", "fps")


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image that is kept: the digest of its pixels, its sides in pixels, and what its sender should know."""

    digest: str
    width: int
    height: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InputVideo:
    """A video that is kept: the digest of its file, its sides in pixels, its length and rate, and its warnings."""

    digest: str
    width: int
    height: int
    num_frames: int
    fps: float
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.num_frames / self.fps

    def frames_at(self, fps: float) -> int:
        """How many frames ffmpeg makes of it at another rate; where that is between two numbers, the lower one."""
        return max(1, int(self.num_frames * fps / self.fps + 0.499))


@dataclass(frozen=True, slots=True)
class InputAudio:
    """A sound that is kept: the digest of its file, its length in seconds, and its warnings."""

    digest: str
    seconds: float
    warnings: tuple[str, ...] = ()


Picture: TypeAlias = InputImage | InputVideo
"""What has sides."""

Input: TypeAlias = Picture | InputAudio
"""What is kept of a request."""


@dataclass(frozen=True, slots=True)
class GivenInputs:
    """What a request's video begins and ends with, is made of and heard with: kept inputs, or URLs to be fetched.

    `extended` is the video that it continues.
    """

    first: Picture | str | None = None
    last: Picture | str | None = None
    video: Picture | str | None = None
    extended: InputVideo | None = None
    audio: InputAudio | str | None = None

    @property
    def kept_first(self) -> Picture | None:
        """The image that the video begins with or the video it is made of, if it is kept."""
        return next((each for each in (self.first, self.video) if not isinstance(each, str | None)), None)

    @property
    def kept(self) -> list[Input]:
        """Those that are kept."""
        given = (self.first, self.last, self.video, self.audio)
        return [each for each in given if not isinstance(each, str | None)]

    @property
    def urls(self) -> dict[str, str]:
        """Those that have yet to be fetched, by their parameters, in the order in which they are."""
        given = {AUDIO_NAMES[0]: self.audio, IMAGE: self.first, LAST_IMAGES[0]: self.last, VIDEO: self.video}
        return {name: each for name, each in given.items() if isinstance(each, str)}


class _Kind(NamedTuple):
    """How an input is decoded: by which module, within how many seconds, and with which suffix it is kept."""

    module: str
    suffix: str
    seconds: float


_IMAGE = _Kind("server.media.decode_image", IMAGE_SUFFIX, SECONDS)
_VIDEO = _Kind("server.media.decode_video", VIDEO_SUFFIX, 180.0)
_AUDIO = _Kind("server.media.decode_audio", AUDIO_SUFFIX, SECONDS)


class InputFiles:
    """Decodes the inputs of requests, and keeps them."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        # a video takes longer
        self._one = {kind: asyncio.Lock() for kind in (_IMAGE, _VIDEO, _AUDIO)}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting: Counter[str] = Counter()
        self._kept = HourlyLimit(MAX_BYTES_PER_HOUR)

    async def keep_image(self, tenant: str, name: str, source: Path) -> InputImage:
        """Keep an image, the parameter `name` of a request, and return it.

        It lasts as long as a row names it, and an hour without one. Raises InvalidParamsError, QueueFullError or
        UnavailableError.
        """
        found, warnings = await self._keep(tenant, name, source, _IMAGE)
        return InputImage(found["digest"], found["width"], found["height"], warnings)

    async def keep_video(self, tenant: str, name: str, source: Path) -> InputVideo:
        """Keep a video, as an image is kept."""
        found, warnings = await self._keep(tenant, name, source, _VIDEO)
        return InputVideo(**{name: found[name] for name in _VIDEO_FIELDS}, warnings=warnings)

    async def keep_audio(self, tenant: str, name: str, source: Path) -> InputAudio:
        """Keep a sound, as an image is kept."""
        found, warnings = await self._keep(tenant, name, source, _AUDIO)
        return InputAudio(found["digest"], found["seconds"], warnings)

    async def keep_file(self, tenant: str, digest: str, content: AsyncIterator[bytes], size: int) -> None:
        """Keep a video of this server by the digest of its file. Raises QueueFullError or UnavailableError."""
        key = input_key(tenant, digest, VIDEO_SUFFIX)
        try:
            async with self._inputs.changing():
                if not await self._inputs.storage.touch(key):
                    self._count(tenant, size)
                    await self._inputs.storage.put(key, content)
        except OSError as error:
            raise UnavailableError(f"The server cannot keep inputs: {reason(error)}.", 5) from error

    async def keep(self, tenant: str, name: str, source: Path) -> Input:
        """Keep what the parameter `name` of a request is."""
        if name in AUDIO_NAMES:
            return await self.keep_audio(tenant, name, source)
        return await (self.keep_video if name == VIDEO else self.keep_image)(tenant, name, source)

    async def _keep(self, tenant: str, name: str, source: Path, kind: _Kind) -> tuple[dict[str, Any], tuple[str, ...]]:
        if self._waiting[tenant] >= MAX_WAITING:
            raise QueueFullError(f"{MAX_WAITING} requests with inputs of this key are being read already.", 5)
        turn = self._turns.setdefault(tenant, asyncio.Lock())
        self._waiting[tenant] += 1
        try:
            # of one tenant one at a time waits for its turn among all
            async with turn, self._one[kind]:
                return await self._decode(tenant, name, source, kind)
        except OSError as error:
            raise UnavailableError(f"The server cannot keep inputs: {reason(error)}.", 5) from error
        finally:
            self._waiting[tenant] -= 1
            self._waiting += Counter()

    async def _decode(
        self, tenant: str, name: str, source: Path, kind: _Kind
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        with tempfile.TemporaryDirectory(prefix="input-", ignore_cleanup_errors=True) as folder:
            target = Path(folder) / "decoded"
            try:
                if kind is _VIDEO and await self._is_kept(tenant, source):
                    # a copy of it would be another video
                    return await run_child("server.media.decode_video", str(source)), ()
                found = await run_child(kind.module, str(source), str(target), seconds=kind.seconds)
            except RefusedInputError as error:
                raise InvalidParamsError(f"{name} {error}.") from None
            key = input_key(tenant, found["digest"], kind.suffix)
            async with self._inputs.changing():
                # from now it is as young as a new one
                if not await self._inputs.storage.touch(key):
                    self._count(tenant, (await asyncio.to_thread(target.stat)).st_size)
                    await self._inputs.storage.put(key, _content(target))
        return found, tuple(f"{name} {warning}." for warning in found["warnings"])

    async def _is_kept(self, tenant: str, file: Path) -> bool:
        """Whether a file is one that is kept for a tenant already. From now it is as young as a new one."""
        key = input_key(tenant, await asyncio.to_thread(sha256_of, file), VIDEO_SUFFIX)
        async with self._inputs.changing():
            return await self._inputs.storage.touch(key)

    def _count(self, tenant: str, size: int) -> None:
        """Count a new input of a tenant of so many bytes. Raises QueueFullError."""
        if (wait := self._kept.wait(tenant, size)) is not None:
            raise QueueFullError(
                f"Inputs of {MAX_BYTES_PER_HOUR} bytes in all came within an hour: this is the limit.", ceil(wait)
            )
        self._kept.add(tenant, size)


async def _content(path: Path) -> AsyncIterator[bytes]:
    async with opened(path, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, 16 * CHUNK_BYTES):
            yield chunk
