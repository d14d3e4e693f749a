"""Which URLs are refused before anything is connected to, and which addresses are public."""

from ipaddress import ip_address

import pytest

from server.media.fetch.addresses import checked_url, is_public
from server.media.limits import RefusedInputError

NOT_PUBLIC = "must be a URL of a public address"
NOT_VALID = "is not a valid URL"
OTHER_SCHEME = "must be a URL with https: or http:, or the image itself in base64 or as a data URL"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("file:///etc/passwd", OTHER_SCHEME),
        ("ftp://example.com/ox.png", OTHER_SCHEME),
        ("blob:https://example.com/1", OTHER_SCHEME),
        ("gopher://example.com/", OTHER_SCHEME),
        ("http://localhost/", NOT_PUBLIC),
        ("http://LocalHost.:8000/", NOT_PUBLIC),
        ("http://ox.localhost/", NOT_PUBLIC),
        ("http://metadata.google.internal/", NOT_PUBLIC),
        ("http://127.0.0.1/", NOT_PUBLIC),
        ("http://127.0.0.1./", NOT_PUBLIC),
        ("http://127.1/", NOT_PUBLIC),
        ("http://2130706433/", NOT_PUBLIC),
        ("http://017700000001/", NOT_PUBLIC),
        ("http://0x7f000001/", NOT_PUBLIC),
        ("http://0X7F.1/", NOT_PUBLIC),
        ("http://0177.0.0.1/", NOT_VALID),
        ("http://0/", NOT_PUBLIC),
        ("http://0.0.0.0/", NOT_PUBLIC),
        ("http://10.1.2.3/", NOT_PUBLIC),
        ("http://100.64.0.1/", NOT_PUBLIC),
        ("http://169.254.169.254/latest", NOT_PUBLIC),
        ("http://0xa9fea9fe/latest", NOT_PUBLIC),
        ("http://224.0.0.1/", NOT_PUBLIC),
        ("http://[::1]/", NOT_PUBLIC),
        ("http://[::]/", NOT_PUBLIC),
        ("http://[fe80::1]/", NOT_PUBLIC),
        ("http://[fd00:ec2::254]/", NOT_PUBLIC),
        ("http://[::ffff:169.254.169.254]/", NOT_PUBLIC),
        ("http://[64:ff9b::10.0.0.1]/", NOT_PUBLIC),
        ("http://１２７.０.０.１/", NOT_VALID),
        ("http://%6cocalhost/", NOT_VALID),
        ("http://[fe80::1%25eth0]/", NOT_VALID),
        ("http://1.2.3.4.5/", NOT_VALID),
        ("http://256.1.1.1/", NOT_VALID),
        ("http://example.com:99999/", NOT_VALID),
        ("http://[::1", NOT_VALID),
        ("http://a\tb/", NOT_VALID),
        ("http:///ox.png", "is a URL without a host"),
        ("http:ox.png", "is a URL without a host"),
        ("http://me@example.com/", "must be a URL without a user name and a password"),
        ("http://example.com\\@127.0.0.1/", "must be a URL without a user name and a password"),
        ("http://example.com:25/", "must be a URL with port 80, 443, or one from 1024 on"),
        ("http://example.com:0/", "must be a URL with port 80, 443, or one from 1024 on"),
    ],
)
def test_a_url_that_is_not_fetched_says_why(url: str, sentence: str) -> None:
    with pytest.raises(RefusedInputError) as caught:
        checked_url(url)

    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/ox.png?size=9#top",
        " http://example.com:8080/ ",
        "http://example.com:443/",
        "http://93.184.216.34/",
        "http://0x5db8d822/",
        "http://[2606:2800:220:1:248:1893:25c8:1946]:8443/",
        "https://ünï.example/",
        "https://localhost.example/",
    ],
)
def test_urls_of_the_internet_are_fetched(url: str) -> None:
    assert checked_url(url).scheme in ("http", "https")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::8.8.8.8", True),
        ("2002:808:808::1", True),
        ("192.168.0.1", False),
        ("198.18.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("239.1.1.1", False),
        ("::ffff:10.0.0.1", False),
        ("::127.0.0.1", False),
        ("64:ff9b::169.254.169.254", False),
        ("64:ff9b:1::8.8.8.8", False),
        ("2002:7f00:1::1", False),
        ("2002:a9fe:a9fe::1", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("2001:db8::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("fe80::1%1", False),
        ("2606:4700::1111%1", False),
    ],
)
def test_addresses_that_stand_for_others_are_as_public_as_those(address: str, expected: bool) -> None:
    assert is_public(ip_address(address)) is expected
