"""`paddock webhook` and the webhooks of keys, without a server."""

import re
from pathlib import Path

import pytest

from server.service.notifications.webhooks.signing import secret_of
from server.storage.db.api_keys import KeyRing, digest, tenant_of
from server.storage.db.connection import opened
from server.storage.db.statements.signing_keys import keys_that_sign
from tests.support.command_line import Typed


def test_each_key_has_a_secret_and_so_has_a_server_without_keys(typed: Typed, tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    alone = typed("webhook", "secret", *data).stdout.strip()
    added = typed(
        "key", "add", "ann", "--webhook-url", "https://hooks.example/in", *data, PADDOCK_WEBHOOKS="hooks.example"
    )
    key = added.stdout.strip()

    unnamed = typed("webhook", "secret", *data)
    secrets = [
        typed("webhook", "secret", *more, *data).stdout.strip() for more in (("--key", "ann"), ("--api-key", key))
    ]

    with opened(f"sqlite:///{tmp_path / 'data' / 'paddock.db'}") as engine:
        signing_key = keys_that_sign(engine)[0]
        assert KeyRing(engine).all()[0].webhook_url == "https://hooks.example/in"
    assert alone == secret_of(signing_key, "")
    assert secrets == [secret_of(signing_key, tenant_of(digest(key)))] * 2
    assert unnamed.returncode == 2
    assert "name one with --key NAME" in unnamed.stderr
    assert "https://hooks.example/in" in re.sub(r"\s", "", typed("key", "list", *data, COLUMNS="200").stdout)
    assert "no valid key named bob" in typed("webhook", "secret", "--key", "bob", *data).stderr


@pytest.mark.parametrize(
    ("url", "setting", "sentence"),
    [
        ("https://hooks.example/", "", "the setting webhooks"),
        ("https://hooks.example/", "other.example", "a host that the setting webhooks"),
        ("http://127.0.0.1:8000/", "all", "must be a URL of a public address"),
        ("file:///etc/passwd", "all", "must be a URL with https: or http:"),
    ],
)
def test_what_a_request_may_not_name_the_command_may_not_either(
    typed: Typed, tmp_path: Path, url: str, setting: str, sentence: str
) -> None:
    data = ("--data-dir", str(tmp_path / "data"))

    for command in (("webhook", "test", url), ("key", "add", "ann", "--webhook-url", url)):
        ended = typed(*command, *data, PADDOCK_WEBHOOKS=setting)

        assert ended.returncode == 2, ended.stdout
        assert sentence in " ".join(ended.stderr.split())
        assert ended.stdout == ""


def test_an_event_that_does_not_arrive_is_a_failure(typed: Typed, tmp_path: Path) -> None:
    ended = typed(
        "webhook", "test", "https://nowhere.invalid/", "--data-dir", str(tmp_path / "data"), PADDOCK_WEBHOOKS="*"
    )

    assert ended.returncode == 1
    assert re.match(r"The event msg_\w+ did not arrive: the webhook is a URL", " ".join(ended.stderr.split()))
