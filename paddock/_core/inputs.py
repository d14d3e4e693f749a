"""Files that requests bring: images, videos and sounds, named by a path or given as they are."""

import base64
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from paddock.errors import InvalidArgumentError

MAX_BYTES = 20 * 2**20
"""The limit of the API."""

MAX_VIDEO_BYTES = 100 * 2**20
"""The limit of the API for what is uploaded in advance."""

VIDEO = "input_video"
_INPUTS = ("input_image", "end_image_url", "tail_image_url", "input_audio", "audio_url")
_SENT_AS_IT_IS = ("data:", "http://", "https://", "upload:")


def with_inputs(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the content of images and sounds for their paths. Raises InvalidArgumentError."""
    return {name: _encoded(name, value) if name in _INPUTS else value for name, value in parameters.items()}


def video_content(value: Any) -> bytes | None:
    """Return the content of a video, which has to be uploaded; None if there is none, or it is sent as it is.

    Raises InvalidArgumentError.
    """
    content = _content(VIDEO, value, MAX_VIDEO_BYTES)
    return content if isinstance(content, bytes) else None


def _encoded(name: str, value: Any) -> Any:
    content = _content(name, value, MAX_BYTES)
    return base64.b64encode(content).decode() if isinstance(content, bytes) else content


def _content(name: str, value: Any, limit: int) -> Any:
    """Return the bytes of a file that is given or named by its path; any other value as it is."""
    if isinstance(value, str) and value.startswith(_SENT_AS_IT_IS):
        return value
    if isinstance(value, str | PathLike):
        value = _read(name, Path(value), limit)
    if not isinstance(value, bytes | bytearray | memoryview):
        return value
    if len(value) > limit:
        raise InvalidArgumentError(f"{name} must have at most {limit // 2**20} MB")
    return bytes(value)


def _read(name: str, path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidArgumentError(f"{name}: {str(path)[:200]} cannot be read: {reason}") from error
