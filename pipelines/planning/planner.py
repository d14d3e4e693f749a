"""Chooses a MemoryPlan for a model, its largest video and a machine: where weights are stored, and in which format.

Pure arithmetic: it runs on any machine, for any GPU. `pipelines.offload.placement` carries a plan out. A plan chooses:

- the transformer's blocks: as many as fit stay in GPU memory. The others are streamed, each copied while the one before
  it computes, from host memory or, if that is too small, from disk;
- the format of its weights: bf16; multiplied in fp8 or int8; stored in fp8 or 4 bits and multiplied in bf16; or the
  format of a quantized file;
- the accuracy: the residual stream of the transformer in fp32 or bf16, and the VAE in fp32 or bf16;
- activations: all tokens of a video at once, or in slices, which need less memory;
- guidance: two passes one after the other or, with streamed blocks, one batch, so that each block is copied once;
- the text encoder: resident, or streamed layer by layer from host memory or from disk; an image encoder likewise;
- the VAE: always resident, decodes whole frames or tiles, and encodes images and videos in the same ones.

The text encoder stays in bf16: when streamed it leaves GPU memory between prompts, so a smaller format would gain
nothing. Int8 is not offered for storage alone: fp8 needs the same memory and no scales.

Of all plans that fit, the fastest is taken, then the most exact, then the simplest. The exactness of the weights counts
before that of the residual stream, and that before slices, which cost little time. The VAE is in fp32 only if that
leaves the rest of the plan as it is: bf16 differs little, and a text encoder that has to be streamed delays every
prompt. With `precision = auto`, a plan about as fast as all weights resident in bf16 counts as equally fast: weights
are quantized, which changes the video, only if exact weights would make a step slower. So more memory makes a plan
slower only where it makes it more exact; with a fixed precision more memory is never slower.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product

from pipelines.core.geometry import Geometry
from pipelines.core.precision import SLICE_TOKENS, Accuracy, Precision, PrecisionSetting
from pipelines.planning.cost_model import relative_seconds
from pipelines.planning.layout import Decoding, Layout, Machine, MemoryPlan, Residence
from pipelines.planning.memory_model import FRAGMENTATION, TILED_STAGES, blocks_bytes, host_peak, stage_peaks
from pipelines.planning.shapes import ModelShape

NEXT_PEAK_SHARE = 0.9
"""The next plan's peak is at most this share of the failed one's: each new plan costs loading the model again."""

FAST_ENOUGH = 1.02
"""A step may take this many times as long as with all weights resident in bf16 before weights are quantized."""


def plan(shape: ModelShape, largest: Geometry, machine: Machine) -> MemoryPlan:
    """The best plan that fits for the largest video.

    If none fits: the plan with the lowest peak of GPU memory, preferably one that fits into host memory.
    """
    candidates = list(_candidates(shape, largest, machine))
    preference = partial(_preference, machine.precision)
    fitting = [candidate for candidate in candidates if candidate.fits(machine)]
    if not fitting:
        return min(candidates, key=lambda c: (c.host_peak > machine.host_memory, c.device_peak, c.host_peak))
    chosen = min(fitting, key=preference)
    if machine.accuracy is Accuracy.STANDARD:
        return chosen
    with_fp32_vae = _with_resident_blocks(shape, largest, machine, replace(chosen.layout, fp32_decoding=True))
    return min([chosen, *(each for each in with_fp32_vae if each.fits(machine))], key=preference)


def fits(shape: ModelShape, largest: Geometry, machine: Machine) -> bool:
    """Whether any plan fits."""
    return any(candidate.fits(machine) for candidate in _candidates(shape, largest, machine))


def next_plan(shape: ModelShape, largest: Geometry, machine: Machine, than: MemoryPlan) -> MemoryPlan | None:
    """The plan to try after `than` ran out of memory: the best one whose peak is clearly lower (NEXT_PEAK_SHARE).

    If there is none: the best plan with any lower peak, or None. It must fit into host memory.
    """
    # the plan may have been made for a video of another size: compare with what its layout needs for this one
    peak = evaluate(shape, largest, machine, than.layout).device_peak
    # a plan that is known not to fit is not worth loading
    for limit in (min(round(NEXT_PEAK_SHARE * peak), machine.device_memory), min(peak - 1, machine.device_memory)):
        lower = plan(shape, largest, replace(machine, device_memory=limit))
        if lower.fits(replace(machine, device_memory=limit)):
            return lower
    return None


def _preference(setting: PrecisionSetting, candidate: MemoryPlan) -> tuple[float, ...]:
    layout = candidate.layout
    enough = FAST_ENOUGH if setting is PrecisionSetting.AUTO else 0.0
    return (
        max(enough, candidate.relative_seconds_per_step),
        layout.precision.exactness,
        layout.accuracy is not Accuracy.HIGH,
        layout.slice_tokens > 0,
        layout.batched,
        candidate.relative_seconds_per_step,
        list(Decoding).index(layout.decoding),
        list(Residence).index(layout.text_encoder),
        not layout.fp32_decoding,
        list(Residence).index(layout.transformer),
        candidate.host_peak,
    )


def _candidates(shape: ModelShape, largest: Geometry, machine: Machine) -> Iterator[MemoryPlan]:
    precisions = (Precision.GGUF,) if shape.quantized else machine.precision.allowed(machine.capability)
    for precision, transformer, text_encoder, batched, (accuracy, slice_tokens) in product(
        precisions, Residence, Residence, (False, True), _activations(shape.tokens(largest), machine)
    ):
        if batched and (transformer is Residence.RESIDENT or not shape.guidance):
            # a batch of two takes as long as two passes: it only helps to copy streamed blocks once
            continue
        for decoding in Decoding:
            layout = Layout(
                precision,
                transformer,
                text_encoder,
                decoding,
                batched=batched,
                accuracy=accuracy,
                slice_tokens=slice_tokens,
            )
            found = list(_with_resident_blocks(shape, largest, machine, layout))
            yield from found
            if max(found[0].stage_peaks.get(stage, 0) for stage in TILED_STAGES) < found[0].device_peak:
                # smaller tiles would not lower the peak
                break


def _activations(tokens: int, machine: Machine) -> list[tuple[Accuracy, int]]:
    """The accuracies and slices that a plan may choose. Less memory comes later."""
    accuracies = [Accuracy.HIGH, Accuracy.STANDARD] if machine.accuracy is Accuracy.HIGH else [Accuracy.STANDARD]
    if tokens <= SLICE_TOKENS:
        # one slice would have them all
        return [(accuracy, 0) for accuracy in accuracies]
    # high accuracy in slices needs less memory than standard accuracy without
    return [(accuracies[0], 0), *((accuracy, SLICE_TOKENS) for accuracy in accuracies)]


def _with_resident_blocks(
    shape: ModelShape, largest: Geometry, machine: Machine, layout: Layout
) -> Iterator[MemoryPlan]:
    """A layout without resident blocks, and with as many as fit where blocks are streamed."""
    candidate = evaluate(shape, largest, machine, replace(layout, resident_blocks=0))
    yield candidate
    if layout.transformer is not Residence.RESIDENT and candidate.device_peak < machine.device_memory:
        block = blocks_bytes(shape, layout.precision, 1) * (1 + FRAGMENTATION)
        # rounding may add a byte per stage
        free = machine.device_memory - candidate.device_peak - len(candidate.stage_peaks)
        blocks = min(shape.transformer.num_layers - 1, int(free / block))
        if blocks > 0:
            yield evaluate(shape, largest, machine, replace(layout, resident_blocks=blocks))


def evaluate(shape: ModelShape, largest: Geometry, machine: Machine, layout: Layout) -> MemoryPlan:
    """A layout's memory peaks and speed."""
    return MemoryPlan(
        layout=layout,
        stage_peaks=stage_peaks(shape, largest, layout),
        host_peak=host_peak(shape, largest, layout),
        relative_seconds_per_step=relative_seconds(shape, largest, machine, layout),
    )
