"""Values that the examples in the OpenAPI document share."""

from typing import Any

from pydantic import ConfigDict

GENERATION_ID = "0b0f3a8e-5d5c-4c0f-9d4d-0d2a4a0e6a51"
PLAN = "bf16 streamed, text encoder streamed, whole frames"
BASE_URL = "http://localhost:8000"


def example(content: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a pydantic model with this example."""
    return ConfigDict(json_schema_extra={"example": content})
