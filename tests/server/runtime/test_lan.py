"""Which addresses are shared on the local network."""

from pathlib import Path
from typing import Any

import pytest

from server.core.settings.settings import Settings
from server.runtime import lan
from server.runtime.lan import Invitation, for_the_network, lan_addresses, shared_urls
from server.runtime.preflight import StartRefusedError

LO = {"lo": ["127.0.0.1"]}
ANY = "0.0.0.0"  # noqa: S104 - compared, not listened on


def settings(tmp_path: Path, **given: Any) -> Settings:
    return Settings(data_dir=tmp_path, **given)


@pytest.mark.parametrize(
    ("routed", "interfaces", "expected"),
    [
        ("192.168.1.23", {"wlan0": ["192.168.1.23"]}, ["192.168.1.23"]),
        # the one that leads on comes first
        ("10.0.0.5", {"eth0": ["192.168.1.23"], "wlan0": ["10.0.0.5"]}, ["10.0.0.5", "192.168.1.23"]),
        # a tunnel or a bridge of containers is no local network
        ("10.8.0.2", {"tun0": ["10.8.0.2"], "wlan0": ["192.168.1.23"]}, ["192.168.1.23"]),
        (None, {"docker0": ["172.17.0.1"], "eth0": ["192.168.1.23"]}, ["192.168.1.23"]),
        # unless there is nothing else
        ("100.64.0.7", {"tailscale0": ["100.64.0.7"]}, ["100.64.0.7"]),
        # without a route, as in a network that leads nowhere
        (None, {"eth0": ["192.168.1.23"]}, ["192.168.1.23"]),
        # a public address and one that a machine gave itself are less likely
        ("8.8.4.4", {"eth0": ["8.8.4.4"], "eth1": ["10.0.0.5"]}, ["10.0.0.5", "8.8.4.4"]),
        ("169.254.3.4", {"eth0": ["169.254.3.4"], "eth1": ["8.8.4.4"]}, ["8.8.4.4", "169.254.3.4"]),
        (None, {}, []),
    ],
)
def test_the_likeliest_address_is_first(
    routed: str | None, interfaces: dict[str, list[str]], expected: list[str]
) -> None:
    assert lan_addresses(routed, {**LO, **interfaces}) == expected


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        ({"host": "192.168.1.7"}, ("http://192.168.1.7:9000",)),
        ({"host": "workstation.local"}, ("http://workstation.local:9000",)),
        ({"host": "fd00::7"}, ("http://[fd00::7]:9000",)),
        ({"host": ANY}, ("http://192.168.1.23:9000", "http://10.0.0.5:9000")),
        ({"host": "::"}, ("http://192.168.1.23:9000", "http://10.0.0.5:9000")),
        ({"host": ANY, "public_url": "https://paddock.home/videos/"}, ("https://paddock.home/videos",)),
    ],
)
def test_a_named_host_is_shared_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], urls: tuple[str, ...]
) -> None:
    monkeypatch.setattr(lan, "_interfaces", lambda: {"eth0": ["10.0.0.5"], "wlan0": ["192.168.1.23"]})
    monkeypatch.setattr(lan, "_routed", lambda: "192.168.1.23")

    assert shared_urls(settings(tmp_path, **given), 9000) == urls


def test_without_an_address_the_start_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lan, "_interfaces", lambda: LO)
    monkeypatch.setattr(lan, "_routed", lambda: None)

    with pytest.raises(StartRefusedError, match="no address on a local network"):
        shared_urls(settings(tmp_path, host=ANY), 9000)


def test_a_host_that_others_reach_is_kept(tmp_path: Path) -> None:
    assert for_the_network(settings(tmp_path)).host == ANY
    assert for_the_network(settings(tmp_path, host="localhost")).host == ANY
    assert for_the_network(settings(tmp_path, host="192.168.1.7")).host == "192.168.1.7"


def test_this_machine_has_the_addresses_that_are_found() -> None:
    found = lan._interfaces()
    assert "127.0.0.1" in [each for addresses in found.values() for each in addresses]


def test_a_key_is_written_so_that_a_fragment_can_hold_it() -> None:
    invitation = Invitation(("http://192.168.1.23:8000", "http://10.0.0.5:8000"), "a b&%#ü")

    assert invitation.addresses == [
        "http://192.168.1.23:8000/#key=a%20b%26%25%23%C3%BC",
        "http://10.0.0.5:8000/#key=a%20b%26%25%23%C3%BC",
    ]
    assert not invitation.is_local
    for local in ("http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000"):
        assert Invitation((local,), "").is_local
