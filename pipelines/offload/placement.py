"""Carry out a layout: where each tensor goes as it is read, and hooks for what comes and goes."""

from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from pipelines.core.model import TRANSFORMERS
from pipelines.offload.block_streaming import stream
from pipelines.offload.pinned_memory import pinned
from pipelines.planning.layout import Layout, Residence

HOST = torch.device("cpu")


def residence(part: str, layout: Layout) -> Residence:
    """Where a layout has a part of a pipeline, by diffusers' name for it."""
    if part in TRANSFORMERS:
        return layout.transformer
    return layout.text_encoder if part == "text_encoder" else Residence.RESIDENT


def resident_blocks(layout: Layout, num_layers: int) -> frozenset[int]:
    """Which blocks of a streamed transformer stay on the card: spread evenly, so that each hides some copying."""
    streamed = num_layers - layout.resident_blocks
    return frozenset(
        index for index in range(num_layers) if (index + 1) * streamed // num_layers == index * streamed // num_layers
    )


def bring(part: str, name: str, tensor: torch.Tensor, layout: Layout, device: torch.device, num_layers: int) -> Any:
    """A tensor of a part → the same where it stays: on the card, or in host memory; from disk it stays mapped."""
    where = residence(part, layout)
    words = name.split(".")
    in_block = part in TRANSFORMERS and words[0] == "blocks"
    stays = in_block and int(words[1]) in resident_blocks(layout, num_layers)
    if where is Residence.RESIDENT or stays:
        return _moved(tensor, device)
    if where is Residence.DISK and (in_block or part not in TRANSFORMERS):
        return tensor
    if device.type == "cuda":
        # at once: diffusers would pin copies of all, and hold both until the first pass
        tensor.data = pinned(tensor.data)
        return tensor
    return _moved(tensor, HOST)


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    # a mapped tensor is copied even to where it is: files may change under it
    tensor.data = tensor.data.to(device, copy=True)
    return tensor


def place(part: str, module: Any, layout: Layout, device: torch.device) -> None:
    """Have a filled part come to the card and go as the layout says."""
    where = residence(part, layout)
    if where is Residence.RESIDENT:
        # what was not read: computed tables
        module.to(device)
        return
    if part in TRANSFORMERS:
        staying = resident_blocks(layout, len(module.blocks))
        for index in staying:
            module.blocks[index].to(device)
        stream(module, staying, device, mapped=where is Residence.DISK)
        return
    streams = device.type == "cuda"
    # a text encoder of transformers has its blocks deeper than diffusers looks for them: it goes layer by layer
    apply_group_offloading(
        module,
        offload_type="leaf_level",
        onload_device=device,
        offload_device=HOST,
        use_stream=streams,
        # pinned once and for all, or for each passage only
        low_cpu_mem_usage=streams and where is Residence.DISK,
    )
