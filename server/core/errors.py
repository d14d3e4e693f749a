"""The errors of the API. Each class defines its type, HTTP status and title; `body` renders any of them."""

import os
import re
from typing import Any, ClassVar

_MAX_NAME_CHARS = 200

RETRY_AFTER = 60
"""Seconds after which a client that was refused for lack of space may try again."""


class PaddockError(Exception):
    """An error that is reported to the client; `str()` is its sentence."""

    type: ClassVar[str] = "unknown_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong on the server"

    def __init__(self, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body, which is valid in both error formats of the hosted API."""
        return self.body_with(str(self))

    @classmethod
    def body_with(cls, message: str) -> dict[str, Any]:
        """Return the JSON body of an error of this class with this sentence."""
        return {
            "error": {"type": cls.type, "title": cls.title, "detail": message, "message": message},
            "status": "error",
            "status_message": cls.type,
        }


class UnauthenticatedError(PaddockError):
    """An API key is required, and the request has none or a wrong one."""

    type, status, title = "unauthenticated", 401, "The request lacks a valid API key"


class ForbiddenError(PaddockError):
    """The API key is valid, but it may not do this."""

    type, status, title = "forbidden", 403, "The API key does not permit this request"


class InvalidParamsError(PaddockError):
    """The request's parameters or its body are invalid."""

    type, status, title = "invalid_params", 400, "The request's parameters are invalid"


class ResourceNotFoundError(PaddockError):
    """The resource does not exist."""

    type, status, title = "resource_not_found", 404, "The requested resource could not be found"


class MethodNotAllowedError(PaddockError):
    """The path does not support the method."""

    type, status, title = "method_not_allowed", 405, "The method is not allowed for this path"


class ConflictError(PaddockError):
    """The request conflicts with the state of the resource."""

    type, status, title = "conflict", 409, "The request conflicts with the resource's state"


class PayloadTooLargeError(PaddockError):
    """The body exceeds its limit."""

    type, status, title = "payload_too_large", 413, "The request body is too large"


class UnsupportedMediaTypeError(PaddockError):
    """The body is not declared as JSON."""

    type, status, title = "unsupported_media_type", 415, "The request body must be JSON"


class RangeNotSatisfiableError(PaddockError):
    """The requested range is outside a file of `size` bytes."""

    type, status, title = "range_not_satisfiable", 416, "The requested range is not in the file"

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message, {"Content-Range": f"bytes */{size}"})


class QueueFullError(PaddockError):
    """The queue is full; `retry_after` in seconds."""

    type, status, title = "queue_full", 429, "The queue is full"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message, {"Retry-After": str(retry_after)})


class UnavailableError(PaddockError):
    """The request cannot be served now, but perhaps in `retry_after` seconds (None: unknown)."""

    type, status, title = "unavailable", 503, "The server is not available now"

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message, None if retry_after is None else {"Retry-After": str(retry_after)})


class RecordsUnavailableError(UnavailableError):
    """The database failed; `str()` is a sentence for clients, `advice` one for the operator."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message, RETRY_AFTER)
        self.advice = advice


class ModelNotFoundError(ResourceNotFoundError):
    """The catalogue has no such model."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Model not found: {name[:_MAX_NAME_CHARS]}")


class GenerationNotFoundError(ResourceNotFoundError):
    """The generation does not exist or belongs to another tenant."""

    def __init__(self) -> None:
        super().__init__("No generation has this id.")


class PreviewNotFoundError(ResourceNotFoundError):
    """The generation has no preview now, or none on this server."""

    def __init__(self) -> None:
        super().__init__("This generation has no preview. A preview exists only during denoising and decoding.")


BY_STATUS: dict[int, type[PaddockError]] = {
    error.status: error
    for error in (
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
        PaddockError,
        UnavailableError,
    )
}


# what precedes the last name of an absolute path; before the path of a URL, and before a slash in a text, is a letter,
# but also before that of a compiler's folder
_FOLDERS = re.compile(r"(?:(?<![\w/.:~-])|(?<=-[IL]))(?:~?/|[A-Za-z]:\\)(?:[^\s'\"/\\]+[/\\])*(?=[^\s'\"/\\])")


def reason(error: OSError) -> str:
    """Say why the system or an object store refused, as the end of a sentence without its full stop."""
    return os.strerror(error.errno) if error.errno else str(error)


def without_paths(sentence: str) -> str:
    """Return a sentence in which files and folders have their names only: clients do not learn where they are."""
    return _FOLDERS.sub("", sentence)
