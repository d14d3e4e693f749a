"""What one address sends is parsed in turn with what others send, in its order, and none is lost."""

import asyncio
import time
from unittest.mock import Mock

from server.runtime.http.parsing import TURN_SECONDS, HeldFlow, ParsingTurns


class Connection:
    """Notes what it parses, which takes a whole turn."""

    def __init__(self, address: str, parsed: list[tuple[str, bytes]]) -> None:
        self.turn_of = address
        self.transport = Mock(spec=asyncio.Transport, **{"is_closing.return_value": False})
        self.flow = HeldFlow(self.transport)
        self._parsed = parsed

    def parse(self, data: bytes) -> None:
        time.sleep(TURN_SECONDS)
        self._parsed.append((self.turn_of, data))

    @property
    def reads(self) -> list[str]:
        """What the transport was told, in order."""
        return [call[0] for call in self.transport.method_calls if call[0] != "is_closing"]


async def settle(turns: ParsingTurns) -> None:
    for _ in range(10):
        await asyncio.sleep(0)
    assert not turns._is_scheduled


async def test_an_address_parses_once_a_pass_and_others_need_not_wait_for_it() -> None:
    turns, parsed = ParsingTurns(), list[tuple[str, bytes]]()
    greedy = [Connection("greedy", parsed) for _ in range(3)]
    for number, connection in enumerate(greedy):
        turns.received(connection, b"%d" % number)
    turns.received(Connection("other", parsed), b"a")
    assert parsed == [("greedy", b"0"), ("other", b"a")]

    passes = 0
    while len(parsed) < 4:
        turns.received(Connection(f"other {passes}", parsed), b"b")
        assert parsed.pop() == (f"other {passes}", b"b")
        await asyncio.sleep(0)
        passes += 1
    assert parsed[2:] == [("greedy", b"1"), ("greedy", b"2")]
    assert passes >= 2
    await settle(turns)
    assert not turns._waiting
    assert not turns._seconds


async def test_a_connection_that_waits_reads_no_more_and_keeps_its_order() -> None:
    turns, parsed = ParsingTurns(), list[tuple[str, bytes]]()
    first, second = Connection("one", parsed), Connection("one", parsed)
    turns.received(first, b"1")
    for part in (b"2", b"3"):
        # some had been received already
        turns.received(second, part)
    assert second.reads == ["pause_reading"]

    await settle(turns)
    assert parsed == [("one", b"1"), ("one", b"23")]
    assert second.reads == ["pause_reading", "resume_reading"]


def test_reading_is_paused_while_either_reason_holds() -> None:
    connection = Connection("one", [])
    flow = connection.flow
    flow.hold(b"1")
    flow.pause_reading()
    assert flow.release() == b"1"
    assert connection.reads == ["pause_reading"]
    flow.hold(b"2")
    flow.resume_reading()
    assert connection.reads == ["pause_reading"]
    assert flow.release() == b"2"
    assert connection.reads == ["pause_reading", "resume_reading"]
    assert flow.release() == b""


async def test_what_waits_is_dropped_with_its_connection() -> None:
    turns, parsed = ParsingTurns(), list[tuple[str, bytes]]()
    first, second = Connection("one", parsed), Connection("one", parsed)
    turns.received(first, b"1")
    turns.received(second, b"2")
    second.transport.is_closing.return_value = True
    second.flow.release()

    await settle(turns)
    assert parsed == [("one", b"1")]
    assert second.reads == ["pause_reading"]
