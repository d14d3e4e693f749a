"""The life of one attempt: load the model, run the generation, finish its file, record the result."""

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from pipelines.core.model import SoundFailure
from pipelines.core.request import VideoParams
from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import RecordsUnavailableError, reason, without_paths
from server.core.generation import Generation, Status
from server.core.logging import ids
from server.core.retry import blame_for_worker_death
from server.engine.interface import (
    DeviceUnavailableError,
    Finish,
    GenerationFailedError,
    LoadFailedError,
    RunCancelledError,
    RunSuspendedError,
    WorkerDiedError,
    WorkerStuckError,
)
from server.engine.protocol import Done, Run, RunReport
from server.scheduler.claims import Claims
from server.scheduler.device import Device
from server.scheduler.prefetch import PromptPrefetcher
from server.scheduler.running import End, RunningAttempt, raise_if_cancelled
from server.scheduler.suitability import differences
from server.storage.db.records import StaleAttemptError
from server.storage.files.checkpoints import checkpoint_key
from server.storage.files.inputs import input_keys
from server.storage.files.previews import preview_key
from server.storage.files.videos import video_key

log = logging.getLogger("paddock.scheduler")

BACKOFF_SECONDS = 2.0


class AttemptRunner:
    """Runs attempts on one device."""

    def __init__(
        self, device: Device, claims: Claims, catalogue: Mapping[str, CatalogueEntry], prefetcher: PromptPrefetcher
    ) -> None:
        self._device = device
        self._claims = claims
        self._catalogue = catalogue
        self._prefetcher = prefetcher

    async def see_through(self, running: RunningAttempt) -> None:
        """Run an attempt, and return once its result is recorded, however long that may take."""
        step = self._hold
        while True:
            try:
                await step(running)
                break
            except RecordsUnavailableError:
                # the store has logged it
                pass
            except OSError as error:
                said = ids(running.held.id, running.held.attempt)
                log.warning(
                    *("%s: files cannot be reached; trying again in %g s: %s", self._device.name, BACKOFF_SECONDS),
                    reason(error),
                    extra=said,
                )
            except Exception:
                log.exception("%s: unexpected error; trying again in %g s", self._device.name, BACKOFF_SECONDS)
            raise_if_cancelled()
            await asyncio.sleep(BACKOFF_SECONDS)
            # the claim is still held, and has to be given back
            step = self._claims.give_back
        self._device.end(running)

    async def cancel(self, generation: Generation) -> None:
        """Stop a generation if the device holds it."""
        for running in self._device.held:
            if running.held.id == generation.id:
                running.is_cancelled = True
                await self._device.engine.cancel(generation.id, generation.attempt)

    async def _hold(self, running: RunningAttempt) -> None:
        """Run an attempt while its claim is renewed."""
        renewal = asyncio.create_task(self._claims.keep(running, self.cancel))
        try:
            self._claims.announce_progress(running)
            end = await self._attempt(running)
            await self._claims.conclude(running, partial(self._record, running.held, end))
        except StaleAttemptError:
            # cancelled, or taken over by another server: a late result counts no more
            await self._claims.discard(running)
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    async def _attempt(self, running: RunningAttempt) -> End:
        """Load and run; returns what records the result, raises StaleAttemptError if the attempt counts no more."""
        held, claims = running.held, self._claims
        entry = self._catalogue.get(held.model)
        if entry is None:
            return partial(claims.attempts.fail, held, f"Model not found: {held.model}")
        assert held.params is not None, "a generation without valid parameters is never queued"
        try:
            done = await self._make(running, entry.variant(held.params.run_fast), held.params)
        except (LoadFailedError, GenerationFailedError) as error:
            said = ids(held.id, held.attempt)
            log.warning("generation %s attempt %d failed: %s", held.id, held.attempt, error, extra=said)
            return partial(claims.attempts.fail, held, without_paths(str(error)), running.warnings)
        except RunCancelledError as error:
            raise StaleAttemptError(held.id) from error
        except (RunSuspendedError, DeviceUnavailableError) as error:
            if isinstance(error, DeviceUnavailableError):
                said = ids(held.id, held.attempt)
                log.warning("generation %s attempt %d waits again: %s", held.id, held.attempt, error, extra=said)
                # a model that was loaded lacks a LoRA; one that was not may lack only what it needs for `run_fast`
                is_variant = running.fingerprint is not None or held.params.run_fast
                self._device.note_unavailable(held.weights if is_variant else held.model, error)
            return partial(claims.release, running)
        except WorkerDiedError as error:
            said = ids(held.id, held.attempt)
            log.warning("the worker died on generation %s attempt %d: %s", held.id, held.attempt, error, extra=said)
            return self._after_death(running, error)
        except (StaleAttemptError, RecordsUnavailableError, SQLAlchemyError):
            raise
        except Exception:
            raise_if_cancelled()
            # a bug must neither stop the device nor come back for ever with the same generation
            said = ids(held.id, held.attempt)
            log.exception("generation %s attempt %d: unexpected error", held.id, held.attempt, extra=said)
            sentence = "The server failed on this generation. Its log says more."
            return partial(claims.attempts.fail, held, sentence)
        facts = (held, done.artifact, done.fingerprint, running.warnings)
        has_stills = await claims.make_stills(held, done.artifact)
        return partial(claims.attempts.succeed, *facts, has_audio=done.has_audio, has_stills=has_stills)

    async def _record(self, held: Generation, end: End) -> Generation:
        settled = await end()
        said = ids(held.id, held.attempt)
        log.info("generation %s attempt %d: %s", held.id, held.attempt, settled.status, extra=said)
        if settled.status is Status.SUCCEEDED:
            self._device.circuit.succeeded()
            self._device.lacks.forget(held.weights)
        return settled

    def _after_death(self, running: RunningAttempt, error: WorkerDiedError) -> End:
        on_device = self._device.running
        blame = blame_for_worker_death(
            on_device=running is on_device,
            device_is_free=on_device is None,
            is_stuck=isinstance(error, WorkerStuckError),
        )
        if running is on_device and not running.is_cancelled:
            # a cancelled one was killed for not stopping in time, perhaps in the middle of a long step
            self._device.note_failure(running.held.id, str(error))
        return partial(self._claims.after_worker_death, running, str(error), blame)

    async def _make(self, running: RunningAttempt, entry: CatalogueEntry, params: VideoParams) -> Done:
        """Load the model and make the video with its file; the device is free before the file is finished."""
        device = self._device
        try:
            self._check(running)
            running.fingerprint, running.host = await device.load(entry), device.host
            self._tell_of_restart(running.held, running.fingerprint)
            await self._claims.renew(running)
            self._check(running)
            if entry.model.sound is not None and entry.model.sound.if_failed is SoundFailure.SILENT:
                params = self._claims.without_deadly_sound(running, params)
            finish = await self._run(running, params)
            await device.start_finishing(running)
            done = await finish()
        finally:
            await self._claims.end_preview(running)
        device.stats += done.stats
        return done

    def _tell_of_restart(self, held: Generation, fingerprint: Mapping[str, str]) -> None:
        if held.progress > 0 and held.fingerprint is not None and (found := differences(held.fingerprint, fingerprint)):
            log.warning(
                "generation %s attempt %d starts over on %s, which does not fit its checkpoint: %s differ",
                *(held.id, held.attempt, self._device.name, ", ".join(found)),
                extra=ids(held.id, held.attempt),
            )

    async def _run(self, running: RunningAttempt, params: VideoParams) -> Finish:
        device = self._device

        def note(report: RunReport) -> None:
            self._claims.on_report(running, report)
            if running is device.running:
                self._prefetcher.note_progress(running.held, running.live.progress)

        try:
            resume_from = await self._claims.newest_checkpoint(running.held)
        except OSError as error:
            # without it all that was computed would be computed again
            raise DeviceUnavailableError(f"Checkpoints cannot be read: {reason(error)}.") from error
        self._check(running)
        id_, attempt = running.held.id, running.held.attempt
        run = Run(
            generation_id=id_,
            attempt=attempt,
            params=params,
            artifact=video_key(id_, attempt),
            checkpoint=checkpoint_key(id_, attempt),
            resume_from=resume_from,
            preview=preview_key(id_, attempt),
            asked_prompt=running.held.asked_prompt,
            **input_keys(running.held.tenant, params),
        )
        running.forecast = device.estimator.begin(running.fingerprint or {}, params)
        return await device.engine.run(run, note)

    def _check(self, running: RunningAttempt) -> None:
        """Raise if the attempt is not to be run: what was asked while none ran, the engine does not know."""
        if running.is_cancelled:
            raise StaleAttemptError(running.held.id)
        if self._device.is_stopping:
            raise RunSuspendedError("the device is stopping")
