"""`paddock webhook`: print the secret that signs events, and send a test event."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import ApiKey, Config, DataDir, console, fail, load_settings, opened_records, refuse
from server.cli.terminal import plain, takes_text

if TYPE_CHECKING:
    from server.core.settings.settings import Settings
    from server.storage.db.api_keys import KeyRing

app = typer.Typer(help="Try webhooks, and print their secret.", no_args_is_help=True, rich_markup_mode=None)

Key = Annotated[str | None, typer.Option("--key", help="The name of the API key whose events are meant.")]


@app.command()
@takes_text
def secret(key: Key = None, api_key: ApiKey = None, data_dir: DataDir = None, config: Config = None) -> None:
    """Print the secret by which receivers verify events. Each API key has its own. Keep it as you keep a password."""
    with _secret(load_settings(config, data_dir=data_dir), key, api_key) as found:
        typer.echo(found)


@app.command()
@takes_text
def test(
    url: Annotated[str, typer.Argument(help="The webhook's URL.")],
    key: Key = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Send a signed test event from here, by the rules of the server, and print what answered."""
    settings = load_settings(config, data_dir=data_dir)
    from server.media.limits import RefusedInputError
    from server.service.notifications.webhooks.sender import WebhookSender, trial_event
    from server.service.notifications.webhooks.targets import checked_target

    try:
        target = checked_target(url, settings)
    except RefusedInputError as error:
        refuse(f"URL {error}.")
    with _secret(settings, key, api_key) as found:
        event = trial_event()
        try:
            status = asyncio.run(WebhookSender().send(target, found, event.id, event.body))
        except RefusedInputError as error:
            fail(f"The event {event.id} did not arrive: the webhook {error}.")
    console.print(plain(f"The event {event.id} arrived: HTTP status {status}."), highlight=False)


@contextmanager
def _secret(settings: "Settings", name: str | None, api_key: str | None) -> Iterator[str]:
    from server.service.notifications.webhooks.signing import secret_of
    from server.storage.db.api_keys import KeyRing, digest, tenant_of
    from server.storage.db.statements.signing_keys import keys_that_sign
    from server.storage.files.stores import key_of

    with opened_records(settings) as engine:
        signing_key = keys_that_sign(engine, key_of(settings.data_dir))[0]
        if name is not None:
            tenant = tenant_of(_digest_of(KeyRing(engine), name))
        elif api_key is not None:
            tenant = tenant_of(digest(api_key))
        elif settings.api_keys or KeyRing(engine).all():
            refuse("Each API key has a secret of its own: name one with --key NAME, or give it with --api-key.")
        else:
            tenant = ""
        yield secret_of(signing_key, tenant)


def _digest_of(ring: "KeyRing", name: str) -> str:
    found = next((key.digest for key in ring.all() if key.name == name and key.is_valid), None)
    if found is None:
        refuse(f"There is no valid key named {name}. `paddock key list` shows all keys.")
    return found
