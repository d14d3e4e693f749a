"""Resolves a request body to one video, or to an error sentence that names the parameter and its limit."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from math import ceil
from typing import Any, TypeVar

from pipelines.core.request import DEFAULT_STRENGTH, MAX_SEED, ImageMode, Sampler, StepCaching, VideoParams
from pipelines.models.api_table import Parameter
from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import InvalidParamsError
from server.service.loras import AvailableLora, choose_loras
from server.service.requests.echo import (
    AUDIO_PROMPT,
    EXTEND,
    GENERATE_AUDIO,
    IMAGE_MODE,
    MAX_TARGET_CHARS,
    STRENGTH,
    TARGETS,
    UNSUPPORTED,
    asks_for_sound,
    is_absent,
)
from server.service.requests.inputs import AUDIO_NAMES, IMAGE, LAST_IMAGES, VIDEO, GivenInputs, InputVideo, Picture
from server.service.requests.values.numbers import as_integer, as_number, limits_of
from server.service.requests.values.sizes import SIDES, check_pixels, frames_of, sides_of, sides_of_image

Body = Mapping[str, Any]
V = TypeVar("V", bound=StrEnum)

SIZES = (*SIDES, "aspect_ratio", "resolution")
"""The parameters that `with_first_input` reads."""

RESPONSE_FORMATS = ("url", "b64_json")
_UPSTREAM = "Getting model response error: 422 - Value error, "


def resolve(
    entry: CatalogueEntry,
    body: Body,
    max_prompt_chars: int,
    step_cache: StepCaching = StepCaching.EXACT,
    loras: Mapping[str, AvailableLora] | None = None,
    inputs: GivenInputs | None = None,
) -> VideoParams:
    """The parameters of the video that a body requests. A null and an empty array count as absent.

    Without a seed one is drawn. `step_cache` holds for a body that names none. `loras` are those that it may name.
    `inputs` are those that it brought: without another size the video has the ratio of the first one.
    Raises InvalidParamsError for the first parameter that is out of its limits, or that the model does not support.
    """
    given = {name: value for name, value in body.items() if not is_absent(value)}
    inputs = inputs or GivenInputs()
    _check_prompts(given)
    _refuse_what_the_model_lacks(entry, given)
    response_format(given)
    for name in TARGETS:
        if not isinstance(target := given.get(name, ""), str) or len(target) > MAX_TARGET_CHARS:
            raise InvalidParamsError(f"{name} must be a string of at most {MAX_TARGET_CHARS} characters")
    values = {
        parameter.name: _checked(parameter, given[parameter.name])
        for parameter in entry.api.parameters
        if parameter.name in given
    }
    for name in ("prompt", "negative_prompt"):
        if len(values.get(name, "")) > max_prompt_chars:
            raise InvalidParamsError(f"{name} must be at most {max_prompt_chars} characters long")
    if "num_frames" not in values and "duration" in given:
        values["num_frames"] = frames_of(given["duration"], entry)
    sides: dict[str, int] = {name: values[name] for name in SIDES if name in values}
    if len(sides) < len(SIDES):
        shown = inputs.kept_first
        if "aspect_ratio" in given or all(given.get(name, False) is False for name in (IMAGE, VIDEO, EXTEND)):
            values |= sides_of(entry, given, sides)
        else:
            # until the input is known it could have any ratio
            size = entry.api.size("default")[:2] if shown is None else (shown.width, shown.height)
            values |= sides_of_image(entry, given, sides, size)
    defaults = {parameter.name: parameter.default for parameter in entry.api.parameters}
    chosen = {**defaults, "seed": random_seed(), **values}
    check_pixels(entry, chosen["width"], chosen["height"])
    ending = [name for name in LAST_IMAGES if given.get(name, False) is not False]
    ending += [EXTEND] if given.get(EXTEND, False) is not False else []
    if ending and chosen["num_frames"] < 2:
        raise InvalidParamsError(f"num_frames must be at least 2 with {ending[0]}")
    params = VideoParams(
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
        audio=None if isinstance(inputs.audio, str | None) else inputs.audio.digest,
        last_image=None if isinstance(inputs.last, str | None) else inputs.last.digest,
        strength=_strength(given, chosen["num_inference_steps"]),
        image_mode=_one_of(ImageMode, IMAGE_MODE, given),
        generate_audio=asks_for_sound(given),
        audio_prompt=_audio_prompt(given, max_prompt_chars),
    )
    if inputs.extended is not None:
        return _extending(entry, given, params, inputs.extended)
    return params if (first := inputs.kept_first) is None else with_first_input(entry, given, params, first)


def with_first_input(entry: CatalogueEntry, body: Body, params: VideoParams, kept: Picture) -> VideoParams:
    """The parameters that a body resolves to with an image or a video, from those that it resolved to without one."""
    if isinstance(kept, InputVideo):
        length = min(params.num_frames, kept.frames_at(entry.model.fps))
        params = replace(params, video=kept.digest, num_frames=length)
    else:
        params = replace(params, image=kept.digest)
    given = {name: value for name, value in body.items() if not is_absent(value)}
    sides: dict[str, int] = {name: getattr(params, name) for name in SIDES if name in given}
    if len(sides) == len(SIDES) or "aspect_ratio" in given:
        return params
    chosen = sides_of_image(entry, given, sides, (kept.width, kept.height))
    check_pixels(entry, chosen["width"], chosen["height"])
    return replace(params, width=chosen["width"], height=chosen["height"])


def _extending(entry: CatalogueEntry, given: Body, params: VideoParams, video: InputVideo) -> VideoParams:
    size = f"{video.width}x{video.height}, as the video that {EXTEND} names"
    sides = {"width": video.width, "height": video.height}
    for name, side in sides.items():
        # an odd side is generated as the next even one
        if name in given and getattr(params, name) not in (side, side - 1):
            raise InvalidParamsError(f"{name} must be that of {size}")
        if side > (entry.api.by_name[name].maximum or side) + 1:
            raise InvalidParamsError(f"{entry.id} makes no videos of {size}")
    check_pixels(entry, video.width, video.height)
    return replace(params, width=video.width, height=video.height, extends=video.digest)


def about_length(entry: CatalogueEntry, body: Body, params: VideoParams, video: InputVideo) -> tuple[str, ...]:
    """A sentence if a video is not as long as its input, or not as long as a body asks."""
    fps, has = entry.model.fps, video.frames_at(entry.model.fps)
    if has > params.num_frames:
        return (f"{VIDEO} has {has} frames at {fps} a second: only its first {params.num_frames} are used.",)
    asked = as_integer(body.get("num_frames"))
    if asked is None and not is_absent(duration := body.get("duration")):
        asked = frames_of(duration, entry)
    if asked is not None and asked > has:
        return (f"{VIDEO} has only {has} frames at {fps} a second: the video has as many.",)
    return ()


def _audio_prompt(given: Body, max_chars: int) -> str | None:
    """What is heard; None if it is what is seen."""
    prompt = given.get(AUDIO_PROMPT)
    if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
        return None
    if not isinstance(prompt, str) or len(prompt) > max_chars:
        raise InvalidParamsError(f"{AUDIO_PROMPT} must be a string of at most {max_chars} characters")
    return prompt if asks_for_sound(given) else None


def _strength(given: Body, steps: int) -> float:
    if STRENGTH not in given:
        return DEFAULT_STRENGTH
    number = as_number(given[STRENGTH])
    if number is None or not 0 < number <= 1:
        raise InvalidParamsError(f"{STRENGTH} must be a number above 0 and at most 1")
    if given.get(VIDEO, False) is False:
        return DEFAULT_STRENGTH
    if int(steps * number) < 1:
        raise InvalidParamsError(
            f"{STRENGTH} must be at least {ceil(10_000 / steps) / 10_000:g} with num_inference_steps {steps}"
        )
    return float(number)


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
    whole = as_integer(count)
    if whole is None or not 1 <= whole <= limit:
        raise InvalidParamsError(f"num_generations must be an integer between 1 and {limit}")
    return whole


def with_seed(body: Body, base: int, offset: int) -> dict[str, Any]:
    """The body of the `offset`-th generation of a request: the given seed, or `base`, plus the offset."""
    seed = body.get("seed")
    if seed is None:
        return {**body, "seed": base + offset}
    whole = as_integer(seed)
    # after the largest seed comes 0, so that every seed of a request is in range
    return {**body, "seed": seed if whole is None or not offset else (whole + offset) % (MAX_SEED + 1)}


def _check_prompts(given: Body) -> None:
    if "prompt" in given and "multi_prompt" in given:
        raise InvalidParamsError(f"{_UPSTREAM}Cannot provide both 'prompt' and 'multi_prompt'.")
    if isinstance(prompt := given.get("prompt"), str) and not prompt.strip():
        raise InvalidParamsError(f"{_UPSTREAM}Either 'prompt' or 'multi_prompt' must be provided.")
    if "prompt" not in given and "multi_prompt" not in given:
        raise InvalidParamsError(f"{_UPSTREAM}Either 'prompt' or 'multi_prompt' must be provided.")


def _refuse_what_the_model_lacks(entry: CatalogueEntry, given: Body) -> None:
    if asks_for_sound(given):
        if entry.model.sound is None:
            raise InvalidParamsError(f"{GENERATE_AUDIO} is not supported by {entry.id}")
        own = next((name for name in AUDIO_NAMES if given.get(name, False) is not False), None)
        if own is not None:
            raise InvalidParamsError(f"{GENERATE_AUDIO} and {own} exclude each other: a video has one sound")
    for name in ("multi_prompt", *UNSUPPORTED):
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
    number = as_integer(value) if parameter.type == "integer" else as_number(value)
    low, high = limits_of(parameter)
    if number is None or not low <= number <= high:
        article = "an" if parameter.type == "integer" else "a"
        raise InvalidParamsError(f"{parameter.name} must be {article} {parameter.type} between {low} and {high}")
    return number
