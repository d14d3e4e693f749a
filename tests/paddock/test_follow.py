"""Generations are followed by events and rows, over broken streams, restarts and silence."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from paddock import (
    GenerationFailedError,
    ResourceNotFoundError,
    RetryPolicy,
    UnauthenticatedError,
    UnexpectedResponseError,
    UnreachableError,
    WaitTimeoutError,
)
from tests.paddock.scripted import Scripted, Stream, error, events, row

LOST = httpx.ReadError("the connection broke")
KEEP_ALIVE = b": keep-alive\n\n"
DONE = ("media_generation_completed", {"generation_id": "one", "status": "succeeded"})
OTHERS = ("media_generation_completed", {"generation_id": "another", "status": "succeeded"})


def step(number: int, id_: str = "one") -> tuple[str, dict[str, Any]]:
    about = {"generation_id": id_, "status": "processing", "progress": number / 4, "eta_seconds": None}
    return "media_generation_progress", {**about, "stage": "denoising", "step": number, "steps": 4}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddock._core.follow.RECONNECT_SECONDS", 0.0)


SILENT = httpx.ReadTimeout("nothing came")


async def collect(client: Any, *args: Any, **kwargs: Any) -> list[Any]:
    return [update async for update in client.follow(*args, **kwargs)]


async def test_progress_comes_from_events_and_the_end_from_the_row(connect: Callable[..., Any]) -> None:
    script = Scripted(
        events=[events(KEEP_ALIVE, step(1), OTHERS, step(2, "another"), step(2), DONE, step(4))],
        row=[row("queued", queue_position=3), row("succeeded", result_url="http://paddock.test/x")],
    )

    updates = await collect(connect(script), "one")

    assert [(each.status, each.queue_position, each.step) for each in updates] == [
        ("queued", 3, None),
        ("processing", None, 1),
        ("processing", None, 2),
        ("succeeded", None, None),
    ]
    assert [each.generation is not None for each in updates] == [False, False, False, True]
    assert updates[-1].generation.result_url == "http://paddock.test/x"
    assert all(each.is_connected for each in updates)


async def test_a_broken_stream_is_opened_again(connect: Callable[..., Any]) -> None:
    script = Scripted(
        events=[
            events(step(1), LOST),
            httpx.ConnectError("refused"),
            error(503, message="The server is stopping."),
            # a stream that ends in order is opened again, and its rows are read
            events(),
            events(DONE),
        ],
        row=[row(), row(), row(), row("succeeded")],
    )

    updates = await collect(connect(script), "one")

    assert [(each.status, each.step, each.is_connected) for each in updates] == [
        ("processing", None, True),
        ("processing", 1, True),
        ("processing", 1, False),
        ("processing", 1, False),
        ("processing", 1, False),
        # its row says that it still runs
        ("processing", 1, True),
        ("succeeded", None, True),
    ]


async def test_an_end_that_was_missed_is_found_in_the_row(connect: Callable[..., Any]) -> None:
    script = Scripted(events=[events(LOST), events(KEEP_ALIVE)], row=[row(), row("failed", error_message="Too big.")])
    client = connect(script)

    ended = await client.wait("one")

    assert (ended.status, ended.error_message) == ("failed", "Too big.")


async def test_a_cancellation_is_found_without_an_event(
    connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paddock._core.follow.POLL_SECONDS", 0.0)
    rows = [row("queued", queue_position=place) for place in (2, 2, 1)]
    script = Scripted(events=[events(*[KEEP_ALIVE] * 9)], row=[*rows, row("cancelled")])

    updates = await collect(connect(script), "one")

    # an unchanged position gives no update
    assert [(each.status, each.queue_position) for each in updates] == [
        ("queued", 2),
        ("queued", 1),
        ("cancelled", None),
    ]
    assert len(script.of("events")) == 1


async def test_a_silent_stream_is_replaced_without_a_lost_connection(connect: Callable[..., Any]) -> None:
    script = Scripted(events=[events(step(1), SILENT), events(SILENT)], row=[row(), row(), row(), row("cancelled")])

    updates = await collect(connect(script), "one")

    assert [(each.status, each.step, each.is_connected) for each in updates] == [
        ("processing", None, True),
        ("processing", 1, True),
        # the row's own progress, which was read later
        ("processing", 1, True),
        ("cancelled", None, True),
    ]
    assert len(script.of("events")) == 4


async def test_several_generations_share_one_stream_and_one_list(connect: Callable[..., Any]) -> None:
    listed = {"generations": [row(id_="two"), row("queued", id_="one", queue_position=1)]}
    script = Scripted(
        events=[events(step(1, "two"), ("media_generation_completed", {"generation_id": "two", "status": "x"}), DONE)],
        queue=[listed],
        row=[lambda request: httpx.Response(200, json=row("succeeded", id_=request.url.path.rpartition("/")[2]))],
    )
    client = connect(script)
    seen: list[Any] = []

    ended = await client.wait_all(["one", "two", "three"], on_update=seen.append)

    assert [each.id for each in ended] == ["one", "two", "three"]
    assert {each.status for each in ended} == {"succeeded"}
    # the third is over before the stream is open, and has no event
    assert [each.generation_id for each in seen if each.generation] == ["three", "two", "one"]
    assert len(script.of("events")) == len(script.of("queue")) == 1
    assert len(script.of("row")) == 3
    assert await client.wait_all([]) == []


async def test_a_server_that_stays_away_is_an_error_in_the_end(connect: Callable[..., Any]) -> None:
    script = Scripted(events=[httpx.ConnectError("refused")], row=[row()])
    client = connect(script, retry=RetryPolicy(reconnect_timeout=0.05))
    updates = client.follow("one")

    assert not (await anext(updates)).is_connected
    with pytest.raises(UnreachableError, match="refused"):
        while True:
            assert not (await anext(updates)).is_connected


@pytest.mark.parametrize(
    ("answer", "class_"),
    [
        (error(401, "unauthenticated"), UnauthenticatedError),
        (httpx.Response(200, html="<h1>Log in</h1>"), UnexpectedResponseError),
        (events(b"event: media_generation_progress\ndata: no JSON\n\n"), UnexpectedResponseError),
    ],
)
async def test_a_permanent_error_is_raised(connect: Callable[..., Any], answer: Any, class_: type[Exception]) -> None:
    script = Scripted(events=[answer], row=[row()])

    with pytest.raises(class_):
        await collect(connect(script), "one")

    assert len(script.of("events")) == 1


async def test_an_unknown_generation_is_an_error(connect: Callable[..., Any]) -> None:
    script = Scripted(events=[events()], row=[error(404, "resource_not_found")])

    with pytest.raises(ResourceNotFoundError):
        await collect(connect(script), "one")


async def test_waiting_has_a_limit(connect: Callable[..., Any]) -> None:
    script = Scripted(events=[events(KEEP_ALIVE)], row=[row()], queue=[{"generations": [row(), row(id_="two")]}])

    with pytest.raises(WaitTimeoutError, match=r"one is not over after 0\.01 s"):
        await connect(script).wait("one", timeout=0.01)
    with pytest.raises(WaitTimeoutError, match="one and 1 more are not over"):
        await connect(script).wait_all(["one", "two"], timeout=0.01)

    # a silent stream must not outlast the time-out
    assert script.of("events")[0].extensions["timeout"]["read"] == 1.0
    assert not script.of("delete")


async def test_the_stream_is_closed_when_iteration_stops(connect: Callable[..., Any], kind: str) -> None:
    stream = Stream(*[KEEP_ALIVE] * 9)
    answer = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=stream)
    updates = connect(Scripted(events=[lambda _: answer], row=[row()])).follow("one")

    assert (await anext(updates)).status == "processing"
    assert not stream.is_closed
    await updates.aclose()

    if kind == "async":
        assert stream.is_closed


CREATED = {"generations": [{"generation_id": "one", "status": "queued"}]}


async def test_generate_raises_the_reason_of_a_failure(connect: Callable[..., Any]) -> None:
    script = Scripted(enqueue=[CREATED], events=[events()], row=[row("failed", error_message="Too big.")], delete=[{}])

    with pytest.raises(GenerationFailedError, match="The generation failed: Too big") as failed:
        await connect(script).generate("an ox", width=64)

    assert failed.value.generation.id == "one"


async def test_generate_cancels_after_its_timeout(connect: Callable[..., Any]) -> None:
    script = Scripted(enqueue=[CREATED], events=[events(KEEP_ALIVE)], row=[row()], delete=[{}])

    with pytest.raises(WaitTimeoutError):
        await connect(script).generate("an ox", timeout=0.01)

    assert [request.url.path for request in script.of("delete")] == ["/api/ai/queue/one"]
