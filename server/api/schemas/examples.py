"""The answers the OpenAPI document shows."""

from typing import Any

from pipelines.core.catalogue import DEFAULT_MODEL

ID = "0b0f3a8e-5d5c-4c0f-9d4d-0d2a4a0e6a51"
PLAN = "bf16 streamed, text encoder streamed, whole frames"
URL = "http://localhost:8000/api/files/token.mp4"
ROW: dict[str, Any] = {
    "generation_id": ID,
    "model_name": DEFAULT_MODEL,
    "prompt": "An ox by a lake",
    "media_type": "video",
    "status": "processing",
    "result_url": None,
    "error_message": None,
    "enqueued_at": 1790000000,
    "started_at": 1790000001,
    "completed_at": None,
    "target_namespace": None,
    "target_repo": None,
    "target_directory": None,
    "progress": 0.42,
    "eta_seconds": 81.5,
    "queue_position": None,
    "preview_url": f"http://localhost:8000/api/ai/queue/{ID}/preview?step=7",
    "seed": 7,
}
HISTORY_ROW: dict[str, Any] = {**ROW, "cost": None, "user_id": None, "username": None, "user_image": None}
_ABOUT_MODEL: dict[str, Any] = {
    "display_name": "Wan2.1 14B - Text to Video",
    "summary": "Text-to-video with bilingual text",
    "description": "Wan-AI/Wan2.1-T2V-14B-Diffusers is a 14B parameter Large Vision Model (LVM) …",
    "model_type": "base",
    "capabilities": {"input": ["text"], "output": ["video"]},
    "developer": {"name": "wan-ai", "display_name": "Wan-AI", "logo": None},
}
_REQUEST_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"prompt": {"type": "string", "title": "Prompt", "x-order": 0}},
    "required": ["prompt"],
    "basic": ["prompt"],
}
MODEL: dict[str, Any] = {
    **_ABOUT_MODEL,
    "id": DEFAULT_MODEL,
    "object": "model",
    "created": 1740441600,
    "owned_by": "oxen",
    "endpoint": "/videos/generate",
    "released_at": "2025-02-25",
    "image_url": None,
    "deployments": [{"status": "active"}],
    "request_schema": _REQUEST_SCHEMA,
    "json_request_schema": _REQUEST_SCHEMA,
    "fine_tuning": None,
    "source_model": None,
    "showcase": None,
    "fps": 16,
    "weights": "real",
    "plan": PLAN,
}
EVALUATION_MODEL: dict[str, Any] = {
    **_ABOUT_MODEL,
    "name": DEFAULT_MODEL,
    "can_run_inference": True,
    "deprecated": False,
    "json_request_schema": _REQUEST_SCHEMA,
}
