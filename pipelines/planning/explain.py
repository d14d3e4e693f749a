"""A plan's choices and their reasons in words, for `paddock plan`."""

from dataclasses import dataclass

from pipelines.core.precision import Accuracy, Precision, PrecisionSetting
from pipelines.planning.layout import Decoding, Layout, Machine, MemoryPlan, Residence, format_gib
from pipelines.planning.memory_model import transformer_bytes
from pipelines.planning.shapes import BF16, ModelShape


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for a component, and why."""

    choice: str
    reason: str


def choices(chosen: MemoryPlan, shape: ModelShape, machine: Machine) -> dict[str, Choice]:
    """The choice and its reason for each component, for people."""
    guidance = Choice(
        "one batch" if chosen.layout.batched else "one pass after the other",
        "each streamed block is copied once for both passes"
        if chosen.layout.batched
        else "one batch takes as long and more memory, except where copying blocks is slower than computing",
    )
    return {
        "transformer": _transformer_choice(chosen.layout, shape),
        "transformer weights": _precision_choice(chosen.layout, shape, machine),
        "residual stream": _accuracy_choice(chosen.layout, machine),
        "activations": _slices_choice(chosen.layout),
        "guidance": guidance,
        "text encoder": _text_encoder_choice(chosen.layout, shape, machine),
        **_image_encoder_choice(chosen.layout, shape),
        "VAE": _vae_choice(chosen.layout, machine),
    }


def _accuracy_choice(layout: Layout, machine: Machine) -> Choice:
    if layout.accuracy is Accuracy.HIGH:
        return Choice("fp32", "as in the code of the model's authors: rounded less often than in bf16")
    if machine.accuracy is Accuracy.STANDARD:
        return Choice("bf16", "as configured: accuracy = standard")
    return Choice("bf16", "in fp32 it would need more GPU memory than is left, or less exact weights")


def _slices_choice(layout: Layout) -> Choice:
    if not layout.slice_tokens:
        return Choice("all tokens at once", "norms, modulation and feed-forward fit in GPU memory")
    return Choice(
        f"slices of {layout.slice_tokens} tokens",
        "norms, modulation and feed-forward of all tokens at once would need more GPU memory than is left, or a slower "
        "or less exact plan; blocks are not compiled",
    )


def _vae_choice(layout: Layout, machine: Machine) -> Choice:
    if layout.decoding is Decoding.WHOLE:
        reason = "whole frames fit in GPU memory"
    else:
        reason = "whole frames would need more GPU memory than is left"
    if layout.fp32_decoding:
        return Choice(f"fp32, {layout.decoding}", f"{reason}; fp32 as in the code of the model's authors")
    why = "as configured" if machine.accuracy is Accuracy.STANDARD else "fp32 would need memory that other parts use"
    return Choice(f"bf16, {layout.decoding}", f"{reason}; {why}")


def _precision_choice(layout: Layout, shape: ModelShape, machine: Machine) -> Choice:
    sources = " and ".join(f"{file.name} ({', '.join(file.formats)})" for file in shape.files)
    if layout.precision is Precision.GGUF:
        has_plain_one = len(shape.quantized) > sum(bool(file.quantized) for file in shape.files)
        other = "; the other transformer in bf16" if has_plain_one else ""
        return Choice(layout.precision, f"{sources}: already quantized, used as it is{other}")
    if layout.precision is Precision.BF16:
        reason = "exact, as published"
    elif machine.precision is not PrecisionSetting.AUTO:
        reason = f"as configured: {machine.precision}"
    else:
        reason = (
            f"more exact formats make a step slower or do not fit: {format_gib(machine.device_memory)} of GPU memory "
            f"and {format_gib(machine.host_memory)} of host memory are free"
        )
    return Choice(layout.precision, f"from {sources}; {reason}" if sources else reason)


def _transformer_choice(layout: Layout, shape: ModelShape) -> Choice:
    layers, whole = shape.transformer.num_layers, format_gib(transformer_bytes(shape, layout.precision))
    if layout.transformer is Residence.RESIDENT:
        return Choice(layout.transformer, f"its {whole} fit in GPU memory beside the activations")
    choice = layout.transformer if not layout.resident_blocks else f"partly {layout.transformer}"
    resident = f"{layout.resident_blocks} of its {layers}" if layout.resident_blocks else f"none of its {layers}"
    streamed = (
        "the others are copied while others compute"
        if layout.transformer is Residence.STREAMED
        else "the others are read from disk in each step, because host memory is too small"
    )
    return Choice(
        choice,
        f"its {whole} do not fit in GPU memory beside the activations: {resident} blocks stay there, {streamed}",
    )


def _image_encoder_choice(layout: Layout, shape: ModelShape) -> dict[str, Choice]:
    if shape.image_encoder is None:
        return {}
    size = format_gib(shape.image_encoder.parameters * BF16)
    return {
        "image encoder": Choice(
            layout.text_encoder, f"its {size} are placed as the text encoder: both are used briefly"
        )
    }


def _text_encoder_choice(layout: Layout, shape: ModelShape, machine: Machine) -> Choice:
    size, host = format_gib(shape.text_encoder.parameters * BF16), format_gib(machine.host_memory)
    reason = {
        Residence.RESIDENT: f"its {size} fit in GPU memory beside the rest",
        Residence.STREAMED: f"its {size} are used only briefly per prompt, and stay in host memory",
        Residence.DISK: f"its {size} fit neither in GPU memory nor in the {host} of host memory beside the rest; they "
        "are used only briefly per prompt",
    }[layout.text_encoder]
    return Choice(layout.text_encoder, reason)
