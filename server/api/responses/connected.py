"""Work for a client that waits for it, and ends with the client's connection."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

T = TypeVar("T")

_POLL_SECONDS = 0.5


async def while_connected(request: Request, work: "asyncio.Task[T]", check: Callable[[], None] | None = None) -> T:
    """The result of work, which is cancelled if this raises; `check` may raise now and then.

    Raises ClientDisconnect.
    """
    try:
        while not (await asyncio.wait({work}, timeout=_POLL_SECONDS))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
            if check is not None:
                check()
        return await work
    finally:
        work.cancel()
