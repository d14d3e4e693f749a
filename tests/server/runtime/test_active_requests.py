"""Few requests of an address are worked on at a time, in their order, and none is lost."""

import asyncio
from typing import Any

import pytest

from server.runtime import active_requests
from server.runtime.active_requests import MAX_ACTIVE, ActiveRequest, ActiveRequests


class Requests:
    """Starts requests, each of which goes on until it is let."""

    def __init__(self) -> None:
        self.all = ActiveRequests()
        self.begun: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, address: str = "one", until: asyncio.Event | None = None) -> ActiveRequest:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.begun.append(name)
            if until is not None:
                await until.wait()
            await send({"type": "http.response.start"})
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            pass

        def begin(answer: Any) -> None:
            self.tasks.append(asyncio.create_task(answer({}, None, send)))

        request = ActiveRequest(self.all, address, asyncio.get_running_loop(), app, begin)
        request.start()
        return request

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


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
