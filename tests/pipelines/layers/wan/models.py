"""Small transformers with random weights whose sizes allow every quantization, and their inputs."""

from typing import Any

import torch
from diffusers import WanTransformer3DModel

_CONFIG = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "ffn_dim": 256,
    "text_dim": 64,
    "freq_dim": 64,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "text": _CONFIG,
    "image": {**_CONFIG, "image_dim": 48, "added_kv_proj_dim": 128},
    "timestep per token": _CONFIG,
}
"""Wan2.1's text to video and image to video, and Wan2.2 5B."""

TOKENS = 3 * 6 * 8


def random_transformer(kind: str, **changes: Any) -> Any:
    """A transformer in fp32 whose weights bf16 holds, so that only arithmetic differs."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(**{**CONFIGS[kind], **changes}).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
    return model


def inputs(kind: str, batch: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Inputs of a video of `TOKENS` tokens."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator).bfloat16().to(dtype)

    found = {"hidden_states": random(16, 3, 12, 16), "encoder_hidden_states": random(512, 64)}
    if kind == "image":
        found["encoder_hidden_states_image"] = random(20, 48)
    steps = torch.full((batch,), 713.0)
    if kind == "timestep per token":
        steps = steps[:, None].repeat(1, TOKENS)
        steps[:, : TOKENS // 3] = 0
    return {**found, "timestep": steps}
