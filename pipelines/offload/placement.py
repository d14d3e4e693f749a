"""Carries out a layout: moves each tensor to its place as it is read, and adds hooks to parts that are streamed."""

from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from pipelines.models.family import Part, PartKind
from pipelines.offload.block_streaming import stream_blocks
from pipelines.offload.pinned_memory import pinned
from pipelines.planning.layout import Layout, Residence

HOST = torch.device("cpu")


def residence(part: Part, layout: Layout) -> Residence:
    """Return where a layout keeps a part of a pipeline."""
    match part.kind:
        case PartKind.DENOISER:
            return layout.transformer
        case PartKind.TEXT_ENCODER | PartKind.IMAGE_ENCODER:
            return layout.text_encoder
        case PartKind.VAE | PartKind.CONDITIONER:
            return Residence.RESIDENT


def resident_blocks(layout: Layout, num_layers: int) -> frozenset[int]:
    """Return the blocks of a streamed transformer that stay on the device, spread evenly to hide some copying each."""
    streamed = num_layers - layout.resident_blocks
    return frozenset(
        index for index in range(num_layers) if (index + 1) * streamed // num_layers == index * streamed // num_layers
    )


def is_mapped(part: Part, name: str, layout: Layout, num_layers: int) -> bool:
    """Return whether a part's tensor stays memory-mapped from disk."""
    if residence(part, layout) is not Residence.DISK or _is_in_resident_block(part, name, layout, num_layers):
        return False
    return _block(part, name) is not None or not part.is_denoiser


def _block(part: Part, name: str) -> int | None:
    """Return the index of the transformer's block that a tensor belongs to; None for every other tensor."""
    words = name.split(".")
    return int(words[1]) if part.is_denoiser and words[0] == "blocks" else None


def _is_in_resident_block(part: Part, name: str, layout: Layout, num_layers: int) -> bool:
    block = _block(part, name)
    return block is not None and block in resident_blocks(layout, num_layers)


def place_tensor(
    part: Part, name: str, tensor: torch.Tensor, layout: Layout, device: torch.device, num_layers: int
) -> Any:
    """Return a part's tensor in its place: on the device, in host memory, or still memory-mapped from disk.

    `num_layers` is the number of blocks of a transformer.
    """
    if residence(part, layout) is Residence.RESIDENT or _is_in_resident_block(part, name, layout, num_layers):
        return _moved(tensor, device)
    if is_mapped(part, name, layout, num_layers):
        return tensor
    if device.type == "cuda":
        # now: diffusers would pin copies of all tensors, and hold both until the first pass
        tensor.data = pinned(tensor.data)
        return tensor
    return _moved(tensor, HOST)


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    # a memory-mapped tensor is copied even on its own device: the file may change
    tensor.data = tensor.data.to(device, copy=True)
    return tensor


def place_module(part: Part, module: Any, layout: Layout, device: torch.device) -> None:
    """Move a part whose tensors are placed to the device, or let it be streamed there, as the layout says."""
    where = residence(part, layout)
    if where is Residence.RESIDENT:
        # the buffers that are computed instead of read
        module.to(device)
        return
    if part.is_denoiser:
        resident = resident_blocks(layout, len(module.blocks))
        for index in resident:
            module.blocks[index].to(device)
        stream_blocks(module, resident, device, from_disk=where is Residence.DISK)
        return
    use_stream = device.type == "cuda"
    # diffusers does not find the blocks of a text encoder of transformers, so that is offloaded layer by layer
    apply_group_offloading(
        module,
        offload_type="leaf_level",
        onload_device=device,
        offload_device=HOST,
        use_stream=use_stream,
        # from host memory the weights are pinned already; from disk each is pinned for its copy only
        low_cpu_mem_usage=use_stream and where is Residence.DISK,
    )
