"""How statements reach the database: on threads of their own, in transactions, with failures explained."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from server.storage.db.connection import reading
from server.storage.db.errors import explain
from server.storage.db.records import StatementTimeoutError
from server.storage.db.sharing.changes import announce

log = logging.getLogger("paddock.store")


class Pool(StrEnum):
    """The threads that a statement runs on, so that slow statements of one kind do not delay those of another."""

    WRITES = "writes"
    READS = "reads"
    SEARCHES = "searches"


_THREADS = {Pool.WRITES: 4, Pool.READS: 4, Pool.SEARCHES: 2}
_SQLITE_THREADS = {**_THREADS, Pool.WRITES: 1}
"""SQLite has one writer at a time: others would wait for it asleep, and not in their order."""

_CHECK_INSTRUCTIONS = 100
"""SQLite checks the time limit of a statement after so many of its instructions."""

P = ParamSpec("P")
R = TypeVar("R")
Clock = Callable[[], float]


class Session:
    """Threads and transactions on an open database, shared by all parts of a store.

    `server` is the unique name of this server, and the start of the name of every owner of its claims; None for a
    program that is no server. `now` is the time in Unix seconds.
    """

    def __init__(self, engine: Engine, now: Clock = time.time, server: str | None = None) -> None:
        self.server = server
        self.now = now
        self.engine = engine
        self.threads = {
            pool: ThreadPoolExecutor(count, thread_name_prefix=f"store-{pool}")
            for pool, count in (_THREADS if self.is_shared else _SQLITE_THREADS).items()
        }
        self._outage: str | None = None

    @property
    def is_shared(self) -> bool:
        """Whether other servers may work on the same records. A SQLite database has one server."""
        return self.engine.dialect.name == "postgresql"

    def close(self) -> None:
        """End the threads; the database stays open."""
        for threads in self.threads.values():
            threads.shutdown()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; raises RecordsUnavailableError while the database cannot be used."""
        with self._explained(), self.engine.begin() as tx:
            yield tx
        if self._outage is not None:
            log.info("the database can be written again")
            self._outage = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads one moment; raises RecordsUnavailableError while the database cannot be used."""
        with self._explained(), reading(self.engine) as tx:
            yield tx

    @contextmanager
    def read_within(self, seconds: float) -> Iterator[Connection]:
        """A transaction like that of `read`, in which statements take so long at most; raises StatementTimeoutError."""
        deadline = time.monotonic() + seconds
        with self._explained(), reading(self.engine) as tx:
            try:
                with time_limit(tx, seconds):
                    yield tx
            except DBAPIError as error:
                if time.monotonic() < deadline:
                    raise
                raise StatementTimeoutError from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Tell an outage of the database from a bug. An outage is logged once, however many calls meet it."""
        try:
            yield
        except DBAPIError as error:
            unavailable = explain(error)
            if unavailable is None:
                raise
            if self._outage != str(unavailable):
                self._outage = str(unavailable)
                log.warning("%s (%s) %s", unavailable, error.orig, unavailable.advice)
            raise unavailable from error


class Repository:
    """Base of the parts of a store: each is the statements of one topic, on one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def turn(self, tenant: str) -> asyncio.Semaphore:
        """What one statement of a tenant at a time holds, so that the threads are not busy with a single tenant."""
        return self._turns.setdefault(tenant, asyncio.Semaphore())

    @property
    def server(self) -> str | None:
        """The unique name of this server."""
        return self._session.server

    @property
    def is_shared(self) -> bool:
        """Whether other servers may work on the same records."""
        return self._session.is_shared

    def tell(self, tx: Connection, ids: Iterable[str]) -> None:
        """Tell other servers, once a transaction commits, that it has changed these generations."""
        announce(tx, self.server, ids)


Part = TypeVar("Part", bound=Repository)


Method = Callable[Concatenate[Part, P], R]
Coroutines = Callable[Concatenate[Part, P], Coroutine[Any, Any, R]]


def in_thread_of(pool: Pool) -> Callable[[Method[Part, P, R]], Coroutines[Part, P, R]]:
    """Make a repository's method a coroutine that runs on a thread: a commit waits for the disk, the loop must not."""

    def decorate(method: Method[Part, P, R]) -> Coroutines[Part, P, R]:
        async def call(self: Part, /, *args: P.args, **kwargs: P.kwargs) -> R:
            work = functools.partial(method, self, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._session.threads[pool], work)

        return functools.update_wrapper(call, method)

    return decorate


def in_thread(method: Method[Part, P, R]) -> Coroutines[Part, P, R]:
    """Make a repository's method that writes, or that the scheduler needs, a coroutine on a thread."""
    return in_thread_of(Pool.WRITES)(method)


@contextmanager
def time_limit(tx: Connection, seconds: float) -> Iterator[None]:
    """Let statements on a connection fail after so many seconds."""
    if tx.dialect.name == "postgresql":
        # until the end of the transaction
        tx.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, round(seconds * 1000))}")
        yield
        return
    deadline = time.monotonic() + seconds
    driver: Any = tx.connection.driver_connection
    driver.set_progress_handler(lambda: time.monotonic() > deadline, _CHECK_INSTRUCTIONS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)
