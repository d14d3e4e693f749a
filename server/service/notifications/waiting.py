"""Clients that wait for the results of their generations, and what it means when one leaves."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence

from server.core.errors import RETRY_AFTER, UnavailableError
from server.core.events import Broker, Subscription
from server.core.generation import Generation, Status

RETURN_SECONDS = 5.0
"""So long a client may take to send a request again, with its idempotency key, after its connection broke."""

Find = Callable[[str, str], Awaitable[Generation]]
"""Returns a tenant's generation by its id."""


class Waiting:
    """The waits of sync requests. `find` looks a generation up; `cancel` cancels one that has not started."""

    def __init__(self, broker: Broker, find: Find, cancel: Callable[[str, str], Awaitable[None]]) -> None:
        self._broker = broker
        self._find = find
        self._cancel = cancel
        self._is_closing = False
        self._waiters: Counter[str] = Counter()
        self._leaving: dict[str, asyncio.Task[None]] = {}
        """By generation: the cancellation that follows its last client's leaving."""

    def begin_closing(self) -> None:
        """End all waits. What has not started is cancelled at the next start of the server."""
        self._is_closing = True
        for task in self._leaving.values():
            task.cancel()

    async def results(self, tenant: str, ids: Sequence[str]) -> list[Generation]:
        """Wait until all of these have ended. Raises UnavailableError if the server stops before."""
        self._waiters.update(ids)
        try:
            await self._until_ended(tenant, ids)
        finally:
            self._waiters.subtract(ids)
            self._waiters += Counter()
        return [await self._find(tenant, id_) for id_ in ids]

    def leave(self, tenant: str, ids: Collection[str], *, may_return: bool) -> None:
        """A client that waited has disconnected: cancel what has not started, unless somebody else waits for it.

        With `may_return` the client gets RETURN_SECONDS to wait for the same generations again.
        """
        for id_ in ids:
            if (earlier := self._leaving.pop(id_, None)) is not None:
                earlier.cancel()
            patience = RETURN_SECONDS if may_return else 0.0
            self._leaving[id_] = asyncio.create_task(self._cancel_unless_awaited(tenant, id_, patience))

    async def _cancel_unless_awaited(self, tenant: str, id_: str, patience: float) -> None:
        await asyncio.sleep(patience)
        # from here on a newer leave must not stop it halfway
        self._leaving.pop(id_, None)
        if not self._waiters[id_]:
            await self._cancel(tenant, id_)

    async def _until_ended(self, tenant: str, ids: Sequence[str]) -> None:
        pending = set(ids)
        while pending:
            # a subscription may also end because it fell behind: then the records are read again
            if self._is_closing:
                raise await self._interrupted(tenant, pending)
            with self._broker.subscribe(tenant, ends_only=True) as subscription:
                pending -= {id_ for id_ in ids if (await self._find(tenant, id_)).is_terminal}
                await self._drain(subscription, pending)

    async def _interrupted(self, tenant: str, pending: Collection[str]) -> UnavailableError:
        waiting = [id_ for id_ in pending if (await self._find(tenant, id_)).status is Status.QUEUED]
        if waiting:
            return UnavailableError(
                "The server is stopping before this request was started. Send it again in a minute.", RETRY_AFTER
            )
        return UnavailableError(
            "The server is stopping. This request was started: it goes on when the server starts again. Ask for "
            f"{', '.join(sorted(pending))} then."
        )

    @staticmethod
    async def _drain(subscription: Subscription, pending: set[str]) -> None:
        """Take events until nothing is pending any more, or the subscription ends."""
        if not pending:
            return
        async for event in subscription:
            pending.discard(event.generation.id)
            if not pending:
                return
