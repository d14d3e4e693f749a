"""Sees through what recorded generations await, and lets these be claimed."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Generic, Protocol, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from server.core.errors import RecordsUnavailableError
from server.core.events import Broker, Event
from server.core.generation import Generation, Status
from server.storage.db.statements.awaited_inputs import AwaitedInputs

LOOK_AGAIN_SECONDS = 60.0
BACKOFF_SECONDS = 2.0


class Awaited(Protocol):
    """Something that generations of a tenant await; `url` is what their records name it by. It can be hashed."""

    @property
    def tenant(self) -> str:
        """Whose generations they are."""

    @property
    def url(self) -> str:
        """The URL of an input, or the name of a prompt."""


What = TypeVar("What", bound=Awaited)


@dataclass(eq=False)
class Job(Generic[What]):
    """The work on something that generations await. `ids` are those that still do."""

    what: What
    ids: set[str]
    task: asyncio.Task[None] | None = field(default=None)


class GivenUpError(Exception):
    """The generations that await something fail; `str()` is the sentence for their user."""


class AwaitedWork(ABC, Generic[What]):
    """Works on what the records say is awaited: what was recorded before a restart, too.

    `on_arrived` is called when generations may be claimed.
    """

    log: ClassVar[logging.Logger]
    name: ClassVar[str]
    """What is awaited, as a word of the log."""

    def __init__(self, awaited_inputs: AwaitedInputs, broker: Broker, on_arrived: Callable[[], None]) -> None:
        self._awaited_inputs = awaited_inputs
        self._broker = broker
        self._on_arrived = on_arrived
        self._wake = asyncio.Event()
        self._jobs: dict[str, Job[What]] = {}
        """The job of each generation."""
        self._looking: asyncio.Task[None] | None = None
        broker.observe(self._note)

    @abstractmethod
    async def _awaited(self) -> Iterable[tuple[What, str]]:
        """What is awaited now, each with the id of a generation. Raises RecordsUnavailableError."""

    @abstractmethod
    async def _complete(self, job: Job[What]) -> Sequence[Generation]:
        """The generations of a job that still await it, with what they await; none if they are left waiting.

        Raises GivenUpError; and RecordsUnavailableError or SQLAlchemyError to be tried again.
        """

    @abstractmethod
    def _fault(self, what: What) -> str:
        """The sentence for users whose generations fail by a bug."""

    def start(self) -> None:
        """Begin to work."""
        self._looking = asyncio.create_task(self._look())

    def stop(self) -> None:
        """Stop at once. What is awaited is worked on after the next start."""
        for task in (self._looking, *{job.task for job in self._jobs.values()}):
            if task is not None:
                task.cancel()

    async def ended(self) -> None:
        """Wait until all that was stopped has ended, and uses no records and files any more."""
        tasks = {task for task in (self._looking, *(job.task for job in self._jobs.values())) if task is not None}
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """Look at the records: a generation was added that awaits something, or awaits something else now."""
        self._wake.set()

    def _note(self, event: Event) -> None:
        """Stop to work on what nothing awaits any more."""
        if event.generation.status is not Status.CANCELLED:
            return
        job = self._jobs.get(event.generation.id)
        if job is not None:
            job.ids.discard(event.generation.id)
            if not job.ids and job.task is not None:
                job.task.cancel()

    async def _look(self) -> None:
        while True:
            self._wake.clear()
            try:
                self._begin(await self._awaited())
            except RecordsUnavailableError:
                # the store has logged it
                await asyncio.sleep(BACKOFF_SECONDS)
                continue
            except Exception:
                self.log.exception("the awaited %ss were not read; trying again in %g s", self.name, LOOK_AGAIN_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                    await self._wake.wait()

    def _begin(self, awaited: Iterable[tuple[What, str]]) -> None:
        """Begin with what is not being worked on already, once for all that await it now."""
        new: dict[What, set[str]] = {}
        for what, id_ in awaited:
            if id_ not in self._jobs:
                new.setdefault(what, set()).add(id_)
        for what, ids in new.items():
            job = Job(what, ids)
            self._jobs |= dict.fromkeys(ids, job)
            job.task = asyncio.create_task(self._see_through(job))
            job.task.add_done_callback(partial(self._end, frozenset(ids)))

    def _end(self, ids: Iterable[str], _: object) -> None:
        for id_ in ids:
            self._jobs.pop(id_, None)

    async def _see_through(self, job: Job[What]) -> None:
        try:
            await self._carry_out(job)
        except (RecordsUnavailableError, SQLAlchemyError) as error:
            self.log.warning("what came of an awaited %s was not recorded; trying again: %s", self.name, error)
            await asyncio.sleep(BACKOFF_SECONDS)
            self._wake_later()

    async def _carry_out(self, job: Job[What]) -> None:
        try:
            complete = await self._complete(job)
        except GivenUpError as error:
            await self._fail(job, str(error))
        except (RecordsUnavailableError, SQLAlchemyError):
            raise
        except Exception:
            # a bug must not leave a generation waiting for ever
            self.log.exception("an awaited %s did not come: unexpected error", self.name)
            await self._fail(job, self._fault(job.what))
        else:
            if complete and await self._awaited_inputs.arrived(job.what.url, complete):
                self._on_arrived()
            if any(generation.awaited_input for generation in complete):
                self._wake_later()

    def _wake_later(self) -> None:
        # once this job has ended
        asyncio.get_running_loop().call_soon(self.wake)

    async def _fail(self, job: Job[What], sentence: str) -> None:
        what = job.what
        for failed in await self._awaited_inputs.failed(what.tenant, what.url, sorted(job.ids), sentence):
            self.log.info("generation %s failed: %s", failed.id, sentence)
            self._broker.publish(Event(failed))
