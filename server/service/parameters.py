"""Resolves a request body to one video, or to an error sentence that names the parameter and its limit."""

import json
import math
import re
import secrets
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from pipelines.core.request import MAX_SEED, Sampler, StepCaching, VideoParams
from pipelines.models.api_table import Parameter
from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import InvalidParamsError
from server.service.loras import AvailableLora, choose_loras

Body = Mapping[str, Any]
V = TypeVar("V", bound=StrEnum)

MAX_ECHO_BYTES = 16_384
"""Bound of the unknown parameters of a request that are kept and echoed, as JSON."""

RESPONSE_FORMATS = ("url", "b64_json")
_UPSTREAM = "Getting model response error: 422 - Value error, "
_RATIO = re.compile(r"([0-9]{1,5}):([0-9]{1,5})")
_CONTROL = ("model", "num_generations")
_GENERAL = (
    "prompt",
    "multi_prompt",
    "duration",
    "aspect_ratio",
    "response_format",
    "generate_audio",
    "input_image",
    "step_cache",
    "sampler",
    "loras",
)
TARGETS = ("target_namespace", "target_repo", "target_directory")


def resolve(
    entry: CatalogueEntry,
    body: Body,
    max_prompt_chars: int,
    step_cache: StepCaching = StepCaching.EXACT,
    loras: Mapping[str, AvailableLora] | None = None,
) -> VideoParams:
    """The parameters of the video that a body requests. A null counts as absent; without a seed one is drawn.

    `step_cache` holds for a body that names none. `loras` are those that it may name. Raises InvalidParamsError for the
    first parameter that is out of its limits, or that the model does not support.
    """
    given = {name: value for name, value in body.items() if value is not None}
    _check_prompts(given)
    _refuse_what_the_model_lacks(entry, given)
    response_format(given)
    for name in TARGETS:
        if not isinstance(given.get(name, ""), str):
            raise InvalidParamsError(f"{name} must be a string")
    values = {
        parameter.name: _checked(parameter, given[parameter.name])
        for parameter in entry.api.parameters
        if parameter.name in given
    }
    for name in ("prompt", "negative_prompt"):
        if len(values.get(name, "")) > max_prompt_chars:
            raise InvalidParamsError(f"{name} must be at most {max_prompt_chars} characters long")
    if "num_frames" not in values and "duration" in given:
        values["num_frames"] = _frames_of(given["duration"], entry)
    if "aspect_ratio" in given and not {"width", "height"} <= values.keys():
        values |= _sides_of(given["aspect_ratio"], entry, values)
    defaults = {parameter.name: parameter.default for parameter in entry.api.parameters}
    chosen = {**defaults, "seed": random_seed(), **values}
    return VideoParams(
        prompt=chosen["prompt"],
        negative_prompt=chosen["negative_prompt"],
        height=chosen["height"],
        width=chosen["width"],
        num_frames=chosen["num_frames"],
        num_inference_steps=chosen["num_inference_steps"],
        guidance_scale=float(chosen["guidance_scale"]),
        seed=chosen["seed"],
        run_fast=bool(chosen.get("run_fast")),
        step_cache=_one_of(StepCaching, "step_cache", given) or step_cache,
        sampler=_one_of(Sampler, "sampler", given),
        loras=choose_loras(given.get("loras", []), entry.id, loras or {}),
    )


def _one_of(kind: type[V], name: str, given: Body) -> V | None:
    """A parameter that names one of some values; None if it is absent."""
    known = [str(value) for value in kind]
    if name not in given:
        return None
    if given[name] not in known:
        raise InvalidParamsError(f"{name} must be one of {', '.join(known)}")
    return kind(given[name])


def random_seed() -> int:
    """A random seed. Those of the other generations of its request follow it, and are in range too."""
    return secrets.randbelow(2**53 - 16)


def response_format(body: Body) -> str:
    """How a sync response contains its videos: `url` or `b64_json`."""
    chosen = body.get("response_format")
    if chosen is None:
        return RESPONSE_FORMATS[0]
    if chosen not in RESPONSE_FORMATS:
        raise InvalidParamsError("response_format must be 'url' or 'b64_json'")
    return str(chosen)


def num_generations(body: Body, limit: int) -> int:
    """The number of videos that a body requests, 1 … `limit`."""
    count = body.get("num_generations")
    if count is None:
        return 1
    whole = _as_integer(count)
    if whole is None or not 1 <= whole <= limit:
        raise InvalidParamsError(f"num_generations must be an integer between 1 and {limit}")
    return whole


def with_seed(body: Body, base: int, offset: int) -> dict[str, Any]:
    """The body of the `offset`-th generation of a request: the given seed, or `base`, plus the offset."""
    seed = body.get("seed")
    if seed is None:
        return {**body, "seed": base + offset}
    whole = _as_integer(seed)
    # after the largest seed comes 0, so that every seed of a request is in range
    return {**body, "seed": seed if whole is None or not offset else (whole + offset) % (MAX_SEED + 1)}


def echo(entry: CatalogueEntry, body: Body, max_prompt_chars: int) -> dict[str, Any]:
    """The parameters of a body that are kept and shown in its rows: all known ones, and unknown ones within a bound."""
    known = {*entry.api.by_name, *_GENERAL}
    kept: dict[str, Any] = {}
    budget = MAX_ECHO_BYTES
    for name, value in body.items():
        if name in _CONTROL or name in TARGETS or value is None:
            continue
        if name in known and isinstance(value, str):
            kept[name] = value[:max_prompt_chars]
            continue
        if (size := len(json.dumps([name, value]))) <= budget:
            budget -= size
            kept[name] = value
    return kept


def text(body: Body, name: str) -> str | None:
    """A parameter, if it is a string."""
    value = body.get(name)
    return value if isinstance(value, str) else None


def _check_prompts(given: Body) -> None:
    if "prompt" in given and "multi_prompt" in given:
        raise InvalidParamsError(f"{_UPSTREAM}Cannot provide both 'prompt' and 'multi_prompt'.")
    if "prompt" not in given and "multi_prompt" not in given:
        raise InvalidParamsError(f"{_UPSTREAM}Either 'prompt' or 'multi_prompt' must be provided.")


def _refuse_what_the_model_lacks(entry: CatalogueEntry, given: Body) -> None:
    if not isinstance(given.get("generate_audio", False), bool):
        raise InvalidParamsError("generate_audio must be a boolean")
    for name in ("multi_prompt", "input_image", "generate_audio"):
        if given.get(name, False) is not False:
            raise InvalidParamsError(f"{name} is not supported by {entry.id}")


def _checked(parameter: Parameter, value: Any) -> Any:
    if parameter.type == "string":
        if not isinstance(value, str):
            raise InvalidParamsError(f"{parameter.name} must be a string")
        return value
    if parameter.type == "boolean":
        if not isinstance(value, bool):
            raise InvalidParamsError(f"{parameter.name} must be a boolean")
        return value
    number = _as_integer(value) if parameter.type == "integer" else _as_number(value)
    low, high = limits_of(parameter)
    if number is None or not low <= number <= high:
        article = "an" if parameter.type == "integer" else "a"
        raise InvalidParamsError(f"{parameter.name} must be {article} {parameter.type} between {low} and {high}")
    return number


def limits_of(parameter: Parameter) -> tuple[float, float]:
    """The inclusive limits of a number; infinite where it has none."""
    # the model page states no range for the seed; doubles, which JSON readers use, are exact up to this
    low, high = (0, MAX_SEED) if parameter.name == "seed" else (-math.inf, math.inf)
    return (
        low if parameter.minimum is None else parameter.minimum,
        high if parameter.maximum is None else parameter.maximum,
    )


def _as_integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # isfinite would fail on an integer that is too large for a float
    return value if isinstance(value, int) or math.isfinite(value) else None


def _frames_of(duration: Any, entry: CatalogueEntry) -> int:
    seconds, longest = _as_number(duration), entry.longest_seconds
    shortest = int(limits_of(entry.api.by_name["num_frames"])[0])
    if seconds is None or not 0 < seconds <= longest:
        raise InvalidParamsError(f"duration must be a number of seconds above 0 and at most {longest:g}")
    return max(shortest, round(seconds * entry.model.fps))


def _sides_of(aspect_ratio: Any, entry: CatalogueEntry, given: Mapping[str, Any]) -> dict[str, int]:
    """The sides for a ratio such as "16:9": as many pixels as the default, or fewer if a side would be too long."""
    match = _RATIO.fullmatch(aspect_ratio) if isinstance(aspect_ratio, str) else None
    if match is None or "0" in {part.lstrip("0") or "0" for part in match.groups()}:
        raise InvalidParamsError("aspect_ratio must be two whole numbers such as 16:9")
    ratio = int(match[1]) / int(match[2])
    width, height = entry.api.by_name["width"], entry.api.by_name["height"]
    assert isinstance(width.default, int)
    assert isinstance(height.default, int)
    assert width.maximum is not None
    assert height.maximum is not None
    if "width" in given:
        sides = (given["width"], given["width"] / ratio)
    elif "height" in given:
        sides = (given["height"] * ratio, given["height"])
    else:
        pixels = width.default * height.default
        tall = min(math.sqrt(pixels / ratio), height.maximum, width.maximum / ratio)
        sides = (tall * ratio, tall)
    chosen = {"width": _even(sides[0]), "height": _even(sides[1])}
    chosen |= {name: given[name] for name in ("width", "height") if name in given}
    if not (1 <= chosen["width"] <= width.maximum and 1 <= chosen["height"] <= height.maximum):
        raise InvalidParamsError(
            f"aspect_ratio {aspect_ratio} needs a size of {chosen['width']}x{chosen['height']}, "
            f"beyond width 1 to {width.maximum} and height 1 to {height.maximum}"
        )
    return chosen


def _even(side: float) -> int:
    return max(2, 2 * round(side / 2))
