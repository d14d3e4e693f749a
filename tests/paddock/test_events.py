"""The decoder of server-sent events: any line end, any split into chunks, and a limit."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock import UnexpectedResponseError
from paddock.events import MAX_EVENT_CHARS, EventDecoder, ServerSentEvent, read_events

STREAM = (
    "\ufeffevent: started\ndata: one\n\n"
    ": a comment\n\n"
    "data:two\r\ndata: lines\r\nid: 7\r\nretry: 10\r\n\r\n"
    "event: nothing\n\n"
    "event:\rdata: ü of three\r\r"
    "data\n\n"
    "data: unfinished"
)
EVENTS = [
    ServerSentEvent("started", "one"),
    ServerSentEvent("message", "two\nlines", "7"),
    ServerSentEvent("message", "ü of three", "7"),
    ServerSentEvent("message", "", "7"),
]


def test_a_stream_is_decoded_by_the_standard() -> None:
    assert list(read_events([STREAM.encode()])) == EVENTS


def test_an_id_counts_once_its_event_is_complete() -> None:
    decoder = EventDecoder()

    assert list(decoder.feed(b"id: 1\n\ndata: two\nid: 2\n")) == []
    assert decoder.last_event_id == "1"
    assert list(decoder.feed(b"\n")) == [ServerSentEvent("message", "two", "2")]
    assert decoder.last_event_id == "2"


@given(st.lists(st.integers(0, len(STREAM.encode()))))
def test_a_stream_may_be_split_anywhere(cuts: list[int]) -> None:
    encoded, at = STREAM.encode(), sorted({0, *cuts, len(STREAM.encode())})
    chunks = [encoded[a:b] for a, b in pairwise(at)]

    assert list(read_events(chunks)) == EVENTS


@pytest.mark.parametrize("chunk", [b"x" * 10_000, b"data: " + b"x" * 10_000 + b"\n"])
def test_an_endless_event_is_refused(chunk: bytes) -> None:
    decoder = EventDecoder()

    with pytest.raises(UnexpectedResponseError, match=f"more than {MAX_EVENT_CHARS} characters"):
        for _ in range(MAX_EVENT_CHARS // 10_000 + 1):
            assert not list(decoder.feed(chunk))
