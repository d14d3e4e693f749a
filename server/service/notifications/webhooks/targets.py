"""Where events may be sent, as the setting `webhooks` says, and what a request asks to be told of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from server.core.errors import InvalidParamsError
from server.core.generation import TERMINAL, WEBHOOK_EVENTS, Webhook, WebhookEvent
from server.core.settings.sections import ANY_HOST, SecuritySettings
from server.media.fetch import addresses
from server.media.limits import RefusedInputError

URL = "webhook_url"
EVENTS = "webhook_events"

MAX_URL_CHARS = 2048

DEFAULT_EVENTS = tuple(str(event) for status, event in WEBHOOK_EVENTS.items() if status in TERMINAL)
"""What a webhook is told without `webhook_events`."""

NOT_ALLOWED = "The webhook of this API key is not told: the setting webhooks does not allow its host."
NO_URL = f"{EVENTS} has no effect without {URL}: it was ignored."


@dataclass(frozen=True, slots=True)
class WebhookDefaults:
    """What holds for a request that says nothing else: `base`, which links begin with, and the webhook of its key."""

    base: str = ""
    url: str | None = None


def checked_target(url: str, settings: SecuritySettings) -> httpx.URL:
    """The URL that a text is. Raises RefusedInputError unless events may be sent there, as far as the URL itself tells.

    Its addresses are checked when it is connected to.
    """
    if len(url) > MAX_URL_CHARS:
        raise RefusedInputError(f"must have at most {MAX_URL_CHARS} characters")
    if url.strip().partition(":")[0].lower() not in addresses.SCHEMES:
        raise RefusedInputError("must be a URL with https: or http:")
    if not settings.webhooks:
        raise RefusedInputError(
            "is not supported by this server: its operator allows hosts with the setting webhooks (PADDOCK_WEBHOOKS)"
        )
    target = addresses.checked_url(url)
    host = target.raw_host.decode("ascii").rstrip(".")
    if ANY_HOST not in settings.webhooks and host not in settings.webhooks:
        raise RefusedInputError("must be a URL of a host that the setting webhooks (PADDOCK_WEBHOOKS) allows")
    return target


def requested_webhook(
    body: Mapping[str, Any], settings: SecuritySettings, defaults: WebhookDefaults
) -> tuple[Webhook | None, tuple[str, ...]]:
    """The webhook of a request's generations, if there is one, and what its sender should know. Raises
    InvalidParamsError.
    """
    events = _events(body.get(EVENTS))
    if (url := body.get(URL)) is not None:
        if not isinstance(url, str):
            raise InvalidParamsError(f"{URL} must be a string: a URL with https: or http:")
        try:
            checked_target(url, settings)
        except RefusedInputError as error:
            raise InvalidParamsError(f"{URL} {error}.") from None
        return Webhook(url.strip(), events or DEFAULT_EVENTS, defaults.base), ()
    if defaults.url is None:
        return None, (NO_URL,) if events else ()
    try:
        checked_target(defaults.url, settings)
    except RefusedInputError:
        return None, (NOT_ALLOWED,)
    return Webhook(defaults.url, events or DEFAULT_EVENTS, defaults.base), ()


def _events(given: Any) -> tuple[str, ...]:
    """The events that a request names; none if it names none."""
    if given is None:
        return ()
    known = [str(event) for event in WebhookEvent]
    if not isinstance(given, list) or any(each not in known for each in given) or len(set(given)) < len(given):
        raise InvalidParamsError(f"{EVENTS} must be a list of some of {', '.join(known)}, each once")
    return tuple(given)
