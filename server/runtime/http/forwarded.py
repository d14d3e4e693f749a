"""Reverse proxies: which are trusted, and what they tell of a request: its client, scheme, host and path prefix.

The headers are X-Forwarded-For, -Proto, -Host and -Prefix. From any other peer they are ignored, and so is the header
Forwarded from everybody: proxies that write X-Forwarded headers pass on what a client has sent in it. A value that is
malformed counts as absent.
"""

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.middleware import host_name
from server.core.settings.sections import PATH_PREFIX

_MAX_CHARS = 255
"""Limit of a host and of a prefix."""

_PREFIX = re.compile(PATH_PREFIX)

Headers = Iterable[tuple[bytes, bytes]]


class TrustedProxies:
    """The peers whose X-Forwarded headers are believed."""

    def __init__(self, networks: Collection[IPv4Network | IPv6Network]) -> None:
        self._networks = networks

    def __contains__(self, address: object) -> bool:
        """Whether an address, as text, is one of them."""
        parsed = _parse(str(address))
        return parsed is not None and self._trusts(parsed)

    def client_of(self, peer: str, headers: Headers) -> str:
        """Return the address of a request's client: the last of X-Forwarded-For that is no trusted proxy's, or `peer`.

        Each proxy appends the address of its own peer, so what stands before an untrusted one may be made up.
        """
        client = peer
        if peer in self:
            for told in reversed(_told(headers, b"x-forwarded-for")):
                if (address := _parse(_without_port(told))) is None:
                    break
                client = str(address)
                if not self._trusts(address):
                    break
        return client

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


class ForwardedHeaders:
    """Gives requests from trusted proxies the client, scheme, host and prefix that the proxies tell.

    Of several values the last one counts: the nearest proxy wrote it, while a client may have sent the first. Proxies
    remove the prefix from the path. With `public_path`, the path of the setting `public_url`, none is read.
    """

    def __init__(self, app: ASGIApp, proxies: TrustedProxies, public_path: str | None) -> None:
        self._app = app
        self._proxies = proxies
        self._public_path = public_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with what is told of it."""
        if scope["type"] == "http":
            prefix = self._public_path or ""
            if scope.get("client") and scope["client"][0] in self._proxies:
                told_prefix = self._read(scope)
                if self._public_path is None:
                    prefix = told_prefix
            if prefix:
                # the whole path, as the client has sent it: ASGI wants it so
                scope["root_path"] = prefix
                scope["path"] = prefix + scope["path"]
                scope["raw_path"] = prefix.encode() + scope["raw_path"]
        await self._app(scope, receive, send)

    def _read(self, scope: Scope) -> str:
        """Set client, scheme and host; return the prefix."""
        headers = scope["headers"]
        peer, port = scope["client"]
        client = self._proxies.client_of(peer, headers)
        scope["client"] = (client, port if client == peer else 0)
        if (scheme := _last(headers, b"x-forwarded-proto").lower()) in ("http", "https"):
            scope["scheme"] = scheme
        host = _last(headers, b"x-forwarded-host")
        if host_name(host) is not None:
            # before the other, which BrowserGuard checks too: a page that has its own name point at this machine
            # can send X-Forwarded-Host, but not choose Host
            scope["headers"] = [(b"host", host.encode()), *headers]
        prefix = _last(headers, b"x-forwarded-prefix")
        return prefix.rstrip("/") if _PREFIX.fullmatch(prefix) else ""


def counted_as(address: str) -> str:
    """Return for what an address counts: one of IPv6 for its /64 network, all of which one client may have."""
    parsed = _parse(address)
    return str(IPv6Network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address


def plain_address(address: str) -> str:
    """Return the usual spelling of a peer's address: an IPv4 address that IPv6 wraps as IPv4."""
    parsed = _parse(address)
    return address if parsed is None else str(parsed)


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _without_port(address: str) -> str:
    """Return the address in ADDRESS, IPv4:PORT, [IPv6] or [IPv6]:PORT."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def _told(headers: Headers, name: bytes) -> list[str]:
    """Return the values of a header, of which a line may have several."""
    lines = b",".join(value for each, value in headers if each == name)
    return [value.strip() for value in lines.decode("latin-1").split(",")] if lines else []


def _last(headers: Headers, name: bytes) -> str:
    """Return the last value of a header, "" if there is none or if it is too long."""
    *_, last = ("", *_told(headers, name))
    return last if len(last) <= _MAX_CHARS else ""
