"""Follow generations until they are over, over lost connections and restarts of the server."""

import time
from collections.abc import Callable, Sequence

import httpx

from paddock._core.flows import Emit, Flow, Pause, open_response, read_chunk
from paddock._core.operations import Operations
from paddock.errors import PaddockError, UnavailableError, UnexpectedResponseError, UnreachableError, WaitTimeoutError
from paddock.events import EventDecoder, ServerSentEvent
from paddock.retry import NEVER
from paddock.types import Generation, Update

RECONNECT_SECONDS = 1.0

POLL_SECONDS = 5.0
"""How often the rows are read: no event reports a cancellation or a queue position.

A stream that brings nothing for so long is replaced by a new one, which also shows whether the server is there.
"""


class Follower:
    """Follows some generations by their events and rows, and emits an Update for each change."""

    def __init__(
        self,
        operations: Operations,
        ids: Sequence[str],
        timeout: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._operations = operations
        self._timeout = timeout
        self._clock = clock
        self._began = self._last_contact = self._polled_at = clock()
        self._is_lost = False
        # the newest update of each generation that is not over, None before the first
        self._pending: dict[str, Update | None] = dict.fromkeys(ids)

    def flow(self) -> Flow[None]:
        """Emit updates until all generations are over.

        Raises ResourceNotFoundError for an unknown generation, WaitTimeoutError, and UnreachableError or
        UnavailableError once the server has been away for the policy's `reconnect_timeout`.
        """
        while self._pending:
            try:
                yield from self._connected()
            except httpx.RequestError as error:
                yield from self._disconnected(self._operations.failure(error))
            except (UnreachableError, UnavailableError) as error:
                yield from self._disconnected(error)
            if self._pending:
                self._check_time()

    def _connected(self) -> Flow[None]:
        """Follow one connection to its end."""
        silence = POLL_SECONDS
        if self._timeout is not None:
            # at least a second: a request without any time cannot succeed
            silence = min(POLL_SECONDS, max(1.0, self._began + self._timeout - self._clock()))
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        protocol = self._operations.protocol
        response = yield from open_response(protocol.request("GET", "/events", headers=headers, silence=silence))
        yield from self._operations.check(response)
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise UnexpectedResponseError(f"{protocol.url} does not answer as a Paddock server does: no event stream")
        # what ends from now on is in the stream, what ended before is in the rows
        yield from self._poll()
        decoder = EventDecoder()
        while self._pending:
            try:
                chunk = yield from read_chunk()
            except httpx.ReadTimeout:
                return
            if chunk is None:
                yield Pause(RECONNECT_SECONDS)
                return
            self._last_contact = self._clock()
            for event in decoder.feed(chunk):
                yield from self._take_event(event)
            if self._pending and self._clock() - self._polled_at >= POLL_SECONDS:
                yield from self._poll()
            if self._pending:
                self._check_time()

    def _disconnected(self, error: PaddockError) -> Flow[None]:
        patience = self._operations.retry.reconnect_timeout
        if patience is not None and self._clock() - self._last_contact >= patience:
            raise error
        self._is_lost = True
        for generation_id, last in self._pending.items():
            known = last or Update(generation_id=generation_id)
            yield Emit(known.model_copy(update={"is_connected": False}))
        self._check_time()
        yield Pause(RECONNECT_SECONDS)

    def _poll(self) -> Flow[None]:
        """Read the rows of all that is pending."""
        self._polled_at = self._clock()
        active: dict[str, Generation] = {}
        if len(self._pending) > 1:
            active = {each.id: each for each in (yield from self._operations.queue({}, NEVER))}
        for generation_id in list(self._pending):
            row = active.get(generation_id) or (yield from self._operations.get(generation_id, NEVER))
            self._last_contact = self._clock()
            yield from self._take_row(generation_id, row)
        self._is_lost = False

    def _take_row(self, generation_id: str, row: Generation) -> Flow[None]:
        """Emit what a row adds to what is known."""
        last = self._pending[generation_id]
        known = Update(generation_id=generation_id)
        if last is not None and last.status == row.status == "processing":
            # stage and step are known from events only
            known = last
        update = known.model_copy(
            update={
                "status": row.status,
                "progress": row.progress,
                "eta_seconds": row.eta_seconds,
                "queue_position": row.queue_position,
                "preview_url": row.preview_url,
                "generation": row if row.is_over else None,
            }
        )
        if row.is_over:
            del self._pending[generation_id]
        else:
            self._pending[generation_id] = update
        if update != last or self._is_lost:
            yield Emit(update)

    def _take_event(self, event: ServerSentEvent) -> Flow[None]:
        """Emit what an event says of a generation that is pending."""
        if event.name == "media_generation_progress":
            update = _parse(event)
            if update.generation_id in self._pending:
                self._pending[update.generation_id] = update
                yield Emit(update)
        elif event.name == "media_generation_completed":
            generation_id = _parse(event).generation_id
            if generation_id in self._pending:
                yield from self._take_row(generation_id, (yield from self._operations.get(generation_id, NEVER)))

    def _check_time(self) -> None:
        if self._timeout is not None and self._clock() - self._began >= self._timeout:
            first, *others = self._pending
            more = f" and {len(others)} more are" if others else " is"
            raise WaitTimeoutError(f"Generation {first}{more} not over after {self._timeout:g} s.")


def _parse(event: ServerSentEvent) -> Update:
    try:
        return Update.model_validate_json(event.data)
    except ValueError as error:
        raise UnexpectedResponseError(f"The event {event.name} cannot be read: {event.data[:200]}") from error
