"""Carry out a MemoryPlan on modules that were just read into host memory, with diffusers' own hooks."""

from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from pipelines.memory import MemoryPlan, Precision, Residence

HOST = torch.device("cpu")


def place(name: str, module: Any, plan: MemoryPlan, device: torch.device) -> None:
    """Bring one part of a pipeline, "transformer", "text_encoder" or "vae", to where the plan has it."""
    if name == "transformer" and plan.precision is Precision.FP8:
        module.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    residence = {"transformer": plan.transformer, "text_encoder": plan.text_encoder}.get(name, Residence.RESIDENT)
    if residence is Residence.RESIDENT:
        module.to(device)
        return
    streams = device.type == "cuda"
    if streams:
        _pin(module)
    # a text encoder of transformers has its blocks deeper than diffusers looks for them: it goes layer by layer
    by_block = {"offload_type": "block_level", "num_blocks_per_group": 1}
    kind = by_block if name == "transformer" else {"offload_type": "leaf_level"}
    apply_group_offloading(module, onload_device=device, offload_device=HOST, use_stream=streams, **kind)


def _pin(module: torch.nn.Module) -> None:
    """Pin a module's tensors one by one: offloading would pin copies of all, and hold both until the first pass."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.pin_memory()
