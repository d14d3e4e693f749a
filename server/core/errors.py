"""The error tree. Each error owns its type, HTTP status and title; `body` renders any of them."""

from typing import Any, ClassVar

RETRY_AFTER = 60
"""Seconds after which a client that was refused for want of room may ask again."""


class PaddockError(Exception):
    """An error a client is told of; `str()` is its sentence."""

    type: ClassVar[str] = "unknown_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong on the server"

    def __init__(self, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body, which serves both of the host's two error formats."""
        message = str(self)
        return {
            "error": {"type": self.type, "title": self.title, "detail": message, "message": message},
            "status": "error",
            "status_message": self.type,
        }


class UnauthenticatedError(PaddockError):
    """No key where one is needed, or a wrong one."""

    type, status, title = "unauthenticated", 401, "The request lacks a valid API key"


class InvalidParamsError(PaddockError):
    """The request's parameters, or its body, are not usable."""

    type, status, title = "invalid_params", 400, "The request's parameters are invalid"


class ResourceNotFoundError(PaddockError):
    """Nothing by that name."""

    type, status, title = "resource_not_found", 404, "The requested resource could not be found"


class MethodNotAllowedError(PaddockError):
    """The path exists, the method does not."""

    type, status, title = "method_not_allowed", 405, "The method is not allowed for this path"


class ConflictError(PaddockError):
    """The state of the resource forbids it."""

    type, status, title = "conflict", 409, "The request conflicts with the resource's state"


class PayloadTooLargeError(PaddockError):
    """The body exceeds its limit."""

    type, status, title = "payload_too_large", 413, "The request body is too large"


class UnsupportedMediaTypeError(PaddockError):
    """The body is not declared as JSON."""

    type, status, title = "unsupported_media_type", 415, "The request body must be JSON"


class QueueFullError(PaddockError):
    """No room for another generation; `retry_after` in seconds."""

    type, status, title = "queue_full", 429, "The queue is full"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message, {"Retry-After": str(retry_after)})


class UnavailableError(PaddockError):
    """The server cannot do it now, and may later: in `retry_after` seconds, if that is known."""

    type, status, title = "unavailable", 503, "The server is not available now"

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message, None if retry_after is None else {"Retry-After": str(retry_after)})


class RecordsUnavailableError(UnavailableError):
    """The database fails; `advice` is a sentence for whoever keeps the server, `str()` one for its clients."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message, RETRY_AFTER)
        self.advice = advice


class ModelNotFoundError(ResourceNotFoundError):
    """No such model in the catalogue."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Model not found: {name}")


class GenerationNotFoundError(ResourceNotFoundError):
    """No such generation, or another key's."""

    def __init__(self) -> None:
        super().__init__("No generation has this id.")


class PreviewNotFoundError(ResourceNotFoundError):
    """No picture of a generation, now or here."""

    def __init__(self) -> None:
        super().__init__("This generation has no preview: there is one while it is denoised or decoded.")


BY_STATUS: dict[int, type[PaddockError]] = {
    error.status: error
    for error in (
        InvalidParamsError,
        UnauthenticatedError,
        ResourceNotFoundError,
        MethodNotAllowedError,
        ConflictError,
        PayloadTooLargeError,
        UnsupportedMediaTypeError,
        QueueFullError,
        PaddockError,
        UnavailableError,
    )
}
