"""A host of images on loopback, and an internet of names and public addresses that leads to it."""

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpcore

from tests.support.stand_in import Quiet, StandIn, serving

PUBLIC = "93.184.216.34"
OTHER_PUBLIC = "2606:2800:220:1:248:1893:25c8:1946"

Answer = Callable[[BaseHTTPRequestHandler], None]


class ImageHost(StandIn):
    """Answers GET requests by their paths. `seen` are the paths and headers of what was asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        host = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                host.answers.get(self.path, status(404))(self)

        super().__init__(Handler)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.seen]


@contextmanager
def image_host() -> Iterator[ImageHost]:
    """A host that runs."""
    with serving(ImageHost()) as host:
        yield host


def content(body: bytes, **headers: str) -> Answer:
    """An answer with a body."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        for name, value in {"content_length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def status(code: int, **headers: str) -> Answer:
    """An answer without a body."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in {"content_length": "0", **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()

    return answer


def parts(bodies: Iterable[bytes]) -> Answer:
    """An answer of unknown length, which ends when its parts do."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for body in bodies:
            request.wfile.write(body)

    return answer


def held(host: ImageHost, then: Answer) -> Answer:
    """An answer that comes when the host may go on."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        host.may_go_on.wait(120)
        then(request)

    return answer


class Internet(httpcore.AsyncNetworkBackend):
    """A network in which public addresses lead to hosts on loopback. It connects to nothing else.

    `names` has the answers of the name server to successive questions; the last one holds for all that follow. A name
    stands for no address, but fails to resolve, if its answer is empty.
    """

    def __init__(self, hosts: Mapping[str, int], names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.hosts = hosts
        self.names = {name: list(answers) for name, answers in names.items()}
        self.asked: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.tls_names: list[str | None] = []
        self.has_tls = False
        """Whether TLS is spoken, and not only noted."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a name; an address is its own."""
        self.asked.append(host)
        if host not in self.names:
            if host in self.hosts:
                return [host]
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        answers = self.names[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if not found:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return found

    async def connect_tcp(self, host: str, port: int, *more: Any, **named: Any) -> httpcore.AsyncNetworkStream:
        self.connected.append((host, port))
        if host not in self.hosts:
            raise httpcore.ConnectError("refused")
        stream = await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.hosts[host], *more, **named)
        return stream if self.has_tls else _Stream(stream, self)

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


class _Stream(httpcore.AsyncNetworkStream):
    """A connection whose TLS is only noted."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, internet: Internet) -> None:
        self._stream = stream
        self._internet = internet

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        self._internet.tls_names.append(server_hostname)
        return self

    def get_extra_info(self, info: str) -> Any:
        return None if info == "ssl_object" else self._stream.get_extra_info(info)
