"""The errors that the client raises. Each `str()` is a sentence."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from paddock.types import Generation

_MAX_MESSAGE = 500


class PaddockError(Exception):
    """The base of all errors of this package.

    `attempts` is how often the request was sent. `enqueued` holds the generations that the server accepted before the
    error; only `enqueue` with several prompts fills it.
    """

    attempts: int = 1
    enqueued: "tuple[Generation, ...]" = ()


class InvalidArgumentError(PaddockError, ValueError):
    """An argument of a call cannot be used: a malformed URL or API key, too many prompts."""


class UnreachableError(PaddockError):
    """The server did not answer: no connection, a broken one, or a time-out."""


class UnexpectedResponseError(PaddockError):
    """The response is not one of Paddock's API: not JSON, a redirect, too large, or without a required field."""


class WaitTimeoutError(PaddockError, TimeoutError):
    """The generations were not over within the `timeout` of the call. They go on, except in `generate`."""


class DownloadError(PaddockError):
    """The video cannot be written to its path, or exceeds `max_bytes`."""


class VideoUnavailableError(PaddockError):
    """The generation has no video: it is not over, did not succeed, or its video was removed to free space."""


class GenerationFailedError(PaddockError):
    """The generation failed or was cancelled. `generation` is its last row, with `error_message`."""

    def __init__(self, generation: "Generation") -> None:
        super().__init__(f"The generation {generation.status}: {generation.error_message or 'by request'}")
        self.generation = generation


class APIError(PaddockError):
    """The server refused the request.

    `type` is the error's type in the API, `status_code` the HTTP status. `retry_after` is the number of seconds after
    which the server expects to accept the request, or None. This class stands for types that have no class below.
    """

    type: ClassVar[str] = ""
    status: ClassVar[int] = 0

    def __init__(self, message: str, status_code: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.retry_after = retry_after


class InvalidParamsError(APIError):
    """The request's parameters or its body are invalid."""

    type, status = "invalid_params", 400


class UnauthenticatedError(APIError):
    """The API key is missing or wrong."""

    type, status = "unauthenticated", 401


class ForbiddenError(APIError):
    """The API key is valid, but it may not do this."""

    type, status = "forbidden", 403


class ResourceNotFoundError(APIError):
    """The model or the generation does not exist, or belongs to another API key."""

    type, status = "resource_not_found", 404


class MethodNotAllowedError(APIError):
    """The server knows the path, but not with this method. It may be an older version."""

    type, status = "method_not_allowed", 405


class ConflictError(APIError):
    """The state of the generation forbids the request, or the idempotency key belongs to another request."""

    type, status = "conflict", 409


class PayloadTooLargeError(APIError):
    """The request body exceeds the server's limit."""

    type, status = "payload_too_large", 413


class UnsupportedMediaTypeError(APIError):
    """The server does not accept the type of the body."""

    type, status = "unsupported_media_type", 415


class RangeNotSatisfiableError(APIError):
    """The requested part of a file lies beyond its end."""

    type, status = "range_not_satisfiable", 416


class QueueFullError(APIError):
    """The queue is full."""

    type, status = "queue_full", 429


class ServerError(APIError):
    """The request failed for a reason inside the server."""

    type, status = "unknown_error", 500


class UnavailableError(APIError):
    """The server, or a proxy in front of it, cannot serve the request now and may later."""

    type, status = "unavailable", 503


_CLASSES: tuple[type[APIError], ...] = (
    InvalidParamsError,
    UnauthenticatedError,
    ForbiddenError,
    ResourceNotFoundError,
    MethodNotAllowedError,
    ConflictError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
    RangeNotSatisfiableError,
    QueueFullError,
    ServerError,
    UnavailableError,
)
_BY_TYPE = {each.type: each for each in _CLASSES}
# a proxy answers without Paddock's body; its 502 and 504 mean that the server behind it is away
_BY_STATUS = {each.status: each for each in _CLASSES} | {502: UnavailableError, 504: UnavailableError}


def api_error(status_code: int, headers: Mapping[str, str], content: bytes) -> APIError:
    """The error of a response whose status is not 2xx, also if a proxy wrote the response."""
    error: dict[str, Any] = {}
    try:
        body = json.loads(content)
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            error = body["error"]
    except (ValueError, RecursionError):
        pass
    kind = _BY_TYPE.get(str(error.get("type"))) or _BY_STATUS.get(status_code, APIError)
    message = error.get("message")
    if not isinstance(message, str) or not message:
        message = _reason(status_code)
    return kind(message[:_MAX_MESSAGE], status_code, parse_retry_after(headers.get("Retry-After")))


def parse_retry_after(value: str | None) -> float | None:
    """The seconds of a Retry-After header, which holds a number of seconds or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _reason(status_code: int) -> str:
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return f"HTTP status {status_code}"
