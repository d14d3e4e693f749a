"""Few requests of an address are worked on at a time, in their order, and none is lost."""

import asyncio
from typing import Any

import pytest

from server.runtime.http import active_requests
from server.runtime.http.active_requests import MAX_ACTIVE, MAX_ACTIVE_IN_ALL, ActiveRequest, ActiveRequests
from server.runtime.http.http10 import Message, Receive, Send


class Requests:
    """Starts requests, each of which goes on until it is let."""

    def __init__(self) -> None:
        self.all = ActiveRequests()
        self.begun: list[str] = []
        self.received: list[tuple[str, str]] = []
        self.arrived: dict[str, asyncio.Event] = {}
        self.gone: set[str] = set()
        self.tasks: list[asyncio.Task[None]] = []

    def start(
        self, name: str, address: str = "one", until: asyncio.Event | None = None, parts: int = 0
    ) -> ActiveRequest:
        """Start a request that receives so many parts of a body, waits for an event, and answers."""

        async def app(scope: Any, receive: Receive, send: Send) -> None:
            self.begun.append(name)
            for _ in range(parts):
                self.received.append((name, (await receive())["type"]))
            if until is not None:
                await until.wait()
            await send({"type": "http.response.start"})
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            pass

        async def receive() -> Message:
            await arrived.wait()
            arrived.clear()
            return {"type": "http.disconnect" if name in self.gone else "http.request"}

        def begin() -> None:
            self.tasks.append(asyncio.create_task(request.counting(app)({}, receive, send)))  # type: ignore[arg-type]

        arrived = self.arrived[name] = asyncio.Event()
        request = ActiveRequest(self.all, address, asyncio.get_running_loop(), arrived, begin)
        request.start()
        return request

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_many_addresses_share_the_turns_and_each_has_one() -> None:
    requests, until = Requests(), asyncio.Event()
    addresses = [f"address {number}" for number in range(2 * MAX_ACTIVE_IN_ALL)]
    for address in addresses:
        for number in range(3):
            requests.start(f"{address}, {number}", address, until)
    await settle()
    first = [name for name in requests.begun if name.endswith(" 0")]
    assert len(first) == len(addresses)
    # the first addresses came when there were few
    assert len(requests.begun) < len(first) + MAX_ACTIVE_IN_ALL

    until.set()
    await settle()
    assert len(requests.begun) == 3 * len(addresses)
    await requests.end()
    assert not requests.all._active
    assert not requests.all._waiting


async def test_the_rest_waits_until_an_answer_begins_and_other_addresses_do_not() -> None:
    requests, until = Requests(), asyncio.Event()
    names = [str(number) for number in range(3 * MAX_ACTIVE)]
    for name in names:
        requests.start(name, until=until)
    requests.start("other", "two", until)
    await settle()
    assert requests.begun == [*names[:MAX_ACTIVE], "other"]

    until.set()
    await settle()
    assert requests.begun == [*names[:MAX_ACTIVE], "other", *names[MAX_ACTIVE:]]
    await requests.end()
    assert not requests.all._active
    assert not requests.all._waiting


async def test_requests_that_wait_for_something_else_let_others_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active_requests, "ACTIVE_SECONDS", 0.01)
    requests, never = Requests(), asyncio.Event()
    for number in range(3 * MAX_ACTIVE):
        requests.start(str(number), until=never)
    async with asyncio.timeout(10):
        while len(requests.begun) < 3 * MAX_ACTIVE:  # noqa: ASYNC110 - nothing tells when a request begins
            await asyncio.sleep(0.005)
    await requests.end()
    await asyncio.sleep(0.02)
    assert not requests.all._active


async def test_a_request_that_fails_or_is_withdrawn_counts_no_more() -> None:
    requests, until = Requests(), asyncio.Event()
    for number in range(MAX_ACTIVE):
        requests.start(str(number), until=until)
    gone, kept = requests.start("gone"), requests.start("kept")
    gone.withdraw()
    gone.withdraw()
    await settle()
    assert "kept" not in requests.begun

    requests.tasks[0].cancel()
    await settle()
    assert requests.begun[-1] == "kept"
    kept.withdraw()
    await requests.end()
    assert not requests.all._active
    assert not requests.all._waiting


async def test_a_request_that_waits_for_its_body_lets_others_begin_and_then_goes_first() -> None:
    requests, until = Requests(), asyncio.Event()
    for number in range(MAX_ACTIVE):
        requests.start(f"slow {number}", parts=2, until=until)
    for number in range(MAX_ACTIVE + 1):
        requests.start(f"whole {number}", until=until)
    await settle()
    assert requests.begun[MAX_ACTIVE:] == [f"whole {number}" for number in range(MAX_ACTIVE)]

    # its turn comes before that of the one that has not begun
    requests.arrived["slow 1"].set()
    await settle()
    assert not requests.received
    requests.tasks[MAX_ACTIVE].cancel()
    await settle()
    assert requests.received == [("slow 1", "http.request")]
    assert requests.begun[-1] == f"whole {MAX_ACTIVE}"

    until.set()
    await requests.end()
    assert not requests.all._active
    assert not requests.all._waiting


@pytest.mark.parametrize("has_left", [True, False], ids=("told by what it receives", "withdrawn"))
async def test_who_leaves_in_the_middle_of_a_body_is_told_at_once(has_left: bool) -> None:
    requests, until = Requests(), asyncio.Event()
    left = requests.start("left", parts=1, until=until)
    await settle()
    for number in range(MAX_ACTIVE):
        requests.start(str(number), until=until)
    await settle()
    if has_left:
        requests.gone.add("left")
    requests.arrived["left"].set()
    await settle()
    if not has_left:
        assert not requests.received
        left.withdraw()
        await settle()

    assert requests.received == [("left", "http.disconnect" if has_left else "http.request")]
    await requests.end()
    assert not requests.all._active
    assert not requests.all._waiting


async def test_a_request_that_is_cancelled_as_its_turn_comes_gives_it_on() -> None:
    requests, until = Requests(), asyncio.Event()
    requests.start("cancelled", parts=1, until=until)
    await settle()
    for number in range(MAX_ACTIVE):
        requests.start(str(number), until=until)
    requests.start("next", until=until)
    await settle()
    requests.arrived["cancelled"].set()
    await settle()

    requests.tasks[0].cancel()
    requests.tasks[1].cancel()
    await settle()

    assert requests.begun[-1] == "next"
    await requests.end()
    assert not requests.all._active
    assert not requests.all._waiting
