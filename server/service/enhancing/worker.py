"""Has the prompts rewritten that recorded generations await, and lets these be claimed."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from server.core.errors import RecordsUnavailableError
from server.core.events import Broker, Event
from server.core.generation import ENHANCED_PROMPT, Status
from server.service.enhancing.prompts import CannotEnhanceError, Prompts
from server.storage.db.statements.awaited_inputs import AwaitedInputs, AwaitedRewrite

log = logging.getLogger("paddock.enhance")

_LOOK_AGAIN_SECONDS = 60.0
_BACKOFF_SECONDS = 2.0


@dataclass(eq=False)
class _Job:
    """A prompt of a tenant that the generations of one request await. `ids` are those that still do.

    `is_ours`: this server decides what becomes of them without it.
    """

    tenant: str
    ids: set[str]
    is_ours: bool
    task: asyncio.Task[None] | None = field(default=None)


class PromptWorker:
    """Rewrites what the records say is awaited: what was recorded before a restart, too.

    `on_ready` is called when generations may be claimed.
    """

    def __init__(
        self, awaited_inputs: AwaitedInputs, prompts: Prompts, broker: Broker, on_ready: Callable[[], None]
    ) -> None:
        self._awaited_inputs = awaited_inputs
        self._prompts = prompts
        self._broker = broker
        self._on_ready = on_ready
        self._wake = asyncio.Event()
        self._jobs: dict[str, _Job] = {}
        """The job of each generation."""
        self._looking: asyncio.Task[None] | None = None
        broker.observe(self._note)

    def start(self) -> None:
        """Begin to work."""
        self._looking = asyncio.create_task(self._look())

    def stop(self) -> None:
        """Stop at once. What is awaited is rewritten after the next start."""
        for task in (self._looking, *{job.task for job in self._jobs.values()}):
            if task is not None:
                task.cancel()

    def wake(self) -> None:
        """Look at the records: a generation was added, or has its inputs now."""
        self._wake.set()

    def _note(self, event: Event) -> None:
        """Stop to rewrite what nothing awaits any more."""
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
                # what others accepted is for those that have a model
                self._begin(await self._awaited_inputs.awaiting_rewrite(has_model=self._prompts.is_configured))
            except RecordsUnavailableError:
                # the store has logged it
                await asyncio.sleep(_BACKOFF_SECONDS)
                continue
            except Exception:
                log.exception("the awaited prompts were not read; trying again in %g s", _LOOK_AGAIN_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                    await self._wake.wait()

    def _begin(self, awaited: Iterable[AwaitedRewrite]) -> None:
        """Begin with what is not being rewritten already, once for all generations of a request."""
        new: dict[tuple[str, str, bool], set[str]] = {}
        for each in awaited:
            if each.generation_id not in self._jobs:
                new.setdefault((each.tenant, each.request, each.is_ours), set()).add(each.generation_id)
        for (tenant, _, is_ours), ids in new.items():
            job = _Job(tenant, ids, is_ours)
            self._jobs |= dict.fromkeys(ids, job)
            job.task = asyncio.create_task(self._see_through(job))
            job.task.add_done_callback(partial(self._end, frozenset(ids)))

    def _end(self, ids: Iterable[str], _: object) -> None:
        for id_ in ids:
            self._jobs.pop(id_, None)

    async def _see_through(self, job: _Job) -> None:
        try:
            await self._carry_out(job)
        except (RecordsUnavailableError, SQLAlchemyError) as error:
            # the rewriter remembers what was not recorded
            log.warning("a rewritten prompt was not recorded; trying again: %s", error)
            await asyncio.sleep(_BACKOFF_SECONDS)
            # once this job has ended
            asyncio.get_running_loop().call_soon(self.wake)

    async def _carry_out(self, job: _Job) -> None:
        try:
            waiting = await self._awaited_inputs.awaiting(ENHANCED_PROMPT, sorted(job.ids))
            if not waiting:
                return
            complete = await self._prompts.of(waiting, must_end=job.is_ours)
        except CannotEnhanceError as error:
            # the model of the server that accepted it may be well
            if job.is_ours:
                await self._fail(job, str(error))
        except (RecordsUnavailableError, SQLAlchemyError):
            raise
        except Exception:
            # a bug must not leave a generation waiting for ever
            log.exception("a prompt was not rewritten: unexpected error")
            await self._fail(job, "The server failed to enhance the prompt. Its log says more.")
        else:
            if await self._awaited_inputs.arrived(ENHANCED_PROMPT, complete):
                self._on_ready()

    async def _fail(self, job: _Job, sentence: str) -> None:
        for failed in await self._awaited_inputs.failed(job.tenant, ENHANCED_PROMPT, sorted(job.ids), sentence):
            log.info("generation %s failed: %s", failed.id, sentence)
            self._broker.publish(Event(failed))
