"""The use cases that routes call: submit, wait, cancel, look up. All rules of the contract that are not about HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.demo.folder import demo_folder
from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import (
    RETRY_AFTER,
    ConflictError,
    GenerationNotFoundError,
    InvalidParamsError,
    UnavailableError,
)
from server.core.events import Broker, Event, Live
from server.core.generation import Generation, Origin, Status
from server.core.settings.settings import Settings
from server.media.fetch.download import Downloader
from server.scheduler.interface import Deployment, DeviceStatus, Scheduler
from server.service.awaiting.input_fetcher import InputFetcher
from server.service.awaiting.prompt_worker import PromptWorker
from server.service.enhancing.prompts import Prompts
from server.service.enhancing.tokens import TokenCounter
from server.service.library.reuse import Reuse
from server.service.loras import AvailableLora, LoraCatalogue
from server.service.notifications.event_stream import EventStream, Position
from server.service.notifications.waiting import Waiting
from server.service.notifications.webhooks.targets import WebhookDefaults, requested_webhook
from server.service.record_limits import Recorder, RecordLimits
from server.service.requests import parameters
from server.service.requests.building import GenerationBuilder
from server.service.requests.estimate import Estimate, FitCheck, estimate
from server.service.requests.finished import FinishedVideos
from server.service.requests.image_models import ImageModels, Sounds
from server.service.requests.input_sources import InputSources
from server.service.requests.inputs import InputFiles
from server.service.requests.request import RequestReader
from server.service.requests.uploads import Upload, Uploads
from server.storage.db.records import (
    Filters,
    IdempotencyKeyReusedError,
    IdempotentRequest,
    Listing,
    Placed,
)
from server.storage.db.statements.awaited_inputs import AwaitedInputs
from server.storage.db.statements.history import History
from server.storage.db.statements.submissions import Submissions
from server.storage.files.disk import Disk
from server.storage.files.inputs import Inputs
from server.storage.files.videos import Videos

_NO_WEBHOOK = WebhookDefaults()
_STOPPING = "The server is stopping. Send this request again in a minute."


class Service:
    """The use cases, over records, scheduler and broker."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Mapping[str, CatalogueEntry],
        submissions: Submissions,
        history: History,
        scheduler: Scheduler,
        broker: Broker,
        disk: Disk,
        videos: Videos,
        inputs: Inputs,
        awaited_inputs: AwaitedInputs,
        downloader: Downloader | None = None,
        fit_check: FitCheck | None = None,
    ) -> None:
        self._fit_check = fit_check
        self.settings = settings
        self.catalogue = catalogue
        self._scheduler = scheduler
        self._submissions = submissions
        self._history = history
        self._broker = broker
        self._disk = disk
        self._loras = LoraCatalogue(catalogue, settings.loras_dir, demo_folder() if settings.demo else None)
        files = InputFiles(inputs)
        self._uploads = Uploads(inputs, files)
        self._image_models = ImageModels({} if settings.demo else catalogue)
        self.sounds = Sounds(catalogue, everywhere=settings.ray_address is not None)
        self._reader = RequestReader(catalogue, self._image_models, self._loras)
        finished = FinishedVideos(self._generation_of, videos, files, catalogue)
        self.reuse = Reuse(self._uploads, finished, catalogue)
        # any server may run a generation, and needs its inputs
        self._keeps_inputs = settings.files_url is not None or not submissions.is_shared
        self.input_sources = InputSources(settings, files, self._uploads, finished, keeps=self._keeps_inputs)
        tokens = TokenCounter(catalogue, demo_folder() if settings.demo else None)
        self.prompts = Prompts(settings, settings.max_prompt_chars, inputs, tokens, demo=settings.demo)
        self._builder = GenerationBuilder(
            *(settings, self.input_sources, self._image_models, self.prompts.styles, submissions.server),
            can_enhance=self.prompts.is_configured,
            can_inspire=self.prompts.takes_styles,
        )
        self._prompt_worker = PromptWorker(awaited_inputs, self.prompts, broker, scheduler.wake)
        self._fetcher = InputFetcher(
            awaited_inputs, files, self._builder, catalogue, broker, self._wake, settings, downloader
        )
        limits = RecordLimits(settings, self.prompts.limit)
        broker.observe(limits.note)
        self._recorder = Recorder(submissions, limits, settings, scheduler)
        self._waiting = Waiting(broker, self._generation_of, self._cancel_unstarted)
        self._is_closing = False
        self._on_closing: set[Callable[[], None]] = set()

    def start(self) -> None:
        """Begin to work on what generations await, inputs and prompts, also those recorded before a restart."""
        self._prompt_worker.start()
        if self._keeps_inputs:
            self._fetcher.start()

    def begin_closing(self) -> None:
        """Refuse new work, and end all waits."""
        self._is_closing = True
        self._fetcher.stop()
        self._prompt_worker.stop()
        for callback in [*self._on_closing]:
            callback()
        self._waiting.begin_closing()
        self._broker.close()

    @contextmanager
    def when_closing(self, callback: Callable[[], None]) -> Iterator[None]:
        """Within the context, call this when the server begins to stop."""
        self._on_closing.add(callback)
        if self._is_closing:
            callback()
        try:
            yield
        finally:
            self._on_closing.discard(callback)

    async def suspend(self) -> None:
        """Save what runs, to be resumed at the next start; returns within the time set for it."""
        await self._scheduler.suspend(self.settings.stop_grace)

    async def ended(self) -> None:
        """Wait until what `begin_closing` stopped has ended."""
        await asyncio.gather(self._fetcher.ended(), self._prompt_worker.ended())

    def check_open(self) -> None:
        """Raise UnavailableError if the server is stopping."""
        if self._is_closing:
            raise UnavailableError(_STOPPING, RETRY_AFTER)

    @property
    def is_closing(self) -> bool:
        """Whether the server is stopping."""
        return self._is_closing

    def entry(self, model: Any) -> CatalogueEntry:
        """The model of a request; raises InvalidParamsError or ModelNotFoundError."""
        return self._reader.entry(model)

    def answering(self, body: parameters.Body) -> CatalogueEntry:
        """The model that makes the video of a body; raises InvalidParamsError or ModelNotFoundError."""
        return self._reader.answering(body)

    async def submit(
        self,
        tenant: str,
        body: parameters.Body,
        origin: Origin,
        key: str | None = None,
        inputs: Mapping[str, Path] | None = None,
        webhook_defaults: WebhookDefaults = _NO_WEBHOOK,
        *,
        is_strict: bool | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> Sequence[Generation]:
        """Record the generations that a body requests, committed before this returns. `inputs` are its files.

        A request with an earlier request's idempotency `key` is not recorded again: the earlier generations are
        returned. Invalid parameters raise InvalidParamsError if the request `is_strict`, as those of the sync route are
        unless told otherwise; else the generation is recorded as failed with the same sentence, unless it is about its
        webhook. Its rows have `notes`, under reserved names. Also raises ModelNotFoundError, QueueFullError,
        UnavailableError, and ConflictError if the key belongs to a different request.
        """
        self.check_open()
        strict = origin is Origin.SYNC if is_strict is None else is_strict
        request = await self._reader.read(tenant, body, origin, inputs or {}, is_strict=strict, notes=notes)
        webhook, warnings = requested_webhook(body, self.settings, webhook_defaults)
        await self.check_room()
        repeatable = None if key is None else IdempotentRequest(key, request.digest)
        try:
            # its uploads may have expired meanwhile
            if repeatable and request.has_inputs and (before := await self._submissions.before(tenant, repeatable)):
                return before
            built = await self._builder.build(request)
            new = [replace(each, webhook=webhook, warnings=each.warnings + warnings) for each in built]
            recorded = await self._recorder.record(new, repeatable)
        except IdempotencyKeyReusedError:
            raise ConflictError("This Idempotency-Key was another request's: use a new one for each request.") from None
        if recorded[0].id == new[0].id:
            self._scheduler.wake()
            if any(generation.awaited_input is not None for generation in recorded):
                self._fetcher.wake()
                self._prompt_worker.wake()
            for generation in recorded:
                if generation.is_terminal:
                    self._broker.publish(Event(generation))
        return recorded

    async def estimate(self, tenant: str, body: parameters.Body) -> Estimate:
        """What is known of a request before it is sent. Raises InvalidParamsError, ModelNotFoundError as `submit`."""
        self.check_open()
        request = await self._reader.read(tenant, body, Origin.SYNC, {})
        requested_webhook(body, self.settings, _NO_WEBHOOK)
        params = self._builder.check(request)
        return await estimate(
            request.entry, params, self._scheduler.queue_eta(), await self.queue_length(), self._fit_check
        )

    def _wake(self) -> None:
        self._scheduler.wake()
        self._prompt_worker.wake()

    async def upload(self, tenant: str, file: Path) -> Upload:
        """Keep an input that requests may name. Raises InvalidParamsError, QueueFullError or UnavailableError."""
        self.check_open()
        if not self._keeps_inputs:
            raise InvalidParamsError("Uploads are not supported by servers that share their database, but not files.")
        await self.check_room()
        return await self._uploads.keep(tenant, file)

    async def check_room(self) -> None:
        """Raise UnavailableError while the disk has too little space for more work."""
        if (shortage := await self._disk.shortage()) is not None:
            raise UnavailableError(shortage, RETRY_AFTER)

    @property
    def free_bytes(self) -> int | None:
        """Free bytes on the disk of the data directory, as last looked up; None before that."""
        return self._disk.free

    async def wait(self, tenant: str, ids: Sequence[str]) -> list[Generation]:
        """Wait until all of these have ended; raises UnavailableError if the server stops before."""
        return await self._waiting.results(tenant, ids)

    async def cancel(self, tenant: str, generation_id: str) -> None:
        """Cancel a generation, unless it has ended: its record says so at once, the device stops within a step."""
        before = await self._submissions.cancel(generation_id, tenant)
        if before is None:
            await self._find(tenant, generation_id)
            return
        self._publish_cancelled(before)
        await self._scheduler.cancel(before)

    def hang_up(self, tenant: str, ids: Collection[str], *, may_return: bool = False) -> None:
        """A waiting client has disconnected: cancel what has not started and nobody else waits for.

        With `may_return` the client may send the same request again and get the same generations.
        """
        self._waiting.leave(tenant, ids, may_return=may_return)

    async def _cancel_unstarted(self, tenant: str, generation_id: str) -> None:
        before = await self._submissions.cancel(generation_id, tenant, unless_started=True)
        if before is not None:
            self._publish_cancelled(before)

    def _publish_cancelled(self, before: Generation) -> None:
        self._broker.publish(Event(replace(before, status=Status.CANCELLED)))

    def deployment(self, model_id: str) -> Deployment:
        """The state of a model between disk and device."""
        return self._scheduler.deployment(model_id)

    def plan(self, model_id: str) -> str | None:
        """The plan by which a model is laid out on the device that holds it; None if none does."""
        return next((device.plan for device in self.devices() if device.model == model_id), None)

    async def loras(self, entry: CatalogueEntry | None = None) -> list[AvailableLora]:
        """The LoRAs that requests may name, for one model or for all. Raises UnavailableError."""
        if entry is None:
            return await asyncio.to_thread(self._loras.all)
        return [*(await asyncio.to_thread(self._loras.of, entry.id)).values()]

    def activate(self, entry: CatalogueEntry) -> None:
        """Load a model; returns at once."""
        self._scheduler.activate(entry)

    def deactivate(self, entry: CatalogueEntry) -> None:
        """Unload a model after what runs with it; returns at once."""
        self._scheduler.deactivate(entry)

    def devices(self) -> Sequence[DeviceStatus]:
        """A snapshot of the devices."""
        return self._scheduler.devices()

    async def get(self, tenant: str, generation_id: str) -> Placed:
        """One generation; raises GenerationNotFoundError for an unknown id, and for another tenant's."""
        return await self._find(tenant, generation_id)

    async def newest(self, filters: Filters) -> Listing:
        """List the newest generations that pass the filters, newest first."""
        return await self._history.newest(filters, self._scheduler.next_weights)

    def rows(self, listing: Listing) -> AsyncIterator[list[Placed]]:
        """The generations of a listing, a few at a time."""
        return self._history.rows(listing)

    def live(self, placed: Placed) -> Live | None:
        """The progress of a generation that runs, or an estimate for one that waits; None if there is neither."""
        return self.lives([placed])[0]

    def lives(self, placed: Sequence[Placed]) -> list[Live | None]:
        """The same for many, all of one moment."""
        queue_eta = self._scheduler.queue_eta()
        return [
            self._scheduler.live(each.generation) or each.live
            if each.queue_position is None
            else queue_eta.of(each.generation, each.queue_position)
            for each in placed
        ]

    async def queue_length(self) -> int:
        """The number of generations that wait."""
        return await self._history.queued()

    def events(self, tenant: str, last_event_id: str | None = None) -> AsyncIterator[Event | Position]:
        """The events of a tenant's generations: the recorded ones since `last_event_id`, then all as they come."""
        return EventStream(self._history, self._broker, tenant, self.settings.event_replay).events(last_event_id)

    async def _generation_of(self, tenant: str, generation_id: str) -> Generation:
        return (await self._find(tenant, generation_id)).generation

    async def _find(self, tenant: str, generation_id: str) -> Placed:
        placed = await self._history.get(generation_id, tenant, self._scheduler.next_weights)
        if placed is None:
            raise GenerationNotFoundError
        return placed
