"""Files that requests bring: images, named by a path or given as they are."""

import base64
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from paddock.errors import InvalidArgumentError

MAX_BYTES = 20 * 2**20
"""The limit of the API."""

_INPUTS = ("input_image", "end_image_url", "tail_image_url")
_SENT_AS_IT_IS = ("data:", "http://", "https://", "upload:")


def with_inputs(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters in which the content of files stands for their paths. Raises InvalidArgumentError."""
    return {name: _encoded(name, value) if name in _INPUTS else value for name, value in parameters.items()}


def _encoded(name: str, value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_SENT_AS_IT_IS):
        return value
    if isinstance(value, str | PathLike):
        value = _content(name, Path(value))
    if isinstance(value, bytes | bytearray | memoryview):
        if len(value) > MAX_BYTES:
            raise InvalidArgumentError(f"{name} must have at most {MAX_BYTES // 2**20} MB")
        return base64.b64encode(value).decode()
    return value


def _content(name: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidArgumentError(f"{name}: {str(path)[:200]} cannot be read: {reason}") from error
