"""A transport for both clients that returns prepared responses, without a network."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

Answer = Callable[[httpx.Request], httpx.Response]


class Scripted(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Returns the responses prepared for each path, and repeats the last one; an exception is raised."""

    def __init__(self, **answers: list[Any]) -> None:
        self._answers = {name: list(listed) for name, listed in answers.items()}
        self.requests: list[httpx.Request] = []

    def of(self, name: str) -> list[httpx.Request]:
        """The requests of one kind."""
        return [each for each in self.requests if name_of(each) == name]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        self.requests.append(request)
        answers = self._answers[name_of(request)]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, dict):
            return httpx.Response(200, json=answer)
        if isinstance(answer, httpx.Response):
            # a response can be read once
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        response: httpx.Response = answer(request)
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        return self.handle_request(request)


def name_of(request: httpx.Request) -> str:
    """The purpose of a request."""
    match request.method, request.url.path.split("/")[2:]:
        case "POST", ["ai", "queue"]:
            return "enqueue"
        case "GET", ["ai", "queue"]:
            return "queue"
        case "GET", ["ai", "queue", _]:
            return "row"
        case "DELETE", ["ai", _, _]:
            return "delete"
        case _, [*_, last]:
            return last
    raise AssertionError(request.url)


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in chunks; an exception among them breaks the connection."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = chunks
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def close(self) -> None:
        """The client has closed it."""
        self.is_closed = True

    async def aclose(self) -> None:
        """The client has closed it."""
        self.close()


def events(*chunks: bytes | Exception | tuple[str, dict[str, Any]]) -> Answer:
    """An event stream: an event is its name and data; bytes are sent as they are."""
    encoded = [
        f"event: {chunk[0]}\ndata: {json.dumps(chunk[1], separators=(',', ':'))}\n\n".encode()
        if isinstance(chunk, tuple)
        else chunk
        for chunk in chunks
    ]
    return lambda _: httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=Stream(*encoded))


def row(status: str = "processing", id_: str = "one", **more: Any) -> dict[str, Any]:
    """A generation's row."""
    return {"generation_id": id_, "status": status, "model_name": "m", "prompt": "an ox", "progress": 0.0, **more}


def error(status: int, type_: str = "unavailable", message: str = "Not now.", **headers: str) -> httpx.Response:
    """An error as the server writes it."""
    body = {"error": {"type": type_, "title": "", "detail": message, "message": message}, "status": "error"}
    return httpx.Response(status, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})
