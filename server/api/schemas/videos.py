"""Schemas of the sync route."""

from pydantic import BaseModel

from pipelines.models.catalogue import DEFAULT_MODEL
from server.api.schemas.example import BASE_URL, example
from server.api.schemas.fields import UnixSeconds

_URL = f"{BASE_URL}/api/files/token.mp4"


class Video(BaseModel):
    """A finished video: its URL, or the file in base64."""

    url: str | None = None
    b64_json: str | None = None


class VideosGenerated(BaseModel):
    """The videos of a sync request. `video_url` is the URL of the first video."""

    model: str
    created: UnixSeconds
    video_url: str
    videos: list[Video]

    model_config = example(
        {"model": DEFAULT_MODEL, "created": 1790000000, "video_url": _URL, "videos": [{"url": _URL}]}
    )
