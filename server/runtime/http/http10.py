"""Answers to HTTP/1.0, which knows no chunks: an answer of unknown length ends where its connection ends."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


def without_chunks(cycle: RequestResponseCycle, app: App) -> App:
    """Return an application that answers one request as `app` does. uvicorn would send chunks to any client."""

    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        has_length = True

        async def send_whole(message: Message) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if not has_length:
                    cycle.chunked_encoding = False
            elif not has_length and scope["method"] != "HEAD":
                # uvicorn compares what is sent with the length that was announced
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_whole)

    return answer
