"""A small transformer, and how to read a LoRA file for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

from pipelines.loading.lora.loras import Loras
from pipelines.models.registry import family_of
from tests.support.models.wan22 import small_transformer

State = dict[str, torch.Tensor]
Merge = Callable[..., State]


@pytest.fixture(scope="session")
def transformer() -> WanTransformer3DModel:
    """A transformer with two blocks, a width of 24 and an MLP of 32."""
    torch.manual_seed(0)
    return small_transformer(16).requires_grad_(False)


@pytest.fixture
def merge(transformer: WanTransformer3DModel, tmp_path: Path) -> Merge:
    """Writes a LoRA file, and merges it into the transformer's weights. Returns those that changed."""

    def write_and_merge(
        tensors: State, metadata: dict[str, str] | None = None, strength: float = 1.0, part: str = "transformer"
    ) -> State:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "lora.safetensors", metadata
        )
        loras = Loras([(tmp_path / "lora.safetensors", strength)], family_of("WanPipeline"), part)
        loras.check(transformer)
        merged = {name: (tensor, loras.merge(name, tensor)) for name, tensor in transformer.named_parameters()}
        return {name: after for name, (before, after) in merged.items() if after is not before}

    return write_and_merge
