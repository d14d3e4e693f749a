"""The table `[api]` of a model's file: what clients see of the model."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, model_validator

from pipelines.core.request import LIMITS, MAX_GUIDANCE_SCALE
from pipelines.models.table import Table

Json = dict[str, Any]


class Parameter(Table):
    """One request parameter: its JSON type, its limits (inclusive) and the texts shown for it."""

    name: str
    type: Literal["string", "integer", "number", "boolean"]
    title: str
    description: str
    default: str | int | float | bool | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    required: bool = False
    basic: bool = False

    @model_validator(mode="after")
    def _limits_are_for_numbers(self) -> "Parameter":
        if self.type not in ("integer", "number") and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"{self.name}: only an integer or a number has a minimum or a maximum")
        return self

    def json_schema(self, order: int) -> Json:
        """This parameter as a JSON Schema property; `order` is its position on the page."""
        stated = {"default": self.default, "minimum": self.minimum, "maximum": self.maximum}
        return {
            "type": self.type,
            "title": self.title,
            "description": self.description,
            **{key: value for key, value in stated.items() if value is not None},
            "x-order": order,
        }


_REQUIRED_TYPES = {
    "prompt": "string",
    "negative_prompt": "string",
    "height": "integer",
    "width": "integer",
    "num_frames": "integer",
    "num_inference_steps": "integer",
    "guidance_scale": "number",
    "seed": "integer",
}


class Developer(Table):
    """The developer of a model."""

    name: str
    display_name: str
    logo: str | None = None


class ApiSpec(Table):
    """What clients see of a model.

    `aliases` are other names of it in requests. `created` is in Unix seconds, `released_at` is a date. `max_pixels`
    limits width times height, for models that make videos of both orientations; None if their limits alone count.
    `enhance_prompt` has the prompts of requests rewritten that say nothing about it.
    """

    id: str = Field(min_length=1, max_length=200)
    aliases: list[str] = Field(default=[])
    display_name: str
    summary: str
    description: str
    created: int
    released_at: str | None = None
    owned_by: str
    featured: bool = False
    image_url: str | None = None
    input: list[str] = Field(default=["text"])
    output: list[str] = Field(default=["video"])
    developer: Developer
    parameters: list[Parameter]
    max_pixels: int | None = Field(default=None, ge=1)
    enhance_prompt: bool = False

    @model_validator(mode="after")
    def _describes_a_whole_video(self) -> "ApiSpec":
        """Every field of a video has a parameter; all but prompt and seed have a default, and numbers have limits."""
        for name, kind in _REQUIRED_TYPES.items():
            parameter = self.by_name.get(name)
            if parameter is None or parameter.type != kind:
                raise ValueError(f"parameters: {name} is required, with the type {kind}")
            if name not in ("prompt", "seed") and parameter.default is None:
                raise ValueError(f"parameters: {name} must have a default")
            if kind != "string" and name != "seed" and (parameter.minimum is None or parameter.maximum is None):
                raise ValueError(f"parameters: {name} must have a minimum and a maximum")
            low, high = LIMITS.get(name, (0, MAX_GUIDANCE_SCALE if name == "guidance_scale" else math.inf))
            for limit in (parameter.minimum, parameter.maximum):
                if limit is not None and not low <= limit <= high:
                    raise ValueError(f"parameters: the limits of {name} must be from {low} to {high:g}")
        if self.max_pixels is not None and math.prod(self.size("default")[:2]) > self.max_pixels:
            raise ValueError("max_pixels: the default size has more")
        return self

    @cached_property
    def by_name(self) -> Mapping[str, Parameter]:
        """The parameters by name."""
        return {parameter.name: parameter for parameter in self.parameters}

    def size(self, which: Literal["default", "maximum"]) -> tuple[int, int, int]:
        """Width and height in pixels and length in frames of the default or the largest video."""
        width, height, frames = (getattr(self.by_name[name], which) for name in ("width", "height", "num_frames"))
        if which == "maximum" and self.max_pixels is not None:
            # the widest one: it has as many tokens as the highest one
            height = min(height, max(1, self.max_pixels // width))
        return width, height, frames

    @cached_property
    def request_schema(self) -> Json:
        """The JSON Schema of a request's parameters, in the form of the hosted API's model object."""
        return {
            "type": "object",
            "properties": {p.name: p.json_schema(order) for order, p in enumerate(self.parameters)},
            "required": [p.name for p in self.parameters if p.required],
            "basic": [p.name for p in self.parameters if p.basic],
            **({} if self.max_pixels is None else {"x-max-pixels": self.max_pixels}),
        }
