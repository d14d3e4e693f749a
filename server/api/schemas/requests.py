"""The request bodies in the OpenAPI document, made from the catalogue and the settings.

`server.service.requests.parameters` validates the bodies against the parameters of the requested model. The limits here
are the widest of all models: on the queue route a parameter outside its model's limits gives a generation that has
failed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.request import (
    MAX_LORA_STRENGTH,
    MAX_LORAS,
    MAX_SEED,
    MIN_LORA_STRENGTH,
    ImageMode,
    Sampler,
    StepCaching,
)
from pipelines.models.api_table import Parameter
from pipelines.models.catalogue import DEFAULT_MODEL, CatalogueEntry
from server.api.bodies.inputs import MAX_BYTES
from server.api.schemas.fields import LONG
from server.api.schemas.library import LIBRARY_BODIES
from server.core.generation import WebhookEvent
from server.core.settings.sections import QueueSettings
from server.core.settings.settings import Settings
from server.media.limits import AUDIO_BYTES, MAX_AUDIO_SECONDS, MAX_SECONDS, VIDEO_BYTES
from server.service.notifications.webhooks.targets import DEFAULT_EVENTS, EVENTS, MAX_URL_CHARS, URL
from server.service.requests.echo import (
    AUDIO_PROMPT,
    ENHANCE,
    ENHANCE_NAMES,
    EXTEND,
    GENERATE_AUDIO,
    IMAGE_MODE,
    INSPIRATION,
    MAX_TARGET_CHARS,
    STRENGTH,
    TARGETS,
)
from server.service.requests.inputs import AUDIO_NAMES, IMAGE, LAST_IMAGES, VIDEO
from server.service.requests.parameters import RESPONSE_FORMATS
from server.service.requests.values.numbers import limits_of
from server.service.requests.values.sizes import RESOLUTIONS

GENERATE = "GenerateRequest"
ENQUEUE = "EnqueueRequest"
ENHANCE_PROMPT = "EnhancePromptRequest"

EXAMPLE = {
    "model": DEFAULT_MODEL,
    "prompt": "An ox by a lake",
    "height": 64,
    "width": 64,
    "num_frames": 5,
    "num_inference_steps": 2,
}


_LORA_STRENGTH = {
    "anyOf": [
        {"type": "number", "minimum": MIN_LORA_STRENGTH, "maximum": MAX_LORA_STRENGTH},
        {"type": "number", "minimum": -MAX_LORA_STRENGTH, "maximum": -MIN_LORA_STRENGTH},
        {"type": "null"},
    ]
}
_LORAS = {
    "type": "array",
    "maxItems": MAX_LORAS,
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "description": "A name from GET /loras"},
            "strength": _LORA_STRENGTH,
        },
        "additionalProperties": False,
    },
    "description": "LoRAs merged into the weights for this video, an extension of the hosted API",
}

_IMAGE: dict[str, Any] = {"type": "string", "maxLength": MAX_BYTES}
_IMAGE_KINDS = (
    "JPEG, PNG, WebP, BMP or GIF of at most 20 MB, as base64, as a data URL, as a URL that is fetched, or as the id of "
    "an upload. In a multipart body it is a file"
)

OWN_PARAMETERS: dict[str, dict[str, Any]] = {
    "step_cache": {
        "type": "string",
        "enum": [str(level) for level in StepCaching],
        "description": "Step caching, an extension of the hosted API; the setting step_cache is the default",
    },
    "sampler": {
        "type": "string",
        "enum": [str(sampler) for sampler in Sampler],
        "description": "The solver, an extension of the hosted API; the model's own is the default",
    },
    "loras": _LORAS,
    ENHANCE_NAMES[0]: {
        "type": "boolean",
        "description": "Have the server's language model rewrite the prompt before the video is made of it, where the "
        "server has one. The row has `enhanced_prompt`",
    },
    ENHANCE_NAMES[1]: {"type": "boolean", "description": f"Another name of {ENHANCE}"},
    INSPIRATION: {
        "type": "boolean",
        "description": "Have the prompt turned into a freer one by a style card that the seed chooses: by the server's "
        "language model where it has one, else by the card's words behind it. The row has `inspiration_style`",
    },
    IMAGE: {**_IMAGE, "description": f"The image that the video begins with, for models that take one: {_IMAGE_KINDS}"},
    LAST_IMAGES[0]: {
        **_IMAGE,
        "description": f"The image that the video ends with, for models that take one: {_IMAGE_KINDS}",
    },
    LAST_IMAGES[1]: {**_IMAGE, "description": f"Another name of {LAST_IMAGES[0]}"},
    EXTEND: {
        "type": "string",
        "maxLength": 100,
        "description": "The id of a generation whose video is continued, for models that take an image: the new one "
        "begins with its last frame, and both are joined into one file",
    },
    IMAGE_MODE: {
        "type": "string",
        "enum": [str(mode) for mode in ImageMode],
        "description": f"Begin the video of a text model with {IMAGE} or {EXTEND} by a method without training. It is "
        "approximate. Models without any other way to do so take these two only with it",
    },
    VIDEO: {
        **_IMAGE,
        "description": "The video that this one is made of, instead of an image: MP4, MOV, WebM or Matroska of at most "
        f"{VIDEO_BYTES // 2**20} MB, its first {MAX_SECONDS} seconds, in the ways of an image",
    },
    AUDIO_NAMES[0]: {
        **_IMAGE,
        "description": "The sound that is heard with the video, cut to its length or followed by silence: WAV, MP3, "
        f"M4A, Ogg or FLAC of at most {AUDIO_BYTES // 2**20} MB, its first {MAX_AUDIO_SECONDS} seconds, in the ways of "
        "an image",
    },
    AUDIO_NAMES[1]: {**_IMAGE, "description": f"Another name of {AUDIO_NAMES[0]}"},
    GENERATE_AUDIO: {
        "type": "boolean",
        "description": "Have a model make a sound for the video, from words alone: it is not synchronised with what is "
        f"seen. The row has `has_audio`. It excludes {AUDIO_NAMES[0]}",
    },
    AUDIO_PROMPT: {
        "type": "string",
        "maxLength": QueueSettings.model_fields["max_prompt_chars"].default,
        "description": f"What is heard with {GENERATE_AUDIO}, instead of what the prompt says",
    },
    STRENGTH: {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 1,
        "description": f"How much of {VIDEO} is made anew: so much of the denoising steps runs",
    },
}
"""The schemas of this server's own parameters, which no model's `request_schema` has."""

WEBHOOK_PARAMETERS: dict[str, dict[str, Any]] = {
    URL: {
        "type": "string",
        "format": "uri",
        "maxLength": MAX_URL_CHARS,
        "description": "The URL of a public address that gets a signed POST for each of webhook_events",
    },
    EVENTS: {
        "type": "array",
        "uniqueItems": True,
        "items": {"type": "string", "enum": [str(event) for event in WebhookEvent]},
        "description": f"What the webhook is told; {', '.join(DEFAULT_EVENTS)} is the default",
    },
}
"""The same where the setting `webhooks` allows hosts."""


def body_schemas(catalogue: Mapping[str, CatalogueEntry], settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the schemas of the request bodies by name: GENERATE for the sync route, ENQUEUE for the queue route, and
    ENHANCE_PROMPT for the route that rewrites a prompt; and those of the library.
    """
    text = {"type": "string", "maxLength": settings.max_prompt_chars}
    optional = {
        **_model_parameters(list(catalogue.values()), text),
        "duration": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": max(entry.longest_seconds for entry in catalogue.values()),
            "description": "Seconds; num_frames takes precedence",
        },
        "aspect_ratio": {
            "type": "string",
            "enum": ["16:9", "4:3", "1:1", "3:4", "9:16"],
            "description": "Any W:H within the size limits; height and width take precedence",
        },
        "resolution": {
            "type": "string",
            "enum": list(RESOLUTIONS),
            "description": "In any case of letters; with aspect_ratio, or 16:9. height and width take precedence",
        },
        "response_format": {"type": "string", "enum": list(RESPONSE_FORMATS)},
        "num_generations": {"type": "integer", "minimum": 1, "maximum": settings.max_num_generations},
        **OWN_PARAMETERS,
        AUDIO_PROMPT: {**OWN_PARAMETERS[AUDIO_PROMPT], **text},
        **(WEBHOOK_PARAMETERS if settings.webhooks else {}),
    }
    generate: dict[str, Any] = {
        "type": "object",
        "title": GENERATE,
        "required": ["model", "prompt"],
        "properties": {
            "model": {"type": "string", "description": "The id of a model"},
            # an empty or blank prompt counts as missing
            "prompt": {**text, "pattern": r"\S"},
            **{name: _nullable(schema) for name, schema in optional.items()},
        },
    }
    targets = {name: _nullable({"type": "string", "maxLength": MAX_TARGET_CHARS}) for name in TARGETS}
    enqueue = {**generate, "title": ENQUEUE, "properties": {**generate["properties"], **targets}}
    enhance = {
        "type": "object",
        "title": ENHANCE_PROMPT,
        "required": ["prompt"],
        "properties": {
            "prompt": generate["properties"]["prompt"],
            "model": _nullable({"type": "string", "description": "The id of the model that the prompt is for"}),
            "seed": _nullable({"type": "integer", "minimum": 0, "maximum": MAX_SEED, **LONG}),
        },
        "additionalProperties": False,
    }
    return {GENERATE: generate, ENQUEUE: enqueue, ENHANCE_PROMPT: enhance, **LIBRARY_BODIES}


def _model_parameters(entries: Sequence[CatalogueEntry], text: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameters of all models except the prompt, each with its widest limits."""
    by_name: dict[str, list[Parameter]] = {}
    for entry in entries:
        for parameter in entry.api.parameters:
            by_name.setdefault(parameter.name, []).append(parameter)
    del by_name["prompt"]
    return {name: _widest(parameters, text) for name, parameters in by_name.items()}


def _widest(parameters: Sequence[Parameter], text: dict[str, Any]) -> dict[str, Any]:
    first = parameters[0]
    if first.type == "string":
        return text
    if first.type == "boolean":
        return {"type": "boolean"}
    lows, highs = zip(*map(limits_of, parameters), strict=True)
    limits = {"minimum": min(lows), "maximum": max(highs)}
    schema = {"type": first.type} | {name: limit for name, limit in limits.items() if math.isfinite(limit)}
    return schema | LONG if first.type == "integer" and max(highs) >= 2**31 else schema


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}
