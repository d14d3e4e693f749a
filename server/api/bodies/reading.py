"""Reads the body of a request that asks for videos."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

from fastapi import Request

from server.api.bodies.body import RequestBody
from server.api.bodies.inputs import InputTurns, Spool, note_inputs, read_multipart, split_large
from server.api.bodies.json_body import LARGE_BYTES, LargeBodies, checked_object, parse_object
from server.core.errors import InvalidParamsError, PayloadTooLargeError, UnsupportedMediaTypeError
from server.service.service import Service

INPUT_SECONDS_FACTOR = 10
"""A body with inputs may take so many times as long to arrive as others."""


async def read_body(
    request: Request, service: Service, large_bodies: LargeBodies, turns: InputTurns, tenant: str, body: RequestBody
) -> None:
    """Read a body in JSON or multipart within the limits.

    Raises UnsupportedMediaTypeError, PayloadTooLargeError or InvalidParamsError.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_multipart = media_type == "multipart/form-data"
    if not is_multipart and media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaTypeError(
            "Send the body as JSON with the header Content-Type: application/json, or as multipart/form-data."
        )
    seconds = service.settings.body_timeout
    try:
        async with asyncio.timeout(seconds) as deadline, AsyncExitStack() as stack:
            stack.enter_context(service.when_closing(partial(_end, deadline)))

            async def begin_inputs() -> None:
                """Wait for a turn; from then on there is more time."""
                await stack.enter_async_context(turns.turn(tenant))
                if not deadline.expired():
                    loop = asyncio.get_running_loop()
                    deadline.reschedule(loop.time() + seconds * INPUT_SECONDS_FACTOR)

            if is_multipart:
                await begin_inputs()
                await read_multipart(request, body, request.stream())
                body.content = checked_object(body.content)
            else:
                body.content = parse_object(
                    await _read_json(request, service, large_bodies, tenant, body, begin_inputs)
                )
            await note_inputs(body)
    except TimeoutError:
        service.check_open()
        # a client that sends a byte an hour must not hold a connection
        raise InvalidParamsError(
            f"The body did not arrive within {seconds:g} seconds.", {"Connection": "close"}
        ) from None


async def _read_json(
    request: Request,
    service: Service,
    large_bodies: LargeBodies,
    tenant: str,
    body: RequestBody,
    begin_inputs: Callable[[], Awaitable[None]],
) -> bytes:
    """Return the JSON of a body, without the inputs of a large one."""
    limit = service.settings.max_body_bytes
    raw, spool = bytearray(), None
    try:
        async for chunk in request.stream():
            if spool is not None:
                await spool.write(chunk)
                continue
            raw += chunk
            if len(raw) > LARGE_BYTES and not body.is_large:
                await large_bodies.admit(tenant, body)
            if len(raw) > limit:
                if not raw.lstrip().startswith(b"{"):
                    raise PayloadTooLargeError(f"The body must be at most {limit} bytes.")
                await begin_inputs()
                spool = Spool(body.folder / "body")
                await spool.write(raw)
                raw.clear()
    finally:
        if spool is not None:
            await spool.close()
    return bytes(raw) if spool is None else await split_large(body, spool.path, limit)


def _end(deadline: asyncio.Timeout) -> None:
    """Let a timeout expire now."""
    if not deadline.expired():
        deadline.reschedule(0)
