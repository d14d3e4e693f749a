"""Schemas of estimates."""

from pydantic import BaseModel, Field

from server.api.schemas.example import example


class Size(BaseModel):
    """The sides of a video in pixels."""

    width: int
    height: int


class Estimate(BaseModel):
    """What is known about a request before it is sent; null stands for what is not known."""

    seconds: float | None = Field(description="Of one video; null until one of its kind and about its size was made")
    queue_seconds: float | None = Field(description="Until it would start")
    fits: bool | None = Field(description="Whether it fits the memory of this machine")
    reason: str | None = Field(description="Why it does not fit")
    suggestion: Size | None = Field(description="A smaller size that would fit with as many frames")

    model_config = example(
        {
            "seconds": None,
            "queue_seconds": 0.0,
            "fits": False,
            "reason": "It needs 9.4 GiB of GPU memory for denoising (7.5 GiB is free).",
            "suggestion": {"width": 640, "height": 368},
        }
    )
