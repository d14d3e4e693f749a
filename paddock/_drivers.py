"""Perform the actions of flows with httpx: one driver for each of its two clients."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

import httpx

from paddock._core.flows import Action, BufferedResponse, Call, Emit, Flow, Open, Pause, Read, Send, Steps
from paddock._core.protocol import UNPROXIED, Protocol
from paddock.errors import InvalidArgumentError, PaddockError, UnexpectedResponseError

T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)

# what an action may raise and a flow may handle; anything else, such as KeyboardInterrupt, ends the flow
_FAILURES = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, PaddockError)


def open_http(kind: type[Http], protocol: Protocol, transport: Any) -> Http:
    """A client of httpx for a server, with the proxies and certificates of the environment; none on this machine.

    Raises InvalidArgumentError if the environment names what cannot be used.
    """
    try:
        return kind(transport=transport, mounts=UNPROXIED)
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        if protocol.is_loopback:
            return kind(transport=transport, trust_env=False)
        raise InvalidArgumentError(
            "The proxy or the certificates that the environment names (HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE "
            f"and the like) cannot be used: {error}"
        ) from error


class Driver:
    """Performs one flow with `httpx.Client`."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def run(self, flow: Flow[T]) -> T:
        """Perform a whole flow."""
        steps = Steps(flow)
        for _ in self._perform_all(steps):
            pass
        return steps.result

    def iterate(self, flow: Flow[None]) -> Iterator[Any]:
        """Perform a flow as far as the caller iterates over what it emits."""
        return self._perform_all(Steps(flow))

    def _perform_all(self, steps: Steps[Any]) -> Iterator[Any]:
        try:
            while (action := steps.action) is not None:
                if isinstance(action, Emit):
                    yield action.value
                    steps.succeed(None)
                    continue
                try:
                    result = self._perform(action)
                except _FAILURES as error:
                    steps.fail(error)
                else:
                    steps.succeed(result)
        finally:
            steps.close()
            self._close()

    def _perform(self, action: Action) -> Any:
        match action:
            case Send(request, max_bytes):
                return self._send(request, max_bytes)
            case Open(request):
                self._close()
                self._response = self._http.send(request, stream=True)
                self._chunks = self._response.iter_bytes()
                return self._response
            case Read():
                return next(self._chunks, None)
            case Pause(seconds):
                time.sleep(seconds)
            case Call(function):
                return function()
        return None

    def _send(self, request: httpx.Request, max_bytes: int) -> BufferedResponse:
        response = self._http.send(request, stream=True)
        try:
            content = bytearray()
            for chunk in response.iter_bytes():
                _extend(content, chunk, max_bytes)
        finally:
            response.close()
        return BufferedResponse(response.status_code, response.headers, bytes(content))

    def _close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


class AsyncDriver:
    """Performs one flow with `httpx.AsyncClient`; files are written in a thread."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    async def run(self, flow: Flow[T]) -> T:
        """Perform a whole flow."""
        steps = Steps(flow)
        async for _ in self._perform_all(steps):
            pass
        return steps.result

    def iterate(self, flow: Flow[None]) -> AsyncIterator[Any]:
        """Perform a flow as far as the caller iterates over what it emits."""
        return self._perform_all(Steps(flow))

    async def _perform_all(self, steps: Steps[Any]) -> AsyncIterator[Any]:
        try:
            while (action := steps.action) is not None:
                if isinstance(action, Emit):
                    yield action.value
                    steps.succeed(None)
                    continue
                try:
                    result = await self._perform(action)
                except _FAILURES as error:
                    steps.fail(error)
                else:
                    steps.succeed(result)
        finally:
            steps.close()
            await self._close()

    async def _perform(self, action: Action) -> Any:
        match action:
            case Send(request, max_bytes):
                return await self._send(request, max_bytes)
            case Open(request):
                await self._close()
                self._response = await self._http.send(request, stream=True)
                self._chunks = self._response.aiter_bytes()
                return self._response
            case Read():
                return None if self._chunks is None else await anext(self._chunks, None)
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Call(function):
                return await asyncio.to_thread(function)
        return None

    async def _send(self, request: httpx.Request, max_bytes: int) -> BufferedResponse:
        response = await self._http.send(request, stream=True)
        try:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                _extend(content, chunk, max_bytes)
        finally:
            await response.aclose()
        return BufferedResponse(response.status_code, response.headers, bytes(content))

    async def _close(self) -> None:
        if self._response is not None:
            await self._response.aclose()
            self._response = None


def _extend(content: bytearray, chunk: bytes, max_bytes: int) -> None:
    content += chunk
    if len(content) > max_bytes:
        raise UnexpectedResponseError(f"The response is larger than {max_bytes} bytes.")
