"""Schemas of rewritten prompts."""

from pydantic import BaseModel, Field

from server.api.schemas.example import example


class PromptEnhanced(BaseModel):
    """A prompt, and what a language model made of it."""

    prompt: str
    enhanced_prompt: str = Field(description="The prompt again if `warnings` say that it could not be enhanced")
    model: str = Field(description="The language model")
    seconds: float = Field(description="How long it took; of a prompt asked for again, how long it took then")
    warnings: list[str] = Field(description="Why the prompt was not enhanced")

    model_config = example(
        {
            "prompt": "An ox by a lake",
            "enhanced_prompt": "A sturdy brown ox stands at the edge of a still mountain lake at dawn …",
            "model": "qwen3:8b",
            "seconds": 2.4,
            "warnings": [],
        }
    )
