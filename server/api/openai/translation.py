"""Translates OpenAI's requests for videos into bodies of this server, and the names in its sentences back."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipelines.models.catalogue import DEFAULT_MODEL, CatalogueEntry
from server.api.bodies.reference import Reference
from server.core.errors import InvalidParamsError
from server.service.requests.echo import is_absent
from server.service.requests.inputs import IMAGE, UPLOAD_PREFIX, VIDEO
from server.service.requests.values.numbers import as_integer, limits_of
from server.service.requests.values.sizes import SIDES
from server.service.service import Service

IMAGE_REFERENCE = Reference("input_reference", IMAGE, ("image_url",), ("file_id",))
VIDEO_REFERENCE = Reference("video", VIDEO, (), ("id",))
FILE_ID, VIDEO_ID = "input_reference.file_id", "video.id"

_OWN_SIZES = ("aspect_ratio", "resolution")
_OWN_LENGTHS = ("num_frames", "duration")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def translated(service: Service, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of this server for a request, with `size` and `seconds` as its own parameters.

    Those take precedence that the request has itself. Raises InvalidParamsError or ModelNotFoundError.
    """
    body = {name: value for name, value in content.items() if name not in ("size", "seconds", FILE_ID)}
    if is_absent(body.get("model")):
        body["model"] = default_model(service)
    _check_prompt(service, body.get("prompt"))
    if not is_absent(count := body.get("num_generations")) and as_integer(count) != 1:
        raise InvalidParamsError("num_generations must be 1: a request makes one video here")
    if FILE_ID in content:
        body[IMAGE] = _upload(content[FILE_ID])
    entry = service.answering(body)
    # both are checked, also where they are of no effect
    size = None if is_absent(content.get("size")) else _size_of(content["size"])
    seconds = None if is_absent(content.get("seconds")) else _seconds_of(content["seconds"])
    if size is not None and all(is_absent(body.get(name)) for name in _OWN_SIZES):
        own = {name: body[name] for name in SIDES if not is_absent(body.get(name))}
        if not own:
            _check_size(entry, *size)
        body |= {**dict(zip(SIDES, size, strict=True)), **own}
    if seconds is not None and all(is_absent(body.get(name)) for name in _OWN_LENGTHS):
        _check_seconds(entry, seconds)
        body["duration"] = seconds
    return body


def default_model(service: Service) -> str:
    """The model of a request that names none."""
    return DEFAULT_MODEL if DEFAULT_MODEL in service.catalogue else next(iter(service.catalogue))


@contextmanager
def in_words_of(names: Mapping[str, str]) -> Iterator[None]:
    """Have sentences call parameters as a request does: by the values of `names`."""
    try:
        yield
    except InvalidParamsError as error:
        sentence = str(error)
        named = next((name for name in names if sentence.startswith((f"{name} ", f"{name}:"))), None)
        if named is None:
            raise
        raise InvalidParamsError(names[named] + sentence.removeprefix(named), error.headers) from None


def nearest_size(entry: CatalogueEntry, width: int, height: int) -> tuple[int, int]:
    """The size that a model makes which is nearest to one in pixels: of the same ratio where that can be.

    Sides that are changed are even.
    """
    width_limits, height_limits = (limits_of(entry.api.by_name[name]) for name in SIDES)
    scale = min(1.0, width_limits[1] / width, height_limits[1] / height)
    if (limit := entry.api.max_pixels) is not None:
        scale = min(scale, math.sqrt(limit / (width * height)))
    return _scaled(width, scale, *width_limits), _scaled(height, scale, *height_limits)


def _scaled(side: int, scale: float, low: float, high: float) -> int:
    if scale < 1:
        # a product of floating-point numbers may be a little too small
        side = max(2, int(side * scale + 1e-9) // 2 * 2)
    return int(min(max(side, low), high))


def _check_prompt(service: Service, prompt: Any) -> None:
    most = service.settings.max_prompt_chars
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > most:
        raise InvalidParamsError(f"prompt must be a text of 1 to {most} characters")


def _upload(file_id: str) -> str:
    if not file_id.strip().startswith(UPLOAD_PREFIX):
        raise InvalidParamsError(
            f"{FILE_ID} must be the id of an upload, which POST /api/ai/uploads returns: {UPLOAD_PREFIX}…"
        )
    return file_id


def _size_of(value: Any) -> tuple[int, int]:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidParamsError("size must be WIDTHxHEIGHT in pixels, such as 832x480")
    return int(match[1]), int(match[2])


def _seconds_of(value: Any) -> float:
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    if _SECONDS.fullmatch(text) is None or float(text) == 0:
        raise InvalidParamsError('seconds must be a number above 0, such as "4"')
    return float(text)


def _check_size(entry: CatalogueEntry, width: int, height: int) -> None:
    nearest = nearest_size(entry, width, height)
    if nearest != (width, height):
        raise InvalidParamsError(
            f"size {width}x{height} is beyond what {entry.id} makes: the nearest is {nearest[0]}x{nearest[1]}"
        )


def _check_seconds(entry: CatalogueEntry, seconds: float) -> None:
    longest = entry.longest_seconds
    if seconds > longest:
        raise InvalidParamsError(
            f"seconds {seconds:g} is beyond what {entry.id} makes: the nearest is {_floored(longest)}"
        )


def _floored(seconds: float) -> str:
    """A number with few digits that is not above it."""
    return f"{math.floor(seconds * 1000) / 1000:g}"
