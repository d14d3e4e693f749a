"""Errors in the form that clients of OpenAI read, on every path under /v1."""

import re
from typing import Any

from server.core.errors import (
    ModelNotFoundError,
    PaddockError,
    QueueFullError,
    ResourceNotFoundError,
    UnauthenticatedError,
)

PREFIX = "/v1"

_CODES: dict[type[PaddockError], str] = {
    UnauthenticatedError: "invalid_api_key",
    ModelNotFoundError: "model_not_found",
    ResourceNotFoundError: "not_found",
    QueueFullError: "rate_limit_exceeded",
}
"""Where OpenAI has another word than the type of our error."""

# sentences about a parameter begin with its name, all others with a capital letter
_PARAMETER = re.compile(r"[a-z][a-z0-9_]*(\.[a-z_]+)?(?=[ :,])")


def error_body(path: str, error: PaddockError) -> dict[str, Any]:
    """Return the JSON body of an error for a path of the server."""
    return openai_body(error) if is_openai(path) else error.body


def is_openai(path: str) -> bool:
    """Whether a path is of OpenAI's API."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def openai_body(error: PaddockError) -> dict[str, Any]:
    """Return the JSON body of an error in OpenAI's form."""
    kind, sentence = type(error), str(error)
    named = _PARAMETER.match(sentence)
    param = "model" if kind is ModelNotFoundError else None if named is None else named[0]
    code = next((_CODES[each] for each in kind.__mro__ if each in _CODES), kind.type)
    return {"error": {"message": sentence, "type": error_type(kind.status), "param": param, "code": code}}


def error_type(status: int) -> str:
    """Return OpenAI's word for the kind of an error."""
    if status == QueueFullError.status:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
