"""Reads the body of a request that asks for videos, or that uploads an input."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import Request

from server.api.bodies.body import RequestBody
from server.api.bodies.inputs import MAX_BYTES, Spool, note_inputs, read_multipart, split_large
from server.api.bodies.json_body import LARGE_BYTES, LargeBodies, checked_object, parse_object
from server.api.bodies.reference import Reference
from server.core.errors import (
    InvalidParamsError,
    PayloadTooLargeError,
    QueueFullError,
    UnavailableError,
    UnsupportedMediaTypeError,
    reason,
)
from server.core.turns import Turns
from server.media.limits import IMAGE_BYTES, VIDEO_BYTES
from server.service.requests.inputs import INPUTS
from server.service.service import Service

RATE_BYTES = 2**20
"""A body with inputs has as much time as any other, and as much again for each RATE_BYTES that have come."""

_UPLOAD_RATE_BYTES = 4 * RATE_BYTES
"""The same for uploads, which may be four times as large and hold others up for no longer."""

UPLOADED = "file"
"""The name of the file of an upload."""

_MULTIPART = "multipart/form-data"
_RETRY_SECONDS = 5


class BodyReader:
    """Reads one body within the limits of size and time."""

    def __init__(
        self, request: Request, service: Service, large_bodies: LargeBodies, turns: Turns, tenant: str
    ) -> None:
        self._request = request
        self._service = service
        self._large_bodies = large_bodies
        self._turns = turns
        self._tenant = tenant
        self._seconds = service.settings.body_timeout
        self._stack = AsyncExitStack()
        self._has_turn = False
        self._max_bytes, self._rate = MAX_BYTES, RATE_BYTES
        self._too_large = f"The body must be at most {MAX_BYTES} bytes."

    async def read(self, body: RequestBody, reference: Reference | None = None) -> None:
        """Read a body in JSON or multipart. What comes as a `reference` becomes an input.

        Raises UnsupportedMediaTypeError, PayloadTooLargeError, InvalidParamsError, QueueFullError or UnavailableError.
        """
        media_type = self._media_type
        if media_type not in (_MULTIPART, "application/json") and not media_type.endswith("+json"):
            raise UnsupportedMediaTypeError(
                "Send the body as JSON with the header Content-Type: application/json, or as multipart/form-data."
            )
        async with self._within_limits():
            if media_type == _MULTIPART:
                await self._read_multipart(body, reference)
            else:
                body.content = parse_object(await self._read_json(body, reference))
            if reference is not None:
                reference.unwrap(body)
            await note_inputs(body)

    async def read_upload(self, body: RequestBody) -> None:
        """Read a body that is a file, or a form with a file, which becomes the input UPLOADED.

        Raises UnsupportedMediaTypeError, PayloadTooLargeError, InvalidParamsError, QueueFullError or UnavailableError.
        """
        media_type = self._media_type
        if media_type not in (_MULTIPART, "application/octet-stream") and not media_type.startswith(
            ("image/", "video/", "audio/")
        ):
            raise UnsupportedMediaTypeError(
                "Send the file with its media type, such as Content-Type: image/png, or as multipart/form-data."
            )
        # those of images and sounds are the same
        most = IMAGE_BYTES if media_type.startswith(("image/", "audio/")) else VIDEO_BYTES
        self._rate = _UPLOAD_RATE_BYTES
        self._max_bytes, self._too_large = most, f"The file must have at most {most // 2**20} MB."
        async with self._within_limits():
            if media_type == _MULTIPART:
                limit = self._service.settings.max_body_bytes
                # the rest of a form is small
                self._max_bytes += limit
                await read_multipart(self._request, body, self._chunks(), limit, (UPLOADED,))
            else:
                await self._read_file(body)
        if UPLOADED not in body.inputs:
            raise InvalidParamsError(f"The form must have a file as its field {UPLOADED}.")

    @property
    def _media_type(self) -> str:
        return self._request.headers.get("content-type", "").partition(";")[0].strip().lower()

    @asynccontextmanager
    async def _within_limits(self) -> AsyncIterator[None]:
        """A context for reading, within the time that the body has."""
        try:
            async with asyncio.timeout(self._seconds) as self._deadline, self._stack:
                self._stack.enter_context(self._service.when_closing(partial(_end, self._deadline)))
                yield
        except TimeoutError:
            self._service.check_open()
            # a client that sends a byte an hour must not hold a connection
            raise InvalidParamsError(
                f"The body did not arrive within {self._seconds:g} seconds.", {"Connection": "close"}
            ) from None
        except OSError as error:
            raise UnavailableError(f"The server cannot keep the body: {reason(error)}.", _RETRY_SECONDS) from error

    async def _read_multipart(self, body: RequestBody, reference: Reference | None) -> None:
        limit = self._service.settings.max_body_bytes
        more = () if reference is None else (reference.name,)
        long_texts = () if reference is None else reference.long_texts
        await read_multipart(self._request, body, self._chunks(), limit, (*INPUTS, *more), long_texts)
        body.content = checked_object(body.content)
        if sum(len(str(value)) for value in body.content.values()) > LARGE_BYTES:
            await self._large_bodies.admit(self._tenant, body)

    async def _read_file(self, body: RequestBody) -> None:
        spool = Spool(body.folder / UPLOADED)
        try:
            async for chunk in self._chunks():
                await spool.write(chunk)
        finally:
            await spool.close()
        body.inputs[UPLOADED] = spool.path

    async def _read_json(self, body: RequestBody, reference: Reference | None) -> bytes:
        """Return the JSON of a body, without the inputs of a large one."""
        limit = self._service.settings.max_body_bytes
        raw, spool = bytearray(), None
        try:
            async for chunk in self._chunks():
                if spool is not None:
                    await spool.write(chunk)
                    continue
                raw += chunk
                if len(raw) > LARGE_BYTES and not body.is_large:
                    await self._large_bodies.admit(self._tenant, body)
                if len(raw) > limit:
                    if not raw.lstrip().startswith(b"{"):
                        raise PayloadTooLargeError(f"The body must be at most {limit} bytes.")
                    spool = Spool(body.folder / "body")
                    await spool.write(raw)
                    raw.clear()
        finally:
            if spool is not None:
                await spool.close()
        if spool is None:
            return bytes(raw)
        return await split_large(body, spool.path, limit, (*INPUTS, *(() if reference is None else reference.in_json)))

    async def _chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. One that is larger than others may be needs a turn, and gets time as it arrives."""
        size, began = 0, asyncio.get_running_loop().time()
        async for chunk in self._request.stream():
            size += len(chunk)
            if size > self._max_bytes:
                raise PayloadTooLargeError(self._too_large)
            if size > self._service.settings.max_body_bytes:
                if not self._has_turn:
                    waited = await self._take_turn()
                    began += waited
                self._reschedule(began + self._seconds * (1 + size / self._rate))
            yield chunk

    async def _take_turn(self) -> float:
        """Wait for a turn, which does not count as time of the body; returns the seconds. Raises QueueFullError."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._reschedule(began + 3 * self._seconds)
        try:
            async with asyncio.timeout(self._seconds):
                await self._stack.enter_async_context(self._turns.turn(self._tenant))
        except TimeoutError:
            self._service.check_open()
            raise QueueFullError(
                "Other large requests, of this key or of all, are still being read. Try again.", _RETRY_SECONDS
            ) from None
        self._has_turn = True
        return loop.time() - began

    def _reschedule(self, when: float) -> None:
        # it expires at once when the server stops
        if not self._deadline.expired() and not self._service.is_closing:
            self._deadline.reschedule(when)


def _end(deadline: asyncio.Timeout) -> None:
    """Let a timeout expire now."""
    if not deadline.expired():
        deadline.reschedule(0)
