"""What of a request body is kept in its rows, within bounds, and what its sender should know about it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import InvalidParamsError
from server.service.notifications.webhooks import targets as webhooks
from server.service.requests.inputs import INPUTS, VIDEO

MAX_ECHO_BYTES = 16_384
"""Limit of everything that a row keeps of a body, as JSON; the prompts have a limit of their own."""

MAX_TARGET_CHARS = 1024
"""Limit of each of TARGETS."""

EXTEND = "extend_from"
"""The parameter for the generation whose video is continued."""

IMAGE_MODE = "image_mode"
"""The parameter by which a model that was not trained for images begins with one."""

ENHANCE = "enhance_prompt"
"""The parameter that has a language model rewrite the prompt."""

ENHANCE_NAMES = (ENHANCE, "prompt_extend")
"""The names of that parameter."""

INSPIRATION = "inspiration"
"""The parameter that has a prompt rewritten freely, by a style card."""

GENERATE_AUDIO = "generate_audio"
"""The parameter that has a model make a sound for the video."""

AUDIO_PROMPT = "audio_prompt"
"""The parameter that says what is heard, instead of the prompt."""

STRENGTH = "strength"
"""The parameter that says how much of an input video is made anew."""

WEBHOOK = (webhooks.URL, webhooks.EVENTS)
"""The URL that is told of a generation, and of which of its events."""

REMIXED_FROM = "remixed_from_video_id"
"""What a row has of the generation whose settings it repeats with another prompt."""

JOINED_FRAMES = "joined_frames"
"""What a row has of the length of a video with the one that it continues."""

TARGETS = ("target_namespace", "target_repo", "target_directory")
"""Where a client wants to file its video: kept, echoed and used as filters."""

_PROMPTS = ("prompt", "negative_prompt", AUDIO_PROMPT)
_CONTROL = ("model", "num_generations", *INPUTS)
_GENERAL = (
    "multi_prompt",
    "duration",
    "aspect_ratio",
    "resolution",
    "response_format",
    "step_cache",
    "sampler",
    "loras",
    STRENGTH,
    IMAGE_MODE,
    EXTEND,
    *ENHANCE_NAMES,
    INSPIRATION,
    GENERATE_AUDIO,
    *WEBHOOK,
)
_RESERVED = (
    *("progress", "eta_seconds", "queue_position", "preview_url", "thumbnail_url", "spritesheet_url", "warnings"),
    *("answered_by", "enhanced_prompt", "enhance_model", "enhance_seconds", "inspiration_style", "has_audio"),
    *("favourite", "tags", "execution", REMIXED_FROM, JOINED_FRAMES),
)
"""Names of this server's own in a row, some of them for later versions. No parameter is echoed under one."""

UNSUPPORTED = ("input_images", "image_url", "last_frame_image", "target_fps")
"""Parameters of the host's other models. A request that uses one would wait for something that never comes."""

_ENCODER = json.JSONEncoder()

_MAX_UNKNOWN = 6
_MAX_NAME_CHARS = 80


def is_absent(value: Any) -> bool:
    """Whether a value counts as if its parameter was not given: null and an empty array."""
    return value is None or value == []


def echo(entry: CatalogueEntry, body: Mapping[str, Any], max_prompt_chars: int) -> dict[str, Any]:
    """The parameters of a body that are kept and shown in its rows: the known ones first, within bounds."""
    kept: dict[str, Any] = {}
    budget = MAX_ECHO_BYTES - len(json.dumps([text(body, name) for name in TARGETS]))
    hidden = {*_CONTROL, *TARGETS, *_RESERVED}
    for name in sorted(body.keys() - hidden, key=lambda name: name not in _known(entry)):
        value = body[name]
        if value is None:
            continue
        if name in _PROMPTS and isinstance(value, str):
            kept[name] = value[:max_prompt_chars]
        elif (size := _size([name, value], budget)) <= budget:
            budget -= size
            kept[name] = value
    return {name: kept[name] for name in body if name in kept}


def _size(value: Any, most: int) -> int:
    """The length of a value as JSON; of a longer one than `most` any that is longer, without going through it."""
    size = 0
    for part in _ENCODER.iterencode(value):
        size += len(part)
        if size > most:
            break
    return size


def text(body: Mapping[str, Any], name: str) -> str | None:
    """One of TARGETS, if it is a string; cut to its limit."""
    value = body.get(name)
    return value[:MAX_TARGET_CHARS] if isinstance(value, str) else None


def asks_to_enhance(body: Mapping[str, Any]) -> bool | None:
    """Whether a body asks for its prompt to be rewritten, or not to be; None if it says nothing.

    Raises InvalidParamsError.
    """
    given = [name for name in ENHANCE_NAMES if not is_absent(body.get(name))]
    for name in given:
        if not isinstance(body[name], bool):
            raise InvalidParamsError(f"{name} must be a boolean")
    if len(given) > 1:
        raise InvalidParamsError(f"{' and '.join(given)} are the same parameter: give one of them")
    return bool(body[given[0]]) if given else None


def asks_for_inspiration(body: Mapping[str, Any]) -> bool:
    """Whether a body asks for its prompt to be rewritten freely. Raises InvalidParamsError."""
    return _is_set(body, INSPIRATION)


def asks_for_sound(body: Mapping[str, Any]) -> bool:
    """Whether a body asks for a sound that a model makes. Raises InvalidParamsError."""
    return _is_set(body, GENERATE_AUDIO)


def _is_set(body: Mapping[str, Any], name: str) -> bool:
    if is_absent(given := body.get(name)):
        return False
    if not isinstance(given, bool):
        raise InvalidParamsError(f"{name} must be a boolean")
    return given


def warnings_about(entry: CatalogueEntry, body: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each name in a body that has no effect, such as a misspelled one. They are printable ASCII."""
    known = {*_known(entry), *_CONTROL, *TARGETS, *_RESERVED, *UNSUPPORTED}
    unknown = _ignored([name for name, value in body.items() if name not in known and not is_absent(value)], entry.id)
    for name, needed in ((STRENGTH, VIDEO), (AUDIO_PROMPT, GENERATE_AUDIO)):
        if not is_absent(body.get(name)) and (is_absent(given := body.get(needed)) or given is False):
            unknown = (*unknown, f"{name} has no effect without {needed}: it was ignored.")
    return unknown


def _ignored(names: list[str], model: str) -> tuple[str, ...]:
    sentences = [f"{_quoted(name)} is not a parameter of {model}: it was ignored." for name in names[:_MAX_UNKNOWN]]
    if (more := len(names) - _MAX_UNKNOWN) > 0:
        sentences.append(f"{more} other unknown parameters were ignored.")
    return tuple(sentences)


def _quoted(name: str) -> str:
    return ascii(name[:_MAX_NAME_CHARS])


def _known(entry: CatalogueEntry) -> Iterable[str]:
    return (*_PROMPTS, *entry.api.by_name, *_GENERAL)
