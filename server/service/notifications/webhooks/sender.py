"""Sends one event to a webhook, once."""

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from uuid import uuid4

import httpx

from server.media.fetch.exchange import Exchanges, TemporaryError
from server.media.limits import RefusedInputError
from server.service.notifications.webhooks.signing import signed_headers

ATTEMPT_SECONDS = 15.0
"""Limit of an attempt, from the resolution of the name to the head of the response."""

_JSON = {"Content-Type": "application/json", "Accept": "*/*"}


@dataclass(frozen=True, slots=True)
class TrialEvent:
    """An event that tells of no generation."""

    id: str
    body: bytes


def trial_event() -> TrialEvent:
    """A new event for a try."""
    event = {"type": "webhook.test", "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"), "data": {}}
    return TrialEvent(f"msg_{uuid4().hex}", json.dumps(event, separators=(",", ":")).replace("+00:00", "Z").encode())


class GoneError(RefusedInputError):
    """The receiver says that it wants no more events."""


class WebhookSender:
    """Sends events. Tests give it an internet of their own."""

    def __init__(self, exchanges: Exchanges | None = None) -> None:
        self._exchanges = exchanges or Exchanges()

    async def send(self, url: httpx.URL, secret: str, id_: str, body: bytes) -> int:
        """Send an event to a checked URL, signed as of now. Returns the HTTP status, which is of success.

        Nothing of the response but its status is read. Raises RefusedInputError, GoneError or TemporaryError.
        """
        headers = {**_JSON, **signed_headers(secret, id_, int(time.time()), body)}
        try:
            async with (
                asyncio.timeout(ATTEMPT_SECONDS),
                self._exchanges.response("POST", url, headers, body) as response,
            ):
                status = response.status
        except TimeoutError:
            raise TemporaryError(f"is a URL that did not answer within {ATTEMPT_SECONDS:g} seconds") from None
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return status
        error = GoneError if status == HTTPStatus.GONE else TemporaryError
        followed = ": redirects are not followed" if status < HTTPStatus.BAD_REQUEST else ""
        raise error(f"is a URL that answers with HTTP status {status}{followed}")
