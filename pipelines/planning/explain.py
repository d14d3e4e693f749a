"""A plan's choices in words, each with its reason: the output of `paddock plan`."""

from dataclasses import dataclass

from pipelines.core.precision import Precision, PrecisionSetting
from pipelines.planning.layout import Decoding, Layout, Machine, MemoryPlan, Residence, format_gib
from pipelines.planning.memory_model import transformer_bytes
from pipelines.planning.shapes import BF16, ModelShape


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for a part, and why."""

    choice: str
    reason: str


def choices(chosen: MemoryPlan, shape: ModelShape, machine: Machine) -> dict[str, Choice]:
    """Each part's choice with its reason, for people."""
    guidance = Choice(
        "one batch" if chosen.layout.batched else "one pass after another",
        "the blocks that come and go do so once for both passes"
        if chosen.layout.batched
        else "a batch of two takes as long, and more memory, unless what comes and goes is waited for",
    )
    return {
        "transformer": _transformer_choice(chosen.layout, shape),
        "transformer weights": _precision_choice(chosen.layout, shape, machine),
        "guidance": guidance,
        "text encoder": _text_encoder_choice(chosen.layout, shape, machine),
        "VAE": Choice(
            f"bf16, {chosen.layout.decoding}",
            "a group of frames at a time fits whole"
            if chosen.layout.decoding is Decoding.WHOLE
            else "whole frames would need more of the card than the rest leaves",
        ),
    }


def _precision_choice(layout: Layout, shape: ModelShape, machine: Machine) -> Choice:
    sources = " and ".join(f"{file.name} ({', '.join(file.forms)})" for file in shape.files)
    if layout.precision is Precision.GGUF:
        beside = "; the other transformer in bf16" if len(shape.kept) > sum(bool(f.kept) for f in shape.files) else ""
        return Choice(layout.precision, f"{sources}: quantized already, and kept as it is{beside}")
    if layout.precision is Precision.BF16:
        reason = "as published, and exact"
    elif machine.precision is not PrecisionSetting.AUTO:
        reason = f"as chosen: {machine.precision}"
    else:
        reason = (
            f"with more exact ones a step takes longer, or they do not fit: the card has "
            f"{format_gib(machine.device_memory)} free, the host {format_gib(machine.host_memory)}"
        )
    return Choice(layout.precision, f"from {sources}; {reason}" if sources else reason)


def _transformer_choice(layout: Layout, shape: ModelShape) -> Choice:
    layers, whole = shape.transformer.num_layers, format_gib(transformer_bytes(shape, layout.precision))
    if layout.transformer is Residence.RESIDENT:
        return Choice(layout.transformer, f"its {whole} stay on the card beside the activations")
    words = layout.transformer if not layout.resident_blocks else f"partly {layout.transformer}"
    kept = f"{layout.resident_blocks} of its {layers} blocks stay there" if layout.resident_blocks else "none stays"
    hidden = (
        "copying hides behind computing"
        if layout.transformer is Residence.STREAMED
        else "the host has no room for them, and reading them adds to each step"
    )
    return Choice(words, f"its {whole} do not fit beside the activations; {kept}, the others come and go, and {hidden}")


def _text_encoder_choice(layout: Layout, shape: ModelShape, machine: Machine) -> Choice:
    size = format_gib(shape.text_encoder.parameters * BF16)
    reason = {
        Residence.RESIDENT: f"its {size} fit beside the rest",
        Residence.STREAMED: f"its {size} are needed for a moment per prompt, and kept off the card otherwise",
        Residence.DISK: f"its {size} fit neither the card nor the {format_gib(machine.host_memory)} of host memory "
        f"beside the rest; they are needed for a moment per prompt",
    }[layout.text_encoder]
    return Choice(layout.text_encoder, reason)
