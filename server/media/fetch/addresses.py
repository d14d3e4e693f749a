"""Which URLs and addresses may be fetched from: those that anybody on the internet reaches."""

import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpx

from server.media.limits import RefusedInputError

SCHEMES = {"https": 443, "http": 80}
FIRST_FREE_PORT = 1024
"""Ports from here on are allowed, as are those of the schemes. Below are mail servers and the like."""

Address = IPv4Address | IPv6Address

# as inet_aton reads it, and with it the resolver: 2130706433, 0x7f.1 and 0177.0.0.1 are all 127.0.0.1
_NUMBERS = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}", re.IGNORECASE)
_LAST_IS_NUMBER = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)
_LOCAL_NAMES = re.compile(r"(?:.*\.)?(?:localhost|local|internal|home\.arpa)", re.IGNORECASE)

# for services of the host's own network: Azure's platform, and protocols of which Python knows only from later versions
_OF_THE_NETWORK = (IPv4Network("168.63.129.16/32"), IPv4Network("192.0.0.0/24"))

_NAT64 = IPv6Network("64:ff9b::/96")
# for the NAT64 of one network, and the tunnels of Teredo, whose other end nobody can tell
_UNKNOWN_ENDS = (IPv6Network("64:ff9b:1::/48"), IPv6Network("2001::/32"))


def checked_url(text: str) -> httpx.URL:
    """The URL that a text is. Raises RefusedInputError unless a client may have it fetched, as far as it tells itself.

    The addresses of its host have to be checked, too, when they are known.
    """
    try:
        url = httpx.URL(text.strip())
    except (httpx.InvalidURL, ValueError) as error:
        raise RefusedInputError("is not a valid URL") from error
    if url.scheme not in SCHEMES:
        raise RefusedInputError("must be a URL with https: or http:, or the image itself in base64 or as a data URL")
    host = url.raw_host.decode("ascii").rstrip(".")
    if not host:
        raise RefusedInputError("is a URL without a host")
    if "%" in host or (url.port or 0) > 65535:
        raise RefusedInputError("is not a valid URL")
    if url.userinfo:
        raise RefusedInputError("must be a URL without a user name and a password")
    port = SCHEMES[url.scheme] if url.port is None else url.port
    if port not in SCHEMES.values() and port < FIRST_FREE_PORT:
        raise RefusedInputError(f"must be a URL with port 80, 443, or one from {FIRST_FREE_PORT} on")
    if _LOCAL_NAMES.fullmatch(host):
        raise refused_address()
    address = _address(host)
    if address is not None and not is_public(address):
        raise refused_address()
    return url


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet, and not of this machine or of a network of its own.

    An IPv6 address that stands for an IPv4 address is as public as that is.
    """
    if isinstance(address, IPv4Address):
        return address.is_global and not (address.is_multicast or any(address in each for each in _OF_THE_NETWORK))
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_public(IPv4Address(address.packed[-4:]))
    inner = address.ipv4_mapped or address.sixtofour
    if inner is not None:
        return is_public(inner)
    if any(address in network for network in _UNKNOWN_ENDS):
        return False
    # reserved: also ::a.b.c.d
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_site_local)


def refused_address() -> RefusedInputError:
    """The error for a URL of a host that is not public."""
    return RefusedInputError("must be a URL of a public address")


def _address(host: str) -> Address | None:
    """The address that a host is, in any spelling that the resolver accepts; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    if _NUMBERS.fullmatch(host):
        try:
            return IPv4Address(socket.inet_aton(host))
        except OSError:
            pass
    if _LAST_IS_NUMBER.fullmatch(host):
        raise RefusedInputError("is not a valid URL")
    return None
