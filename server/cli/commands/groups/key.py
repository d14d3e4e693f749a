"""`paddock key`: add, list and revoke API keys."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from server.cli.options import (
    Config,
    DataDir,
    Host,
    Port,
    console,
    error_console,
    load_settings,
    opened_records,
    refuse,
)
from server.cli.terminal import plain, qr_code, takes_text

if TYPE_CHECKING:
    from server.core.settings.settings import Settings
    from server.runtime.lan import Invitation
    from server.storage.db.api_keys import KeyRing

app = typer.Typer(help="Add, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="The key's name, such as that of a person or a machine.")]
Admin = Annotated[
    bool, typer.Option("--admin", help="Let it load and unload models, and from then on only keys like it.")
]
WebhookUrl = Annotated[
    str | None, typer.Option(help="The URL that is told of all that is made with it, where a request names no other.")
]

_MAX_NAME = 100


@app.command()
@takes_text
def add(
    name: Name,
    admin: Admin = False,
    webhook_url: WebhookUrl = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Make a key and print it once. Only its digest is stored. A running server accepts it within a second."""
    if not name.isprintable() or not name.strip() or len(name) > _MAX_NAME:
        refuse(f"NAME must be 1 to {_MAX_NAME} printable characters, such as the name of a person or a machine.")
    if webhook_url is not None:
        _check_webhook(webhook_url, load_settings(config, data_dir=data_dir))
    with _key_ring(config, data_dir) as ring:
        typer.echo(ring.add(name, is_admin=admin, webhook_url=webhook_url))
    error_console.print("The key is shown only now. Send it as: Authorization: Bearer KEY", highlight=False)
    if admin:
        error_console.print("While it is valid, only admin keys may load and unload models.", highlight=False)


@app.command("list")
@takes_text
def list_keys(data_dir: DataDir = None, config: Config = None) -> None:
    """List the names of all keys, also of revoked ones."""
    with _key_ring(config, data_dir) as ring:
        found = ring.all()
    has_webhooks = any(key.webhook_url for key in found)
    table = Table("name", "admin", "created", "revoked", *(["webhook"] if has_webhooks else []))
    for key in found:
        webhook = [plain(key.webhook_url or "")] if has_webhooks else []
        is_admin = "yes" if key.is_admin else ""
        table.add_row(plain(key.name), is_admin, _moment(key.made_at), _moment(key.revoked_at), *webhook)
    console.print(table)


@app.command()
@takes_text
def revoke(name: Name, data_dir: DataDir = None, config: Config = None) -> None:
    """Revoke a key. Its generations are kept but no longer accessible. A running server refuses it within a second."""
    with _key_ring(config, data_dir) as ring:
        ring.revoke(name)
        found = ring.all()
    error_console.print(f"The key {name} is revoked.", highlight=False, markup=False)
    valid = [key for key in found if key.is_valid]
    if not valid:
        error_console.print("No valid key is left, and the server still requires one: make one with `paddock key add`.")
    elif any(key.is_admin for key in found if key.name == name) and not any(key.is_admin for key in valid):
        error_console.print("No valid admin key is left: every key may load and unload models.")


@app.command()
@takes_text
def lan(host: Host = None, port: Port = None, data_dir: DataDir = None, config: Config = None) -> None:
    """Print the address and QR code of `paddock serve --lan` again. The options are those of the server."""
    settings = load_settings(config, host=host, port=port, data_dir=data_dir)
    from server.runtime.lan import find_invitation, for_the_network
    from server.runtime.preflight import StartRefusedError, unusable
    from server.storage.db.connection import DatabaseUnusableError

    try:
        invitation = find_invitation(settings if host is not None else for_the_network(settings))
    except (DatabaseUnusableError, StartRefusedError) as error:
        refuse(str(error))
    except OSError as error:
        refuse(unusable(settings.data_dir, error))
    if invitation is None:
        refuse("There is no valid key for the local network. `paddock serve --lan` makes one.")
    print_invitation(invitation)


def print_invitation(invitation: "Invitation") -> None:
    """Print the addresses that have the key, and on a terminal the first one as a QR code."""
    address, *others = invitation.addresses
    lines = ["Open this address on another device of the local network, or scan the code:"]
    if sys.stdout.isatty() and (code := qr_code(address, sys.stdout.encoding, console.width)) is not None:
        lines += ["", code]
    lines += ["", address, *(f"or {other}" for other in others), ""]
    if invitation.is_local:
        lines.append("Only this machine reaches this address. Leave out --host to listen on the local network.")
    lines.append("It contains the API key lan: whoever has it can use the server, until `paddock key revoke lan`.")
    lines.append("From now on the server requires a key, also on this machine: open the same address there.")
    # not through Rich, which would wrap and mark up what must stay as it is
    print(*lines, sep="\n", flush=True)


def _check_webhook(url: str, settings: "Settings") -> None:
    from server.media.limits import RefusedInputError
    from server.service.notifications.webhooks.targets import checked_target

    try:
        checked_target(url, settings)
    except RefusedInputError as error:
        refuse(f"--webhook-url {error}.")


@contextmanager
def _key_ring(config: Path | None, data_dir: Path | None) -> Iterator["KeyRing"]:
    # before the imports: SQLite asks for its temporary folder only once
    settings = load_settings(config, data_dir=data_dir)
    from server.storage.db.api_keys import KeyNameTakenError, KeyNotFoundError, KeyRing

    try:
        with opened_records(settings) as engine:
            yield KeyRing(engine)
    except KeyNameTakenError as error:
        refuse(f"A key named {error} exists or has been revoked. Choose another name.")
    except KeyNotFoundError as error:
        refuse(f"There is no valid key named {error}. `paddock key list` shows all keys.")


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
