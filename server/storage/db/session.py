"""How statements reach the database: on threads of their own, in transactions, with failures explained."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from server.storage.db.connection import reading
from server.storage.db.errors import explain

log = logging.getLogger("paddock.store")

_THREADS = 4

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
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._engine = engine
        self._outage: str | None = None

    @property
    def is_shared(self) -> bool:
        """Whether other servers may work on the same records. A SQLite database has one server."""
        return self._engine.dialect.name == "postgresql"

    def close(self) -> None:
        """End the threads; the database stays open."""
        self.threads.shutdown()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; raises RecordsUnavailableError while the database cannot be used."""
        with self._explained(), self._engine.begin() as tx:
            yield tx
        if self._outage is not None:
            log.info("the database can be written again")
            self._outage = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads one moment; raises RecordsUnavailableError while the database cannot be used."""
        with self._explained(), reading(self._engine) as tx:
            yield tx

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

    @property
    def server(self) -> str | None:
        """The unique name of this server."""
        return self._session.server

    @property
    def is_shared(self) -> bool:
        """Whether other servers may work on the same records."""
        return self._session.is_shared


Part = TypeVar("Part", bound=Repository)


def in_thread(method: Callable[Concatenate[Part, P], R]) -> Callable[Concatenate[Part, P], Coroutine[Any, Any, R]]:
    """Make a repository's method a coroutine that runs on a thread: a commit waits for the disk, the loop must not."""

    async def call(self: Part, /, *args: P.args, **kwargs: P.kwargs) -> R:
        work = functools.partial(method, self, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._session.threads, work)

    return functools.update_wrapper(call, method)
