"""Sharing a server on the local network: the addresses that other machines reach it by, and a key for them."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from urllib.parse import quote, urlsplit

import psutil

from server.core.settings.settings import Settings
from server.runtime.preflight import StartRefusedError
from server.storage.db.api_keys import LAN, KeyNameTakenError, KeyRing, are_there_any
from server.storage.db.connection import DatabaseUnusableError, database_of, opened
from server.storage.db.statements.signing_keys import keys_that_sign
from server.storage.files.stores import key_of

_NETWORKS = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
"""The networks of homes and offices, RFC 1918."""

_VIRTUAL = (
    *("docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "lxc", "lxd", "podman", "cni", "flannel", "cali"),
    *("tun", "tap", "utun", "wg", "zt", "tailscale", "ppp"),
)
"""How the names of interfaces begin that lead to containers and virtual machines, or through a tunnel."""

_NOT_HERE = ("203.0.113.1", 9)
"""An address that no machine has (RFC 5737), for asking which way packets would go."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """What another machine needs: the server's URLs without a trailing slash, the likeliest first, and a key."""

    urls: tuple[str, ...]
    key: str

    @property
    def addresses(self) -> list[str]:
        """The page's addresses with the key in the fragment, which browsers do not send to any server."""
        return [f"{url}/#key={quote(self.key, safe='')}" for url in self.urls]

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the address."""
        host = urlsplit(self.urls[0]).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def invite(settings: Settings, port: int) -> Invitation:
    """Return the invitation to a server that listens on `port`. Its key is made if there is none.

    Raises StartRefusedError.
    """
    urls = shared_urls(settings, port)
    try:
        with opened(database_of(settings)) as engine:
            key = KeyRing(engine).derived(LAN, keys_that_sign(engine, key_of(settings.data_dir)))
    except KeyNameTakenError as error:
        raise StartRefusedError(
            f"A key named {LAN} was made with `paddock key add`, and --lan needs this name for its own. Revoke it with "
            f"`paddock key revoke {LAN}`, and start again."
        ) from error
    except DatabaseUnusableError as error:
        raise StartRefusedError(str(error)) from error
    return Invitation(urls, key)


def find_invitation(settings: Settings) -> Invitation | None:
    """Return the invitation to a server that was shared on the port of the settings; None if its key is not valid.

    Raises StartRefusedError as `shared_urls` does, and DatabaseUnusableError.
    """
    urls = shared_urls(settings, settings.port)
    if not are_there_any(database_of(settings)):
        return None
    with opened(database_of(settings)) as engine:
        key = KeyRing(engine).find_derived(LAN, keys_that_sign(engine, key_of(settings.data_dir)))
    return None if key is None else Invitation(urls, key)


def for_the_network(settings: Settings) -> Settings:
    """Return the settings with a host that other machines reach: all addresses, if it is one of loopback."""
    return settings.model_copy(update={"host": "0.0.0.0"}) if settings.is_loopback else settings  # noqa: S104


def shared_urls(settings: Settings, port: int) -> tuple[str, ...]:
    """Return the URLs for other machines, without a trailing slash: that of `public_url`, else of the host.

    A host that stands for all addresses gives those of this machine. Raises StartRefusedError if it has none.
    """
    if settings.public_url is not None:
        return (settings.public_url.rstrip("/"),)
    hosts = [settings.host]
    if settings.host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        hosts = lan_addresses(_routed(), _interfaces())
    if not hosts:
        raise StartRefusedError(
            "This machine has no address on a local network. Connect it, or name the address to share with --host."
        )
    return tuple(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host in hosts)


def lan_addresses(routed: str | None, interfaces: Mapping[str, Sequence[str]]) -> list[str]:
    """Return this machine's IPv4 addresses by which others on its local networks may reach it, the likeliest first.

    `routed` is the address that packets to other networks come from, None without a route. `interfaces` has the
    addresses of each network interface by its name. Those of containers and tunnels count only if there is no other.
    """
    found = {IPv4Address(each): name for name, addresses in interfaces.items() for each in addresses}
    usable = [each for each in found if not (each.is_loopback or each.is_unspecified or each.is_multicast)]

    def rank(address: IPv4Address) -> tuple[bool, ...]:
        is_private = any(address in network for network in _NETWORKS)
        return found[address].startswith(_VIRTUAL), address.is_link_local, not is_private, str(address) != routed

    usable.sort(key=rank)
    real = [each for each in usable if not found[each].startswith(_VIRTUAL)]
    return [str(each) for each in real or usable]


def _routed() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # connecting a datagram socket sends nothing
            probe.connect(_NOT_HERE)
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _interfaces() -> dict[str, list[str]]:
    """The IPv4 addresses of the network interfaces that are up."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    return {
        name: [each.address for each in addresses if each.family == socket.AF_INET]
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
    }
