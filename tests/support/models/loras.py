"""Small LoRA files for the small models."""

from pathlib import Path

import torch
from safetensors.torch import save_file


def write_lora(path: Path, width: int, layers: tuple[str, ...], seed: int = 0, size: float = 0.5) -> Path:
    """Write a LoRA of rank 2 on square linear layers, by diffusers' names."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in layers:
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(2, width, generator=generator) * size
        tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(width, 2, generator=generator) * size
    save_file(tensors, path)
    return path
