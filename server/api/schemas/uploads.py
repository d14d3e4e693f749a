"""Schemas of uploads."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from server.api.bodies.reading import UPLOADED
from server.api.schemas.example import example
from server.api.schemas.fields import Bytes, UnixSeconds


class Uploaded(BaseModel):
    """An image, a video or a sound that requests may name."""

    id: str = Field(description="The value for input_image, end_image_url, input_video or input_audio")
    object: Literal["upload"]
    bytes: Bytes
    width: int | None = Field(None, description="Pixels, turned upright; absent for a sound")
    height: int | None = Field(None, description="Absent for a sound")
    num_frames: int | None = Field(None, description="The length of a video; absent for an image")
    fps: float | None = Field(None, description="The rate of a video in frames a second; absent for an image")
    seconds: float | None = Field(None, description="The length of a sound; absent for an image and a video")
    warnings: list[str] = Field(description="What was changed")
    expires: UnixSeconds

    model_config = example(
        {
            "id": "upload:WyI5ZjI0Il0.token",
            "object": "upload",
            "bytes": 183204,
            "width": 1280,
            "height": 720,
            "warnings": [],
            "expires": 1790003600,
        }
    )


_FILE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": [UPLOADED],
        "properties": {UPLOADED: {"type": "string", "format": "binary", "description": "The file"}},
    }
}
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": _FORM, "application/octet-stream": _FILE},
    }
}
"""The OpenAPI documentation of the body. Generators of clients know no ranges such as image/*, which is taken, too."""
