"""Which requests are sent again, after what pause, and with which key."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from paddock import (
    InvalidArgumentError,
    PaddockError,
    QueueFullError,
    ResourceNotFoundError,
    RetryPolicy,
    UnavailableError,
    UnreachableError,
)
from paddock.errors import api_error, parse_retry_after
from tests.paddock.scripted import Scripted, error, row

GET = httpx.Request("GET", "http://paddock.test")
POST = httpx.Request("POST", "http://paddock.test")
KEYED = httpx.Request("POST", "http://paddock.test", headers={"Idempotency-Key": "k"})
CREATED = {"generations": [{"generation_id": "one", "status": "queued"}]}


def refused(status: int, retry_after: str | None = None) -> PaddockError:
    return api_error(status, {} if retry_after is None else {"Retry-After": retry_after}, b"")


def test_pauses_double_up_to_a_limit_and_the_attempts_are_counted() -> None:
    policy = RetryPolicy(attempts=6, backoff=1.0, max_pause=6.0)

    pauses = [policy.pause(GET, UnreachableError(), attempt) for attempt in range(1, 7)]

    for pause, longest in zip(pauses[:5], (1, 2, 4, 6, 6), strict=True):
        assert pause is not None
        assert longest / 2 <= pause <= longest
    assert pauses[5] is None
    assert RetryPolicy(attempts=1).pause(GET, UnreachableError(), 1) is None


def test_pauses_differ_between_clients() -> None:
    assert len({RetryPolicy(backoff=1.0).pause(GET, UnreachableError(), 1) for _ in range(9)}) > 1


def test_retry_after_is_respected_or_the_error_is_raised() -> None:
    policy = RetryPolicy(backoff=0.1, max_pause=60.0)

    assert policy.pause(GET, refused(429, "17"), 1) == 17.0
    assert policy.pause(GET, refused(503, "60"), 1) == 60.0
    assert policy.pause(GET, refused(503, "61"), 1) is None


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 500])
def test_a_permanent_error_is_not_retried(status: int) -> None:
    assert RetryPolicy().pause(GET, refused(status), 1) is None


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_temporary_error_is_retried(status: int) -> None:
    assert RetryPolicy().pause(GET, refused(status), 1) is not None


def test_a_request_that_is_not_idempotent_is_sent_once() -> None:
    assert RetryPolicy().pause(POST, UnreachableError(), 1) is None
    assert RetryPolicy().pause(POST, refused(503, "1"), 1) is None
    assert RetryPolicy().pause(KEYED, UnreachableError(), 1) is not None


def test_retry_after_is_seconds_or_a_date() -> None:
    assert parse_retry_after("120") == 120.0
    soon = parse_retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    assert soon is not None
    assert 28 < soon <= 30
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert parse_retry_after("soon") is None
    assert parse_retry_after(None) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attempts": 0}, "attempts must be an integer from 1"),
        ({"backoff": -1.0}, "backoff must be a number of seconds from 0"),
        ({"max_pause": float("nan")}, "max_pause must be a number"),
        ({"reconnect_timeout": float("inf")}, "reconnect_timeout must be a number"),
    ],
)
def test_an_invalid_policy_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        RetryPolicy(**changes)


LOST = httpx.ReadError("the connection broke")


async def test_all_attempts_of_a_call_share_a_key_and_calls_do_not(connect: Callable[..., Any]) -> None:
    script = Scripted(enqueue=[LOST, error(503, Retry_After="0"), CREATED])
    client = connect(script)

    await client.enqueue("an ox")
    await client.enqueue("an ox")
    await client.enqueue("an ox", idempotency_key="mine")

    keys = [request.headers["Idempotency-Key"] for request in script.requests]
    assert len(keys) == 5
    assert len(set(keys[:3])) == 1
    assert len(set(keys[2:])) == 3
    assert keys[4] == "mine"


async def test_each_prompt_has_its_own_key(connect: Callable[..., Any]) -> None:
    script = Scripted(enqueue=[CREATED])

    made = await connect(script).enqueue(["an ox", "a lake"], idempotency_key="mine")

    assert [request.headers["Idempotency-Key"] for request in script.requests] == ["mine-0", "mine-1"]
    assert [generation.prompt for generation in made] == ["an ox", "a lake"]


async def test_an_error_holds_the_generations_accepted_before(connect: Callable[..., Any]) -> None:
    full = error(429, "queue_full", "The queue is full.", Retry_After="3600")
    script = Scripted(enqueue=[CREATED, full])

    with pytest.raises(QueueFullError, match="The queue is full") as refused:
        await connect(script).enqueue(["an ox", "a lake", "a duck"])

    assert refused.value.retry_after == 3600
    assert [generation.prompt for generation in refused.value.enqueued] == ["an ox"]
    assert len(script.requests) == 2


async def test_attempts_are_bounded(connect: Callable[..., Any]) -> None:
    script = Scripted(row=[httpx.ConnectError("refused")], queue=[error(503)])
    client = connect(script)

    with pytest.raises(UnreachableError, match=r"No server answers at http://paddock\.test: refused") as lost:
        await client.get("one")
    with pytest.raises(UnavailableError, match="Not now"):
        await client.queue()

    assert lost.value.attempts == len(script.of("row")) == len(script.of("queue")) == 3


async def test_the_pause_is_the_servers_retry_after(
    connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("paddock._drivers.asyncio.sleep", sleep)
    monkeypatch.setattr("paddock._drivers.time.sleep", slept.append)
    script = Scripted(row=[error(503, Retry_After="7"), row()])

    assert (await connect(script).get("one")).id == "one"
    assert slept == [7.0]


async def test_a_removal_whose_response_was_lost_succeeds(connect: Callable[..., Any]) -> None:
    gone = error(404, "resource_not_found", "No generation has this id.")

    await connect(Scripted(delete=[LOST, gone])).remove("one")
    with pytest.raises(ResourceNotFoundError):
        await connect(Scripted(delete=[gone])).remove("one")
