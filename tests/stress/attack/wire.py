"""An attacker's connections: bare sockets, of which nothing is read unless the attack says so."""

import asyncio
import json
import select
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.stress.fuzz import KEY

AGAIN_SECONDS = 0.05
"""After an error or a refusal a connection is opened again, after so many seconds."""


@dataclass
class Target:
    """The server that is attacked, from which addresses, over how many connections of each, and with which answers."""

    port: int
    addresses: tuple[str, ...]
    connections: int
    seconds: float
    data_dir: Path
    answers: Counter[str] = field(default_factory=Counter)


def request(method: str, path: str, body: Any = None, *headers: str, key: bool = True) -> bytes:
    """A request as bytes, with the attacker's key unless it has none. `body` is JSON, or bytes as they are."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if key:
        lines.append(f"Authorization: Bearer {KEY}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


class Line:
    """One connection."""

    def __init__(self, target: Target, number: int) -> None:
        self.target = target
        self.number = number
        self._address = target.addresses[number % len(target.addresses)]
        self._socket = socket.socket()
        self._loop = asyncio.get_running_loop()
        self._unread = b""

    async def open(self) -> None:
        """Connect. The system's buffer for what the server sends is small."""
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.bind((self._address, 0))
        await self._loop.sock_connect(self._socket, ("127.0.0.1", self.target.port))

    async def send(self, content: bytes) -> None:
        """Send all of it."""
        await self._loop.sock_sendall(self._socket, content)

    async def receive(self) -> bytes:
        """Some bytes; raises ConnectionError if the server has closed."""
        received = await self._loop.sock_recv(self._socket, 65536)
        if not received:
            raise ConnectionResetError
        return received

    async def answer(self) -> bytes:
        """Read one whole answer, count it, and return its body."""
        while b"\r\n\r\n" not in self._unread:
            self._unread += await self.receive()
        head, _, body = self._unread.partition(b"\r\n\r\n")
        self.target.answers[head[9:12].decode()] += 1
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"content-length" in fields:
            length = int(fields[b"content-length"])
            while len(body) < length:
                body += await self.receive()
            body, self._unread = body[:length], body[length:]
        else:
            while not body.endswith(b"0\r\n\r\n"):
                body += await self.receive()
            self._unread = b""
        if fields.get(b"connection") == b"close":
            raise ConnectionResetError
        return body

    async def ask(self, content: bytes) -> bytes:
        """Send a request, and return the body of its answer."""
        await self.send(content)
        return await self.answer()

    async def hold(self) -> None:
        """Read nothing, and stay until the server aborts the connection."""
        self.target.answers["unread"] += 1
        aborted: asyncio.Future[None] = self._loop.create_future()
        with select.epoll(1) as errors:
            # no events but errors, so that nothing need be read
            errors.register(self._socket, 0)
            self._loop.add_reader(errors, _end, aborted)
            try:
                await aborted
            finally:
                self._loop.remove_reader(errors)
        raise ConnectionAbortedError

    async def linger(self) -> None:
        """Read what comes, until the server closes."""
        while True:
            head = await self.receive()
            if head.startswith(b"HTTP/1.1 "):
                self.target.answers[head[9:12].decode()] += 1

    def close(self) -> None:
        """Close."""
        self._socket.close()


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


Behaviour = Callable[[Line], Awaitable[None]]


async def many(target: Target, behaviour: Behaviour, count: int | None = None) -> None:
    """Behave so on many connections at once. Each is opened again when its behaviour is over, or the server closes."""

    async def one(number: int) -> None:
        while True:
            line = Line(target, number)
            try:
                await line.open()
                await behaviour(line)
            except OSError as error:
                target.answers[type(error).__name__] += 1
                await asyncio.sleep(AGAIN_SECONDS)
            finally:
                line.close()

    lines = target.connections * len(target.addresses) if count is None else count
    await asyncio.gather(*map(one, range(lines)))


async def for_seconds(seconds: float, attack: Awaitable[None]) -> None:
    """Attack for so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await attack
