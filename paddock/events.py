"""An incremental decoder of server-sent events."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import IncrementalNewlineDecoder

from paddock.errors import UnexpectedResponseError

MAX_EVENT_CHARS = 1_000_000
"""The longest event, and the longest line, that is decoded."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event: its name, its data as text, and the last id that the stream has given, if any."""

    name: str
    data: str
    id: str | None = None


class EventDecoder:
    """Decodes a `text/event-stream`, whatever its line ends and however its bytes are split into chunks.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation. The field
    `retry` is ignored: Paddock's server does not send it. To resume a stream, send `last_event_id` as the header
    `Last-Event-ID`.
    """

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._decoder = IncrementalNewlineDecoder(decoder, translate=True)
        self._rest = ""
        self._name = ""
        self._data: list[str] = []
        self._id: str | None = None
        self.last_event_id: str | None = None

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that `chunk` completes. Raises UnexpectedResponseError for one that is too long."""
        *lines, self._rest = (self._rest + self._decoder.decode(chunk)).split("\n")
        for line in lines:
            if line:
                self._field(line)
            elif (event := self._dispatch()) is not None:
                yield event
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_CHARS:
            raise UnexpectedResponseError(f"The server sent an event of more than {MAX_EVENT_CHARS} characters.")

    def _field(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._id = value

    def _dispatch(self) -> ServerSentEvent | None:
        name, data = self._name, self._data
        self._name, self._data = "", []
        # only now, as the event could have been cut off
        self.last_event_id = self._id
        return ServerSentEvent(name or "message", "\n".join(data), self.last_event_id) if data else None


def read_events(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """The events of a whole stream."""
    decoder = EventDecoder()
    for chunk in chunks:
        yield from decoder.feed(chunk)
