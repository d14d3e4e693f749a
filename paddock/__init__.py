"""The Python client of a Paddock server: `Client`, and `AsyncClient` for asyncio."""

from paddock.async_client import AsyncClient
from paddock.client import Client
from paddock.errors import (
    APIError,
    ConflictError,
    DownloadError,
    GenerationFailedError,
    InvalidArgumentError,
    InvalidParamsError,
    MethodNotAllowedError,
    PaddockError,
    PayloadTooLargeError,
    QueueFullError,
    ResourceNotFoundError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
    UnexpectedResponseError,
    UnreachableError,
    UnsupportedMediaTypeError,
    VideoUnavailableError,
    WaitTimeoutError,
)
from paddock.retry import RetryPolicy
from paddock.types import DEFAULT_MODEL, Filters, Generation, Model, Parameters, QueueFilters, Update

__all__ = [
    "DEFAULT_MODEL",
    "APIError",
    "AsyncClient",
    "Client",
    "ConflictError",
    "DownloadError",
    "Filters",
    "Generation",
    "GenerationFailedError",
    "InvalidArgumentError",
    "InvalidParamsError",
    "MethodNotAllowedError",
    "Model",
    "PaddockError",
    "Parameters",
    "PayloadTooLargeError",
    "QueueFilters",
    "QueueFullError",
    "ResourceNotFoundError",
    "RetryPolicy",
    "ServerError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnexpectedResponseError",
    "UnreachableError",
    "UnsupportedMediaTypeError",
    "Update",
    "VideoUnavailableError",
    "WaitTimeoutError",
]
