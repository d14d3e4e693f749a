"""ASGI middleware: protection against CSRF and DNS rebinding, and the header that announces demo weights.

Any web page can make a user's browser send requests to this server. Two kinds of requests are refused:
- requests with an unknown host name. A malicious site can point its own name at this machine ("DNS rebinding");
- writes that a page of another site has started (CSRF).
Browsers do not let pages of other sites read the answers, unless the setting `cors_origins` lists their origin.
"""

import re
from collections.abc import Callable, Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.openai.errors import error_body
from server.core.errors import InvalidParamsError

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SAME_SITE = frozenset({"same-origin", "none"})


class BrowserGuard:
    """Refuses cross-site writes and requests with an unknown host name, before they reach a route.

    `names` are the host names of the server; IP addresses and localhost are always accepted. While `any_name()` is true
    every name is accepted. Pages of `origins` ("https://name:port") may write.
    """

    def __init__(
        self, app: ASGIApp, names: Collection[str], any_name: Callable[[], bool], origins: Collection[str]
    ) -> None:
        self._app = app
        self._names = {name.lower() for name in names}
        self._any_name = any_name
        self._origins = {origin.lower() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 400 with the reason."""
        if scope["type"] == "http" and (sentence := self._refusal(scope["method"], Headers(scope=scope))) is not None:
            error = InvalidParamsError(sentence)
            await JSONResponse(error_body(split_path(scope)[1], error), error.status)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> str | None:
        hosts = headers.getlist("host")
        # clients other than browsers may omit the header
        if any(not self._is_own_host(host) for host in hosts):
            return (
                "This server does not accept the host name in the request's Host header. "
                "Use the server's IP address, or add the name to the setting allowed_hosts."
            )
        if method not in _SAFE_METHODS and not self._may_write(headers):
            return (
                "A page of another site must not do this. If the page is yours, add its origin to the setting "
                "cors_origins, or set public_url to the address that browsers use for this server."
            )
        return None

    def _is_own_host(self, host: str) -> bool:
        name = host_name(host)
        if name is None:
            return False
        return name in self._names or name == "localhost" or _is_address(name) or self._any_name()

    def _may_write(self, headers: Headers) -> bool:
        origin, site = headers.get("origin", "").lower(), headers.get("sec-fetch-site")
        if origin in self._origins:
            return True
        if site is not None:
            return site in _SAME_SITE
        # old browsers send Origin but no Sec-Fetch-Site; a client that sends neither is not a browser
        try:
            return not origin or urlsplit(origin).netloc == headers.get("host", "").lower()
        except ValueError:
            return False


class Cors(CORSMiddleware):
    """Lets pages of listed origins, which are in lower case, read answers: some apps send theirs in another case."""

    def is_allowed_origin(self, origin: str) -> bool:
        """Whether the setting `cors_origins` lists it."""
        return super().is_allowed_origin(origin.lower())


def host_name(host: str) -> str | None:
    """Return the name or address in a Host header in lower case without the port, None if the header is malformed."""
    found = _HOST.fullmatch(host)
    return None if found is None else found[1].strip("[]").lower()


def split_path(scope: Scope) -> tuple[str, str]:
    """Return the prefix of a request's path that a proxy has removed, "" without one, and the path below it."""
    # a mount that was tried has added its own path to root_path
    prefix: str = scope.get("app_root_path", scope.get("root_path", ""))
    return prefix, scope["path"].removeprefix(prefix)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


WEIGHTS_HEADER = "X-Paddock-Weights"


class DemoWeightsHeader:
    """Adds the header X-Paddock-Weights: demo to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[WEIGHTS_HEADER] = "demo"
            await send(message)

        await self._app(scope, receive, send_with_header)


EXPOSED_HEADERS = ("Accept-Ranges", "Content-Range", "ETag", "Paddock-Warnings", "Retry-After", WEIGHTS_HEADER)
"""The headers that pages of `cors_origins` may read."""

_STREAMS = ("/events", "/api/events")
_WITH_HEAD = ("/files/", "/api/files/", "/web/")


def has_head(path: str) -> bool:
    """Whether a path that can be read by GET can be asked for its headers alone."""
    return path not in _STREAMS


class HeadRequests:
    """Answers HEAD on the routes that have only GET, with the headers of GET. The stream of events has no end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = split_path(scope)[1] if scope["type"] == "http" else ""
        if not path or scope["method"] != "HEAD" or not has_head(path) or path.startswith(_WITH_HEAD):
            # those with HEAD of their own do not read the file
            await self._app(scope, receive, send)
            return

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_headers)
