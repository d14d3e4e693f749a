"""Delivers events to webhooks, also those that were recorded before a restart, until they arrive or are given up."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from server.core.errors import RecordsUnavailableError
from server.core.events import Broker, Event
from server.core.settings.sections import SecuritySettings
from server.media.limits import RefusedInputError
from server.service.notifications.webhooks.sender import GoneError, WebhookSender
from server.service.notifications.webhooks.targets import checked_target
from server.storage.webhooks.deliveries import Deliveries, Delivery

MAX_AT_ONCE = 16
MAX_AT_ONCE_OF_TENANT = 4
"""So many events are sent at once, in all and of one tenant."""

PAUSES = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0, 28_800.0)
"""The pauses in seconds after failed attempts, but for up to a fifth of each: about a day in all."""

MAX_AGE_SECONDS = 3 * 24 * 3600.0
"""An event that is older is not tried again."""

KEPT_SECONDS = 7 * 24 * 3600.0
"""How long the records tell that a delivery has ended."""

LOOK_SECONDS = 2.0
LOOK_SECONDS_IF_OFF = 60.0
TIDY_SECONDS = 60.0

log = logging.getLogger("paddock.webhooks")


class WebhookDelivery:
    """Sends what is due. `render` makes the body of an event, and `secret` is that of a tenant.

    Events of tenants that the server no longer `accepts` are not sent.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        broker: Broker,
        render: Callable[[Delivery], bytes],
        secret: Callable[[str], str],
        accepts: Callable[[str], bool],
        settings: SecuritySettings,
        sender: WebhookSender | None = None,
    ) -> None:
        self._deliveries = deliveries
        self._render = render
        self._secret = secret
        self._accepts = accepts
        self._settings = settings
        self._sender = sender or WebhookSender()
        self._wake = asyncio.Event()
        self._running: dict[asyncio.Task[None], str] = {}
        """The tenant of each attempt."""
        self._has_released = False
        self._tidied_at = float("-inf")
        broker.observe(self._note)

    async def run(self) -> None:
        """Deliver for as long as this runs. What is under way when it ends is sent again later."""
        pause = LOOK_SECONDS if self._settings.webhooks else LOOK_SECONDS_IF_OFF
        try:
            while True:
                self._wake.clear()
                await self._look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _note(self, event: Event) -> None:
        if event.live is None and event.generation.webhook is not None:
            self._wake.set()

    async def _look(self) -> None:
        try:
            if not self._has_released:
                await self._deliveries.release()
                self._has_released = True
            await self._begin()
            if time.monotonic() - self._tidied_at >= TIDY_SECONDS:
                await self._tidy()
        except (RecordsUnavailableError, SQLAlchemyError) as error:
            log.info("events for webhooks were not read: %s", error)
        except Exception:
            log.exception("events for webhooks were not read")

    async def _begin(self) -> None:
        """Begin to send what is due, as much as may be sent at once."""
        while len(self._running) < MAX_AT_ONCE:
            counts = Counter(self._running.values())
            busy = [tenant for tenant, count in counts.items() if count >= MAX_AT_ONCE_OF_TENANT]
            if (delivery := await self._deliveries.claim(busy)) is None:
                return
            task = asyncio.create_task(self._attempt(delivery))
            self._running[task] = delivery.generation.tenant
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._wake.set()

    async def _tidy(self) -> None:
        await self._deliveries.remove_ended(time.time() - KEPT_SECONDS)
        if given_up := await self._deliveries.give_up_excess():
            log.warning("%d events for webhooks were given up: too many of a key are waiting", given_up)
        self._tidied_at = time.monotonic()

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            await self._send(delivery)
        except (RecordsUnavailableError, SQLAlchemyError) as error:
            log.warning("what came of the event %s was not recorded, so it is sent again: %s", delivery.id, error)
        except Exception:
            log.exception("the event %s was not sent: unexpected error", delivery.id)
            with suppress(RecordsUnavailableError, SQLAlchemyError):
                await self._deliveries.failed(delivery, "unexpected error", pause_after(delivery))

    async def _send(self, delivery: Delivery) -> None:
        webhook = delivery.generation.webhook
        assert webhook is not None, "it is recorded for webhooks only"
        if not self._accepts(delivery.generation.tenant):
            await self._give_up(delivery, "is that of an API key which is no longer valid")
            return
        try:
            # the settings may have changed since it was recorded
            target = checked_target(webhook.url, self._settings)
        except RefusedInputError as error:
            await self._give_up(delivery, str(error))
            return
        try:
            secret = self._secret(delivery.generation.tenant)
            status = await self._sender.send(target, secret, delivery.id, self._render(delivery))
        except GoneError as error:
            await self._give_up(delivery, str(error))
        except RefusedInputError as error:
            if (pause := pause_after(delivery)) is None:
                await self._give_up(delivery, str(error))
                return
            await self._deliveries.failed(delivery, str(error), pause)
            log.info("%s: the webhook %s; trying again in %.0f s", _named(delivery), error, pause)
        else:
            await self._deliveries.delivered(delivery)
            log.info("%s was delivered: HTTP status %d", _named(delivery), status)

    async def _give_up(self, delivery: Delivery, error: str) -> None:
        await self._deliveries.failed(delivery, error, None)
        log.warning("%s was given up after %d attempts: the webhook %s", _named(delivery), delivery.failures + 1, error)


def pause_after(delivery: Delivery) -> float | None:
    """The seconds until the next attempt after this one has failed; None if there is none."""
    if delivery.failures >= len(PAUSES):
        return None
    # several that failed together are not sent together again
    pause = PAUSES[delivery.failures] * random.uniform(0.8, 1.0)  # noqa: S311
    return None if time.time() + pause - delivery.created_at > MAX_AGE_SECONDS else pause


def _named(delivery: Delivery) -> str:
    return f"{delivery.type} of {delivery.generation.id} ({delivery.id})"
