"""The bodies of requests, as the OpenAPI document shows them.

They are read by `server.service.parameters`, by each model's own schema: these are the limits of the widest model. On
the queue a parameter beyond them still gets a generation, which fails with a sentence.
"""

from typing import Any

from pipelines.core.catalogue import DEFAULT_MODEL
from pipelines.core.request import StepCaching

EXAMPLE = {
    "model": DEFAULT_MODEL,
    "prompt": "An ox by a lake",
    "height": 64,
    "width": 64,
    "num_frames": 5,
    "num_inference_steps": 2,
}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_PARAMETERS: dict[str, dict[str, Any]] = {
    "negative_prompt": {"type": "string", "maxLength": 10_000},
    "height": {"type": "integer", "minimum": 1, "maximum": 720},
    "width": {"type": "integer", "minimum": 1, "maximum": 1280},
    "num_frames": {"type": "integer", "minimum": 1, "maximum": 120},
    "num_inference_steps": {"type": "integer", "minimum": 1, "maximum": 100},
    "guidance_scale": {"type": "number", "minimum": 0, "maximum": 10},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**53 - 16},
    "duration": {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 7.5,
        "description": "Seconds; num_frames wins over it",
    },
    "aspect_ratio": {
        "type": "string",
        "enum": ["16:9", "4:3", "1:1", "3:4", "9:16"],
        "description": "Any W:H within the size limits; height and width win over it",
    },
    "response_format": {"type": "string", "enum": ["url", "b64_json"]},
    "generate_audio": {"type": "boolean", "const": False, "description": "No model here makes sound"},
    "num_generations": {"type": "integer", "minimum": 1, "maximum": 4},
    "step_cache": {
        "type": "string",
        "enum": [str(level) for level in StepCaching],
        "description": "Ours: whether steps may be foretold; left out, as the server is set",
    },
}

SYNC_BODY: dict[str, Any] = {
    "type": "object",
    "required": ["model", "prompt"],
    "properties": {
        "model": {"type": "string", "description": "The id of a model"},
        "prompt": {"type": "string", "maxLength": 10_000},
        **{name: _nullable(schema) for name, schema in _PARAMETERS.items()},
    },
}

QUEUE_BODY: dict[str, Any] = {
    **SYNC_BODY,
    "properties": {
        **SYNC_BODY["properties"],
        **{name: _nullable({"type": "string"}) for name in ("target_namespace", "target_repo", "target_directory")},
    },
}
