"""Keeps pages of other sites from using a server through the browser of somebody who may.

A browser sends requests for any page, and to whatever address a name stands for at the moment. So a name by which the
server does not go is refused (it may have been made to stand for this machine: "DNS rebinding"), and so is a write that
the browser says another site's page asked for. Reading an answer is not for other sites' pages anyway, unless the
setting `cors_origins` names them.
"""

from collections.abc import Callable, Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.errors import InvalidParamsError

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = frozenset({"same-origin", "none"})


class BrowserGuard:
    """Refuses requests that a browser was talked into, before anything else sees them.

    `names` are those the server goes by besides addresses and localhost, while `any_name` will not do; `origins` are
    other pages that may write, as "https://name:port".
    """

    def __init__(
        self, app: ASGIApp, names: Collection[str], any_name: Callable[[], bool], origins: Collection[str]
    ) -> None:
        self._app = app
        self._names = {name.lower() for name in names}
        self._any_name = any_name
        self._origins = {origin.lower() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 400 with what is wrong about it."""
        if scope["type"] == "http" and (sentence := self._refused(scope["method"], Headers(scope=scope))) is not None:
            error = InvalidParamsError(sentence)
            await JSONResponse(error.body, error.status)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refused(self, method: str, headers: Headers) -> str | None:
        hosts = headers.getlist("host")
        # what is no browser may leave it out
        if any(not self._is_ours(host) for host in hosts):
            return (
                "The server does not go by the name in this request's Host header. "
                "Call it by its address, or name it in the setting allowed_hosts."
            )
        if method not in _READS and not self._may_write(headers):
            return (
                "A page of another site may not do this. If it is yours, name its origin in the setting cors_origins, "
                "or the server's own address in public_url."
            )
        return None

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        if name is None:
            return False
        return name in self._names or name == "localhost" or _is_address(name) or self._any_name()

    def _may_write(self, headers: Headers) -> bool:
        origin, site = headers.get("origin", "").lower(), headers.get("sec-fetch-site")
        if origin in self._origins:
            return True
        if site is not None:
            return site in _OWN
        # browsers of before Sec-Fetch-Site tell the origin; what tells neither is none
        return not origin or urlsplit(origin).netloc == headers.get("host", "").lower()


def _name(host: str) -> str | None:
    """The name or address in a Host header, without its port; None for what is neither."""
    try:
        parts = urlsplit(f"//{host}")
        # looked at, as it raises for a port that is no number
        _ = parts.port
    except ValueError:
        return None
    is_plain = parts.netloc == host and parts.username is None and not parts.path
    return parts.hostname if is_plain else None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


WEIGHTS_HEADER = "X-Paddock-Weights"


class AnnounceDemo:
    """Adds a header to every answer that says that demo weights serve."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def announcing(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[WEIGHTS_HEADER] = "demo"
            await send(message)

        await self._app(scope, receive, announcing)
