"""Fetches the inputs that recorded generations await, and lets these be claimed."""

import asyncio
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import (
    InvalidParamsError,
    PaddockError,
    QueueFullError,
    RecordsUnavailableError,
    UnavailableError,
    reason,
)
from server.core.events import Broker, Event
from server.core.generation import Generation, Status
from server.core.settings.sections import SecuritySettings
from server.core.turns import Turns
from server.media.fetch.download import IMAGE_FILE, VIDEO_FILE, Downloader, TemporaryError
from server.media.limits import RefusedInputError
from server.service.requests.building import GenerationBuilder
from server.service.requests.image_models import as_asked
from server.service.requests.inputs import IMAGE, LAST_IMAGES, VIDEO, Input, InputFiles
from server.service.requests.urls import checked_url
from server.storage.db.statements.awaited_inputs import AwaitedInput, AwaitedInputs

log = logging.getLogger("paddock.inputs")

MAX_AT_ONCE = 8
MAX_AT_ONCE_OF_TENANT = 2
"""So many inputs are fetched at once, in all and for one tenant."""

RETRY_SECONDS = (2.0, 10.0)
"""The pauses before an input is asked for again, if it could not be had for a reason that may pass."""

_PARAMETERS = {"image": IMAGE, "last_image": LAST_IMAGES[0], "video": VIDEO}
"""The parameters by the fields that name their inputs."""

_LOOK_AGAIN_SECONDS = 60.0
_BACKOFF_SECONDS = 2.0


@dataclass(eq=False)
class _Job:
    """One URL that generations of a tenant await as a parameter. `ids` are those that still do."""

    tenant: str
    name: str
    url: str
    ids: set[str]
    task: asyncio.Task[None] | None = field(default=None)


class InputFetcher:
    """Fetches what the records say is awaited: what was recorded before a restart, too.

    `on_arrived` is called when generations may be claimed.
    """

    def __init__(
        self,
        awaited_inputs: AwaitedInputs,
        files: InputFiles,
        builder: GenerationBuilder,
        catalogue: Mapping[str, CatalogueEntry],
        broker: Broker,
        on_arrived: Callable[[], None],
        settings: SecuritySettings,
        downloader: Downloader | None = None,
    ) -> None:
        self._awaited_inputs = awaited_inputs
        self._files = files
        self._builder = builder
        self._catalogue = catalogue
        self._broker = broker
        self._on_arrived = on_arrived
        self._settings = settings
        self._downloader = downloader or Downloader()
        self._turns = Turns(MAX_AT_ONCE, MAX_AT_ONCE_OF_TENANT)
        self._wake = asyncio.Event()
        self._jobs: dict[str, _Job] = {}
        """The job of each generation."""
        self._looking: asyncio.Task[None] | None = None
        broker.observe(self._note)

    def start(self) -> None:
        """Begin to work."""
        self._looking = asyncio.create_task(self._look())

    def stop(self) -> None:
        """Stop at once. What is awaited is fetched after the next start."""
        jobs = {job for job in self._jobs.values() if job.task is not None}
        for task in (self._looking, *(job.task for job in jobs)):
            if task is not None:
                task.cancel()

    def wake(self) -> None:
        """Look at the records: a generation was added that awaits an input."""
        self._wake.set()

    def _note(self, event: Event) -> None:
        """Stop to fetch what nothing awaits any more."""
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
                self._begin(await self._awaited_inputs.awaited())
            except RecordsUnavailableError:
                # the store has logged it
                await asyncio.sleep(_BACKOFF_SECONDS)
                continue
            except Exception:
                log.exception("the awaited inputs were not read; trying again in %g s", _LOOK_AGAIN_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                    await self._wake.wait()

    def _begin(self, awaited: Iterable[AwaitedInput]) -> None:
        """Begin to fetch what is not being fetched already, each URL once for all that await it now."""
        new: dict[tuple[str, str, str], set[str]] = {}
        for each in awaited:
            if each.generation_id not in self._jobs:
                name = _PARAMETERS[each.field]
                new.setdefault((each.tenant, name, each.url), set()).add(each.generation_id)
        for (tenant, name, url), ids in new.items():
            job = _Job(tenant, name, url, ids)
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
            log.warning("what came of an awaited input was not recorded; trying again: %s", error)
            await asyncio.sleep(_BACKOFF_SECONDS)
            asyncio.get_running_loop().call_soon(self.wake)
        except UnavailableError as error:
            # no fault of the request: it waits, as it would for the records, and is looked at again
            log.warning("%s of waiting generations is fetched again later: %s", job.name, error)

    async def _carry_out(self, job: _Job) -> None:
        try:
            kept = await self._input(job)
            waiting = await self._awaited_inputs.awaiting(job.url, sorted(job.ids))
            complete = [self._complete(generation, kept) for generation in waiting]
        except PaddockError as error:
            if isinstance(error, RecordsUnavailableError | UnavailableError):
                raise
            await self._fail(job, str(error))
        except SQLAlchemyError:
            raise
        except Exception:
            # a bug must not leave a generation waiting for ever
            log.exception("an awaited input was not fetched: unexpected error")
            await self._fail(job, f"The server failed to fetch {job.name}. Its log says more.")
        else:
            if await self._awaited_inputs.arrived(job.url, complete):
                self._on_arrived()
            if any(generation.awaited_input for generation in complete):
                # once this job has ended
                asyncio.get_running_loop().call_soon(self.wake)

    async def _fail(self, job: _Job, sentence: str) -> None:
        for failed in await self._awaited_inputs.failed(job.tenant, job.url, sorted(job.ids), sentence):
            log.info("generation %s failed: %s", failed.id, sentence)
            self._broker.publish(Event(failed))

    def _complete(self, generation: Generation, kept: Input) -> Generation:
        entry = self._catalogue.get(generation.model)
        if entry is None:
            raise InvalidParamsError(f"Model not found: {generation.model}")
        if (asked := self._catalogue.get(generation.asked_model or "")) is not None:
            entry = as_asked(entry, asked)
        return self._builder.complete(entry, generation, kept)

    async def _input(self, job: _Job) -> Input:
        """Fetch and keep an input. Raises InvalidParamsError, QueueFullError or UnavailableError."""
        for pause in (*RETRY_SECONDS, None):
            try:
                # the settings may have changed since it was recorded
                checked_url(job.name, job.url, self._settings)
                return await self._fetch(job)
            except TemporaryError as error:
                if pause is None:
                    raise InvalidParamsError(f"{job.name} {error}.") from None
            except RefusedInputError as error:
                raise InvalidParamsError(f"{job.name} {error}.") from None
            except (QueueFullError, UnavailableError):
                if pause is None:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _fetch(self, job: _Job) -> Input:
        try:
            with tempfile.TemporaryDirectory(prefix="fetched-", ignore_cleanup_errors=True) as folder:
                target = Path(folder) / "input"
                # not while it is decoded: a video takes long, and others may be fetched meanwhile
                async with self._turns.turn(job.tenant):
                    await self._downloader.download(job.url, target, VIDEO_FILE if job.name == VIDEO else IMAGE_FILE)
                return await self._files.keep(job.tenant, job.name, target)
        except OSError as error:
            raise UnavailableError(f"The server cannot keep inputs: {reason(error)}.", 5) from error
