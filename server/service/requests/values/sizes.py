"""The size and length of a video by `duration`, `aspect_ratio` and `resolution`."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import InvalidParamsError
from server.service.requests.values.numbers import as_number, limits_of

RESOLUTIONS = {"480p": (832, 480), "720p": (1280, 720)}
"""Width and height in pixels of the resolutions that a request may name, at 16:9 as Wan has it."""

SIDES = ("width", "height")
"""The parameters for the sides of a video, in pixels."""

_WIDE = 16 / 9
# of floating-point arithmetic
_TOLERANCE = 1 + 1e-9
_RATIO = re.compile(r"([0-9]{1,5}):([0-9]{1,5})")


def frames_of(duration: Any, entry: CatalogueEntry) -> int:
    """The length in frames of a video of `duration` seconds."""
    seconds, longest = as_number(duration), entry.longest_seconds
    shortest = int(limits_of(entry.api.by_name["num_frames"])[0])
    if seconds is None or not 0 < seconds <= longest:
        raise InvalidParamsError(f"duration must be a number of seconds above 0 and at most {longest:g}")
    return max(shortest, round(seconds * entry.model.fps))


def sides_of_image(
    entry: CatalogueEntry, given: Mapping[str, Any], sides: Mapping[str, int], image: tuple[int, int]
) -> dict[str, int]:
    """The width and height in pixels of a video that begins with an image of this width and height.

    It has the image's ratio, at most 4:1 or 1:4, as far as the model's limits and one given side allow; the image is
    cropped to it. The number of pixels is that of `resolution`, else that of the model's default.
    """
    frame = _frame_of(given["resolution"]) if "resolution" in given else None
    width, height = entry.api.by_name["width"], entry.api.by_name["height"]
    most = int(width.maximum or 0), int(height.maximum or 0)
    ratio = min(4.0, max(0.25, image[0] / image[1]))
    pixels = float(frame[0] * frame[1]) if frame else float(int(width.default or 0) * int(height.default or 0))
    limit = entry.api.max_pixels or most[0] * most[1]
    if "width" in sides:
        exact = (float(sides["width"]), min(sides["width"] / ratio, limit / sides["width"]))
    elif "height" in sides:
        exact = (min(sides["height"] * ratio, limit / sides["height"]), float(sides["height"]))
    else:
        tall = min(math.sqrt(min(pixels, limit) / ratio), most[1], most[0] / ratio)
        exact = (tall * ratio, tall)
    fitting = (min(side, largest) for side, largest in zip(_rounded(exact, limit, sides), most, strict=True))
    return dict(zip(SIDES, fitting, strict=True)) | dict(sides)


def check_pixels(entry: CatalogueEntry, width: int, height: int) -> None:
    """Raise InvalidParamsError if a size has more pixels than a model makes."""
    most = entry.api.max_pixels
    if most is not None and width * height > most:
        raise InvalidParamsError(f"width times height must be at most {most} for {entry.id}, not {width}x{height}")


def sides_of(entry: CatalogueEntry, given: Mapping[str, Any], sides: Mapping[str, int]) -> dict[str, int]:
    """The width and height in pixels that `aspect_ratio` and `resolution` of a body stand for; empty without these.

    `sides` are the width and height that the body gives itself, which take precedence. A ratio keeps the number of
    pixels: that of the resolution, else that of the model's default. Raises InvalidParamsError.
    """
    ratio, resolution = given.get("aspect_ratio"), given.get("resolution")
    frame = None if resolution is None else _frame_of(resolution)
    if ratio is None and frame is None:
        return {}
    wanted = None if ratio is None else _ratio_of(ratio)
    width, height = entry.api.by_name["width"], entry.api.by_name["height"]
    assert isinstance(width.default, int)
    assert isinstance(height.default, int)
    assert width.maximum is not None
    assert height.maximum is not None
    if frame is not None and not sides and wanted in (None, _WIDE, 1 / _WIDE):
        chosen = dict(zip(SIDES, reversed(frame) if wanted == 1 / _WIDE else frame, strict=True))
    else:
        wanted = wanted or _WIDE
        if "width" in sides:
            exact = (float(sides["width"]), sides["width"] / wanted)
        elif "height" in sides:
            exact = (sides["height"] * wanted, float(sides["height"]))
        elif frame is not None:
            tall = math.sqrt(frame[0] * frame[1] / wanted)
            exact = (tall * wanted, tall)
        else:
            pixels = width.default * height.default
            tall = min(math.sqrt(pixels / wanted), height.maximum, width.maximum / wanted)
            exact = (tall * wanted, tall)
        limit = entry.api.max_pixels or width.maximum * height.maximum
        chosen = dict(zip(SIDES, _rounded(exact, limit, sides), strict=True)) | dict(sides)
    if not (1 <= chosen["width"] <= width.maximum and 1 <= chosen["height"] <= height.maximum):
        asked = " and ".join(f"{name} {given[name]}" for name in ("resolution", "aspect_ratio") if name in given)
        raise InvalidParamsError(
            f"{asked} needs a size of {chosen['width']}x{chosen['height']}, "
            f"beyond width 1 to {width.maximum} and height 1 to {height.maximum}"
        )
    check_pixels(entry, chosen["width"], chosen["height"])
    return chosen


def _ratio_of(aspect_ratio: Any) -> float:
    match = _RATIO.fullmatch(aspect_ratio) if isinstance(aspect_ratio, str) else None
    if match is None or "0" in {part.lstrip("0") or "0" for part in match.groups()}:
        raise InvalidParamsError("aspect_ratio must be two whole numbers such as 16:9")
    return int(match[1]) / int(match[2])


def _frame_of(resolution: Any) -> tuple[int, int]:
    frame = RESOLUTIONS.get(resolution.lower()) if isinstance(resolution, str) else None
    if frame is None:
        raise InvalidParamsError(f"resolution must be one of {', '.join(RESOLUTIONS)}")
    return frame


def _rounded(exact: tuple[float, float], most: float, fixed: Collection[str]) -> list[int]:
    """Sides rounded to even numbers. Where rounding makes more than `most` pixels, one that is not fixed is smaller."""
    sides = [
        int(side) if name in fixed else max(2, 2 * round(side / 2)) for name, side in zip(SIDES, exact, strict=True)
    ]
    free = [index for index, name in enumerate(SIDES) if name not in fixed]
    while free and exact[0] * exact[1] <= most * _TOLERANCE < sides[0] * sides[1] * _TOLERANCE:
        longer = max(free, key=lambda index: sides[index])
        sides[longer] -= 2
    return sides
