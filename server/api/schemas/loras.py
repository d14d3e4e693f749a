"""Schemas of LoRAs."""

from typing import Literal

from pydantic import BaseModel, Field

from pipelines.core.request import MAX_LORA_STRENGTH
from pipelines.models.catalogue import DEFAULT_MODEL
from server.api.schemas.example import example
from server.api.schemas.fields import Bytes

_LORA = {
    "name": "watercolor",
    "models": [DEFAULT_MODEL],
    "size": 306807976,
    "source": "folder",
    "description": None,
    "strength": 1.0,
}


class AvailableLora(BaseModel):
    """A LoRA that requests may name in `loras`."""

    name: str
    models: list[str] | None = Field(description="Ids of the models it fits; null if that is not known")
    size: Bytes | None = Field(description="Bytes; null while its file is not downloaded")
    source: Literal["catalogue", "folder"] = Field(description="A model's file, or the setting loras_dir")
    description: str | None
    strength: float = Field(description="The default of requests", ge=-MAX_LORA_STRENGTH, le=MAX_LORA_STRENGTH)


class LoraList(BaseModel):
    """The LoRAs of the models, then those of the folder by name."""

    object: Literal["list"]
    data: list[AvailableLora]

    model_config = example({"object": "list", "data": [_LORA]})
