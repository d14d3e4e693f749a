"""The loop of one device: applies requests to load and unload, and runs the generations of the queue."""

import asyncio
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from uuid import uuid4

from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import RecordsUnavailableError
from server.core.generation import Generation
from server.engine.interface import DeviceUnavailableError, LoadFailedError, WorkerDiedError
from server.scheduler.attempt import AttemptRunner
from server.scheduler.claims import Claims
from server.scheduler.device import Device, LoadRequest, UnloadRequest
from server.scheduler.prefetch import PromptPrefetcher
from server.scheduler.running import RunningAttempt
from server.scheduler.suitability import Resuming

log = logging.getLogger("paddock.scheduler")

BACKOFF_SECONDS = 2.0

_LOOK_SECONDS = 0.25
"""After so long a device that leaves a generation to another one looks whether that has taken it."""


class DeviceExecutor:
    """Works for one device. An idle model is unloaded after `idle_unload` seconds; 0: never."""

    def __init__(
        self,
        device: Device,
        claims: Claims,
        catalogue: Mapping[str, CatalogueEntry],
        idle_unload: float,
        resuming: Resuming,
    ) -> None:
        self.device = device
        self._resuming = resuming
        self._claims = claims
        self._idle_unload = idle_unload
        server = claims.attempts.server or ""
        self._owner = "/".join((server, socket.gethostname(), str(os.getpid()), uuid4().hex[:8], device.name))
        self._used_at = time.monotonic()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._prefetcher = PromptPrefetcher(claims.attempts, device, self._in_background)
        self._runner = AttemptRunner(device, claims, catalogue, self._prefetcher)

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._work())

    def wake(self) -> None:
        """Look again whether there is something to do."""
        self._prefetcher.note_news()
        self._wake.set()

    def request(self, request: LoadRequest | UnloadRequest) -> None:
        """Have a model loaded or unloaded before the next generation. Of several requests the last one holds."""
        device = self.device
        others = [each for each in device.requests if each is device.applying or each.entry.id != request.entry.id]
        device.requests = deque([*others, request])
        self.wake()

    async def cancel(self, generation: Generation) -> None:
        """Stop a generation if it is held here. The device is free when its worker has stopped, not before."""
        await self._runner.cancel(generation)

    async def suspend(self, grace: float) -> None:
        """Take nothing more; have what runs saved and given back, and wait for that at most `grace` seconds.

        A load is not waited for: nothing of it could be saved.
        """
        device = self.device
        device.is_stopping = True
        self.wake()
        task = self._task
        if task is None or device.state.loading is not None:
            return
        if device.running is not None:
            await device.engine.suspend(device.running.held.id, device.running.held.attempt)
        # not `self._task`: the device may be stopped meanwhile
        await asyncio.wait({task}, timeout=grace)

    @property
    def has_stopped(self) -> bool:
        """Whether `stop` has come to its end, a good one or not."""
        return self._stopping is not None and self._stopping.done()

    async def stop(self) -> None:
        """Stop working for good: end the worker, then give back what it was doing.

        This goes on if the caller is cancelled; a second caller waits for the same.
        """
        # whatever comes of the cancellation, the loop is not to begin anything more
        self.device.is_stopping = True
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        tasks = [*self._background, *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None
        await self.device.engine.close()
        ended = await asyncio.gather(*map(self._claims.give_back, self.device.held), return_exceptions=True)
        self.device.running = self.device.finishing = None
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    async def _work(self) -> None:
        device = self.device
        has_applied = False
        while not device.is_stopping:
            self._wake.clear()
            # before the claim: what may be tried again by its end would be waited for in vain
            next_try = device.lacks.next_try
            try:
                if device.requests and not has_applied:
                    has_applied = True
                    await self._apply(device.requests[0])
                    continue
                # after each request one generation, so that many requests do not keep the queue waiting
                has_applied = False
                if device.is_taken:
                    if not device.requests:
                        await self._wake.wait()
                elif (wait := device.circuit.wait) > 0:
                    if not device.requests:
                        await self._pause(wait)
                elif (wait := await self._seconds_for_others()) > 0:
                    await self._pause(min(wait, _LOOK_SECONDS))
                elif (held := await self._claim()) is not None:
                    await self._carry_out(held)
                elif not device.requests:
                    await self._wait_for_work(next_try)
            except RecordsUnavailableError:
                # the store has logged it
                await asyncio.sleep(BACKOFF_SECONDS)
            except Exception:
                # a bug must not end the loop: the device would serve no more
                log.exception("%s: unexpected error; trying again in %g s", device.name, BACKOFF_SECONDS)
                await asyncio.sleep(BACKOFF_SECONDS)
        await asyncio.gather(*self._background)

    async def _wait_for_work(self, next_try: float | None) -> None:
        """Wait until something is to be done, for `next_try` seconds at most. An idle device is freed after a while,
        since others may need it.
        """
        device = self.device
        if device.finishing is not None:
            # the worker is not idle
            self._used_at = time.monotonic()
        patience = None
        if self._idle_unload > 0 and device.state.model_id is not None:
            # what wakes a device without giving it work does not count
            patience = max(0.0, self._used_at + self._idle_unload - time.monotonic())
        waits = [seconds for seconds in (patience, next_try) if seconds is not None]
        try:
            async with asyncio.timeout(min(waits, default=None)):
                await self._wake.wait()
        except TimeoutError:
            if device.finishing is not None or patience != min(waits):
                # it is not idle, or something is to be tried again
                return
            log.info("%s was idle for %g s; its model is unloaded", device.name, self._idle_unload)
            # the worker ends, since a CUDA context holds memory even without weights
            await device.engine.close()

    async def _pause(self, seconds: float) -> None:
        """Leave a failing device alone for some time; requests to load and unload are still applied."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _seconds_for_others(self) -> float:
        """For how long the next generation is left to an idle device that can resume it, while this one cannot."""
        device = self.device
        if not self._resuming.others(device):
            return 0.0
        following = await self._claims.attempts.next(device.next_weights, device.lacks.exclusions)
        return 0.0 if following is None else self._resuming.seconds_left(following, device)

    async def _claim(self) -> Generation | None:
        device = self.device
        claiming = asyncio.ensure_future(self._claims.claim(self._owner, device.next_weights, device.lacks.exclusions))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # the store's thread goes on to commit: a claim that it makes has to be given back
            await asyncio.wait({claiming})
            # if it failed there is no claim, and its error must not take the place of the cancellation
            if claiming.exception() is None and (held := claiming.result()) is not None:
                self.device.running = RunningAttempt(held)
            raise

    async def _apply(self, request: LoadRequest | UnloadRequest) -> None:
        """Apply the oldest request, which counts as waiting until it is done or has failed."""
        device, entry = self.device, request.entry
        device.applying = request
        try:
            if isinstance(request, LoadRequest):
                with suppress(LoadFailedError):
                    await device.load(entry.variant())
            elif device.state.model_id == entry.id:
                await device.engine.unload()
        except DeviceUnavailableError as error:
            device.note_unavailable(entry.id, error)
        except WorkerDiedError as error:
            device.note_failure(entry.id, str(error))
        finally:
            self._used_at = time.monotonic()
            device.applying = None
            device.requests.popleft()

    async def _carry_out(self, held: Generation) -> None:
        """Run a generation in a task of its own; returns once the device is free."""
        self.device.running = running = RunningAttempt(held)
        self._prefetcher.begin()
        self._in_background(self._runner.see_through(running))
        await running.has_left.wait()
        if running.fingerprint is not None:
            # the model was in use; what cannot be made here does not keep it loaded
            self._used_at = time.monotonic()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
