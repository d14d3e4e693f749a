"""Schemas of error responses."""

from typing import Literal

from pydantic import BaseModel

from server.api.schemas.example import example

ErrorType = Literal[
    "unauthenticated",
    "forbidden",
    "invalid_params",
    "resource_not_found",
    "unknown_error",
    "method_not_allowed",
    "conflict",
    "payload_too_large",
    "unsupported_media_type",
    "range_not_satisfiable",
    "queue_full",
    "unavailable",
]


class ErrorDetail(BaseModel):
    """An error. `message` and `detail` are the same sentence for people."""

    type: ErrorType
    title: str
    detail: str
    message: str


class ErrorBody(BaseModel):
    """The body of every error response."""

    error: ErrorDetail
    status: Literal["error"]
    status_message: ErrorType

    model_config = example(
        {
            "error": {
                "type": "resource_not_found",
                "title": "The requested resource could not be found",
                "detail": "Model not found: wan",
                "message": "Model not found: wan",
            },
            "status": "error",
            "status_message": "resource_not_found",
        }
    )
