"""Locks between the servers on one PostgreSQL database. A server that dies lets go of its own.

A lock is held by a transaction, which nothing else is done in: so it works behind any pooler of connections.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from enum import IntEnum

from sqlalchemy import func, select, text

from server.storage.db.session import Repository, in_thread

WAIT_SECONDS = 30
"""So long a lock that others hold is waited for."""


class Lock(IntEnum):
    """What may be locked."""

    TIDYING = 0x5041_0004
    """Looking for what is kept no longer, and removing it."""
    INPUTS = 0x5041_0005
    """Shared to write inputs or let them count as new, exclusive to remove old ones."""
    STILLS = 0x5041_0006
    """Drawing the stills of videos that have none."""


class Locks(Repository):
    """The locks of one server. On SQLite, where there is one server, they are always free.

    The end of each raises RecordsUnavailableError if the connection was lost meanwhile, and the lock with it.
    """

    @asynccontextmanager
    async def tried(self, lock: Lock) -> AsyncIterator[bool]:
        """Hold a lock while this lasts; False if another server holds or shares it: then it is not held."""
        async with self._held(lock, is_shared=False) as is_held:
            yield is_held

    @asynccontextmanager
    async def shared(self, lock: Lock) -> AsyncIterator[None]:
        """Share a lock while this lasts, after no other server holds it.

        Raises RecordsUnavailableError if that takes longer than WAIT_SECONDS.
        """
        async with self._held(lock, is_shared=True):
            yield

    @asynccontextmanager
    async def _held(self, lock: Lock, *, is_shared: bool) -> AsyncIterator[bool]:
        if not self.is_shared:
            yield True
            return
        taking = asyncio.ensure_future(self._take(lock, is_shared))
        is_cancelled = False
        try:
            _, is_held = await asyncio.shield(taking)
            yield is_held
        except asyncio.CancelledError:
            is_cancelled = True
            raise
        finally:
            try:
                # if this is cancelled, the thread goes on to take it
                await asyncio.shield(self._let_go(taking))
            except Exception:
                # it must not take the place of the cancellation, or whoever waits for the task's end waits for ever
                if not is_cancelled:
                    raise

    async def _let_go(self, taking: "asyncio.Future[tuple[ExitStack, bool]]") -> None:
        await asyncio.wait({taking})
        if taking.exception() is None:
            await self._end(taking.result()[0])

    @in_thread
    def _take(self, lock: Lock, is_shared: bool) -> tuple[ExitStack, bool]:
        with ExitStack() as stack:
            tx = stack.enter_context(self._session.write())
            if is_shared:
                tx.execute(text(f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'"))
                tx.execute(select(func.pg_advisory_xact_lock_shared(lock.value)))
                return stack.pop_all(), True
            is_held = bool(tx.scalar(select(func.pg_try_advisory_xact_lock(lock.value))))
            return stack.pop_all(), is_held

    @in_thread
    def _end(self, stack: ExitStack) -> None:
        stack.close()
