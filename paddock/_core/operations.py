"""What the client can do, as flows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import httpx
from pydantic import BaseModel

from paddock._core.flows import Emit, Flow, Pause, read_chunk, send
from paddock._core.inputs import VIDEO, video_content, with_inputs
from paddock._core.protocol import MAX_RESPONSE_BYTES, Protocol, Response, segment
from paddock.errors import (
    GenerationFailedError,
    InvalidArgumentError,
    PaddockError,
    ResourceNotFoundError,
    UnexpectedResponseError,
    UnreachableError,
)
from paddock.retry import MARKS, RetryPolicy
from paddock.types import Generation, Lora, Model

MAX_PROMPTS = 1000
"""How many prompts one call of `enqueue` takes."""

MAX_MARKED = 500
"""How many generations one request marks."""

_MAX_KEY_CHARS = 255
_MAX_ERROR_BYTES = 2**20

Filters = Mapping[str, Any]

_ERRNO = re.compile(r"^\[Errno -?\d+\] ")


class _Created(BaseModel):
    generations: list[Generation]


class _Page(BaseModel):
    generations: list[Generation]
    total_pages: int | None = 1
    next_cursor: str | None = None


class _Marked(BaseModel):
    count: int


class _Models(BaseModel):
    data: list[Model]


class _Loras(BaseModel):
    data: list[Lora]


class _Uploaded(BaseModel):
    id: str


class _Deleted(BaseModel):
    pass


class Operations:
    """The flows of one client."""

    def __init__(self, protocol: Protocol, retry: RetryPolicy) -> None:
        self.protocol = protocol
        self.retry = retry

    def call(self, request: httpx.Request, kind: type[Response], retry: RetryPolicy | None = None) -> Flow[Response]:
        """Send a request, again if need be, and read its response."""
        retry = retry or self.retry
        attempt = 0
        while True:
            attempt += 1
            try:
                response = yield from send(request, MAX_RESPONSE_BYTES)
                return self.protocol.read(response, kind)
            except httpx.RequestError as error:
                failure: PaddockError = self.failure(error)
            except PaddockError as error:
                failure = error
            pause = retry.pause(request, failure, attempt)
            if pause is None:
                failure.attempts = attempt
                raise failure
            yield Pause(pause)

    def failure(self, error: httpx.RequestError) -> PaddockError:
        """The error of the client for one of httpx."""
        if isinstance(error, httpx.DecodingError):
            return _caused(UnexpectedResponseError(f"The response of {self.protocol.url} is damaged: {error}"), error)
        reason = _ERRNO.sub("", str(error)) or type(error).__name__
        return _caused(UnreachableError(f"No server answers at {self.protocol.url}: {reason}"), error)

    def check(self, response: httpx.Response) -> Flow[None]:
        """Raise the error of an open response, if its status is not 2xx."""
        if response.is_success:
            return
        content = b""
        while len(content) < _MAX_ERROR_BYTES and (chunk := (yield from read_chunk())) is not None:
            content += chunk
        self.protocol.check(response.status_code, response.headers, content)

    def enqueue(
        self,
        prompts: str | Sequence[str],
        model: str,
        num_generations: int,
        idempotency_key: str | None,
        parameters: Mapping[str, Any],
    ) -> Flow[list[Generation]]:
        """Enqueue the generations of each prompt, one request a prompt."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise InvalidArgumentError(f"prompt must be a string or a list of 1 to {MAX_PROMPTS} strings")
        base = idempotency_key or uuid4().hex
        if not (base.isascii() and base.isprintable() and len(base) <= _MAX_KEY_CHARS - len(f"-{MAX_PROMPTS}")):
            raise InvalidArgumentError("idempotency_key must have at most 250 printable ASCII characters")
        parameters = with_inputs(parameters)
        if (video := video_content(parameters.get(VIDEO))) is not None:
            # too large for the body of a request
            parameters[VIDEO] = yield from self.upload(video)
        enqueued: list[Generation] = []
        for number, prompt in enumerate(prompts):
            body = {"model": model, "prompt": prompt, "num_generations": num_generations, **parameters}
            headers = {"Idempotency-Key": base if len(prompts) == 1 else f"{base}-{number}"}
            try:
                request = self.protocol.request("POST", "/ai/queue", body=body, headers=headers)
                created = yield from self.call(request, _Created)
            except PaddockError as error:
                error.enqueued = tuple(enqueued)
                raise
            about = {"model": model, "prompt": prompt}
            enqueued += [generation.model_copy(update=about) for generation in created.generations]
        return enqueued

    def upload(self, content: bytes) -> Flow[str]:
        """Upload an input, and return the id by which requests name it."""
        return (yield from self.call(self.protocol.upload("/ai/uploads", content), _Uploaded)).id

    def get(self, generation_id: str, retry: RetryPolicy | None = None) -> Flow[Generation]:
        """One generation."""
        request = self.protocol.request("GET", f"/ai/queue/{segment(generation_id)}")
        return (yield from self.call(request, Generation, retry))

    def queue(self, filters: Filters, retry: RetryPolicy | None = None) -> Flow[list[Generation]]:
        """The newest active generations."""
        request = self.protocol.request("GET", "/ai/queue", params=filters)
        return (yield from self.call(request, _Page, retry)).generations

    def history(self, filters: Filters, page_size: int, limit: int | None) -> Flow[None]:
        """Emit all generations, newest first, each once."""
        left, before = limit, set[str]()
        place: dict[str, Any] = {"page": 1}
        while True:
            params = {**filters, **place, "page_size": page_size}
            request = self.protocol.request("GET", "/ai/generations", params=params)
            page = yield from self.call(request, _Page)
            for generation in page.generations:
                if left == 0:
                    return
                # without cursors, generations that came in meanwhile move the last ones of a page to the next
                if generation.id not in before:
                    left = None if left is None else left - 1
                    yield Emit(generation)
            before = {generation.id for generation in page.generations}
            following = _following(place, page)
            if following is None or left == 0:
                return
            place = following

    def mark(
        self, ids: Sequence[str], favourite: bool | None, add_tags: Sequence[str], remove_tags: Sequence[str]
    ) -> Flow[None]:
        """Mark generations, MAX_MARKED at once."""
        marks = {"favourite": favourite, "add_tags": list(add_tags), "remove_tags": list(remove_tags)}
        marks = {name: value for name, value in marks.items() if value not in (None, [])}
        for start in range(0, len(ids), MAX_MARKED):
            body = {"generation_ids": list(ids[start : start + MAX_MARKED]), **marks}
            yield from self.call(self.protocol.request("POST", MARKS, body=body), _Marked)

    def models(self, search: str | None) -> Flow[list[Model]]:
        """The models, or those that match."""
        path = "/ai/models" if search is None else "/ai/models/search"
        return (yield from self.call(self.protocol.request("GET", path, params={"search": search}), _Models)).data

    def loras(self, model: str | None) -> Flow[list[Lora]]:
        """The LoRAs that requests may name, for one model or for all."""
        return (yield from self.call(self.protocol.request("GET", "/ai/loras", params={"model": model}), _Loras)).data

    def cancel(self, generation_id: str, retry: RetryPolicy | None = None) -> Flow[None]:
        """Cancel a generation."""
        request = self.protocol.request("DELETE", f"/ai/queue/{segment(generation_id)}")
        yield from self.call(request, _Deleted, retry)

    def remove(self, generation_id: str) -> Flow[None]:
        """Remove a generation that is over, and its video."""
        request = self.protocol.request("DELETE", f"/ai/generations/{segment(generation_id)}")
        try:
            yield from self.call(request, _Deleted)
        except ResourceNotFoundError as error:
            # the response to an earlier attempt was lost, and that attempt removed it
            if error.attempts == 1:
                raise


def _following(place: Mapping[str, Any], page: _Page) -> dict[str, Any] | None:
    """Where a list goes on after a page, None at its end. Servers of earlier versions have no cursors."""
    if page.next_cursor is not None:
        return {"cursor": page.next_cursor}
    if "cursor" in place or not page.generations or place["page"] >= (page.total_pages or 0):
        return None
    return {"page": place["page"] + 1}


def check_one(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that ask for more than one video."""
    if "num_generations" in parameters:
        raise InvalidArgumentError("num_generations is for enqueue: generate makes one video")


def succeeded(generation: Generation) -> Generation:
    """The same generation; raises GenerationFailedError unless it succeeded."""
    if generation.status != "succeeded":
        raise GenerationFailedError(generation)
    return generation


def _caused(error: PaddockError, cause: Exception) -> PaddockError:
    error.__cause__ = cause
    return error
