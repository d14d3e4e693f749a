"""Flows: the client's logic as generators that yield actions and receive their results.

The logic itself performs no I/O. A driver (`paddock._drivers`) performs each action, either with `httpx.Client` or with
`httpx.AsyncClient`, as httpx itself does with `httpx.Auth.auth_flow`. An error of an action is raised at its `yield`.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BufferedResponse:
    """A whole response: `content` is decoded."""

    status_code: int
    headers: httpx.Headers
    content: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request and read its response, at most `max_bytes` of it. The result is a BufferedResponse."""

    request: httpx.Request
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request and leave the body of its response unread. The result is an httpx.Response.

    It replaces the response that is open. The driver closes the last one at the end of the flow.
    """

    request: httpx.Request


@dataclass(frozen=True, slots=True)
class Read:
    """Read more of the open response. The result is bytes, or None at the end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """Call a function that may block, such as one that writes a file. The result is the function's."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Emit:
    """Give the caller of an iterating method its next value."""

    value: Any


Action = Send | Open | Read | Pause | Call | Emit
Flow = Generator[Action, Any, T]


class Steps(Generic[T]):
    """A flow under way. `action` is to be performed next, None once the flow has ended with `result`."""

    result: T

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self.action: Action | None = None
        self.succeed(None)

    def succeed(self, result: Any) -> None:
        """Go on with the result of the action."""
        self._advance(lambda: self._flow.send(result))

    def fail(self, error: Exception) -> None:
        """Go on with the error of the action."""
        self._advance(lambda: self._flow.throw(error))

    def close(self) -> None:
        """End the flow early; it cleans up after itself."""
        self._flow.close()

    def _advance(self, step: Callable[[], Action]) -> None:
        try:
            self.action = step()
        except StopIteration as end:
            self.action, self.result = None, end.value


def send(request: httpx.Request, max_bytes: int) -> Flow[BufferedResponse]:
    """`Send` with a typed result."""
    response: BufferedResponse = yield Send(request, max_bytes)
    return response


def open_response(request: httpx.Request) -> Flow[httpx.Response]:
    """`Open` with a typed result."""
    response: httpx.Response = yield Open(request)
    return response


def read_chunk() -> Flow[bytes | None]:
    """`Read` with a typed result."""
    chunk: bytes | None = yield Read()
    return chunk


def call(function: Callable[[], T]) -> Flow[T]:
    """`Call` with a typed result."""
    result: T = yield Call(function)
    return result
