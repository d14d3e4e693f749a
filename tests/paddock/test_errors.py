"""Errors of the API have classes, other responses are recognized, and arguments are checked."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

import paddock
from paddock import InvalidArgumentError, UnavailableError, UnexpectedResponseError
from tests.paddock.scripted import Scripted, error

# the types of the hosted contract and of ours, with their statuses
TYPES = {
    "invalid_params": (400, paddock.InvalidParamsError),
    "unauthenticated": (401, paddock.UnauthenticatedError),
    "forbidden": (403, paddock.ForbiddenError),
    "resource_not_found": (404, paddock.ResourceNotFoundError),
    "method_not_allowed": (405, paddock.MethodNotAllowedError),
    "conflict": (409, paddock.ConflictError),
    "payload_too_large": (413, paddock.PayloadTooLargeError),
    "unsupported_media_type": (415, paddock.UnsupportedMediaTypeError),
    "range_not_satisfiable": (416, paddock.RangeNotSatisfiableError),
    "queue_full": (429, paddock.QueueFullError),
    "unknown_error": (500, paddock.ServerError),
    "unavailable": (503, paddock.UnavailableError),
}


@pytest.mark.parametrize("type_", TYPES)
async def test_each_type_has_a_class(connect: Callable[..., Any], type_: str) -> None:
    status, class_ = TYPES[type_]
    script = Scripted(row=[error(status, type_, "A sentence.", Retry_After="90")])

    with pytest.raises(class_, match=r"^A sentence\.$") as refused:
        await connect(script).get("one")

    assert (refused.value.type, refused.value.status_code, refused.value.retry_after) == (type_, status, 90.0)


def test_the_servers_error_types_are_these() -> None:
    from server.core.errors import BY_STATUS

    assert {error.type: status for status, error in BY_STATUS.items()} == {
        type_: status for type_, (status, _) in TYPES.items()
    }


@pytest.mark.parametrize(
    ("answer", "class_", "sentence"),
    [
        (httpx.Response(502, html="<h1>Bad Gateway</h1>"), UnavailableError, "Bad Gateway"),
        (httpx.Response(404, text="nginx"), paddock.ResourceNotFoundError, "Not Found"),
        (error(418, "short_and_stout", "I am a teapot."), paddock.APIError, "I am a teapot."),
        (httpx.Response(599, json={"error": "odd"}), paddock.APIError, "HTTP status 599"),
        (httpx.Response(200, text="<html>"), UnexpectedResponseError, "does not answer as a Paddock server does: body"),
        (httpx.Response(200, json={}), UnexpectedResponseError, "generation_id: Field required"),
        (httpx.Response(301, headers={"Location": "https://b.test/x"}), UnexpectedResponseError, "to https://b.test/x"),
        (httpx.DecodingError("gzip"), UnexpectedResponseError, "is damaged: gzip"),
    ],
)
async def test_responses_of_proxies_and_other_servers_are_errors(
    connect: Callable[..., Any], answer: Any, class_: type[Exception], sentence: str
) -> None:
    with pytest.raises(class_, match=sentence):
        await connect(Scripted(row=[answer])).get("one")


async def test_a_response_has_a_size_limit(connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddock._core.operations.MAX_RESPONSE_BYTES", 1000)

    with pytest.raises(UnexpectedResponseError, match="larger than 1000 bytes"):
        await connect(Scripted(row=[httpx.Response(200, content=b" " * 1001)])).get("one")


async def test_fields_of_a_newer_server_are_kept(connect: Callable[..., Any]) -> None:
    row = {"generation_id": "one", "status": "resting", "model_name": "m", "width": 64, "has_smell": True}

    generation = await connect(Scripted(row=[row])).get("one")

    assert (generation.id, generation.status, generation.model, generation.is_over) == ("one", "resting", "m", False)
    assert generation.parameters == {"width": 64, "has_smell": True}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("localhost:8000", "must begin with http:// or https://"),
        ("ftp://a.test", "must begin with http:// or https://"),
        ("http://", "must begin with http:// or https://"),
        ("http://me:secret@a.test", "pass the key as api_key"),
        ("http://a.test/?key=1", "no query"),
        ("http://a.test:port", "url is not valid"),
    ],
)
def test_an_invalid_url_is_refused(connect: Callable[..., Any], url: str, sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        connect(url)


@pytest.mark.parametrize("path", ["", "/", "/api", "/api/", "/api/ai", "/api/ai/"])
async def test_the_hosted_apis_base_url_is_accepted(connect: Callable[..., Any], path: str) -> None:
    script = Scripted(row=[{"generation_id": "one", "status": "queued"}])

    await connect(f"http://a.test{path}", transport=script).get("one")

    assert str(script.requests[0].url) == "http://a.test/api/ai/queue/one"


async def test_address_and_key_come_from_the_environment(
    connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDOCK_URL", "https://a.test/below/")
    monkeypatch.setenv("PADDOCK_API_KEY", "the key\n")
    queued = {"generation_id": "one", "status": "queued"}
    script = Scripted(row=[queued], one=[queued])

    await connect(None, transport=script).get("one")
    await connect("http://b.test", "other", transport=script).get("one")

    assert [str(each.url) for each in script.requests] == [
        "https://a.test/below/api/ai/queue/one",
        "http://b.test/api/ai/queue/one",
    ]
    assert [each.headers["Authorization"] for each in script.requests] == ["Bearer the key", "Bearer other"]


async def test_without_a_key_none_is_sent(connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_API_KEY", "")
    script = Scripted(row=[{"generation_id": "one", "status": "queued"}])

    await connect(script).get("one")

    assert "Authorization" not in script.requests[0].headers


async def test_invalid_arguments_are_refused(connect: Callable[..., Any]) -> None:
    client = connect(Scripted())

    for prompts in ([], ["an ox"] * 1001):
        with pytest.raises(InvalidArgumentError, match="a list of 1 to 1000 strings"):
            await client.enqueue(prompts)
    with pytest.raises(InvalidArgumentError, match="at most 250 printable ASCII characters"):
        await client.enqueue("an ox", idempotency_key="k" * 251)
    with pytest.raises(InvalidArgumentError, match="num_generations is for enqueue"):
        await client.generate("an ox", num_generations=2)
    with pytest.raises(InvalidArgumentError, match="cannot be sent as JSON"):
        await client.enqueue("an ox", guidance_scale=float("nan"))
    with pytest.raises(InvalidArgumentError, match="id must not be empty"):
        await client.get("")
    for key in ("schlüssel", "a\nb"):
        with pytest.raises(InvalidArgumentError, match="api_key must consist of printable ASCII"):
            connect("http://a.test", key)
    with pytest.raises(InvalidArgumentError, match="timeout must be"):
        connect("http://a.test", timeout=0)


async def test_an_id_is_one_segment_of_the_path(connect: Callable[..., Any]) -> None:
    script = Scripted(**{"queue": [{"generation_id": "x", "status": "queued"}], "%2E%2E%2Fmodels": []})

    with pytest.raises(KeyError, match="models"):
        await connect(script).get("../models")

    assert script.requests[0].url.raw_path == b"/api/ai/queue/..%2Fmodels"
