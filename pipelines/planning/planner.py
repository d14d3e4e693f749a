"""A model's shapes, the largest video and a machine → a MemoryPlan: what stays on the card, what is streamed, as what.

Pure arithmetic: it runs anywhere, for any card. `placement` carries a plan out; what it can choose is:

- the transformer's blocks on the card, as many as fit; the others streamed, the next one copied while one computes,
  from host memory or, where the host is short of it, from disk;
- its weights in bf16; or multiplied in fp8 or int8; or stored in fp8, or in 4 bits, and computed with in bf16; a
  quantized file's as they are there;
- the two passes of guidance one by one, or, of streamed blocks, as one batch: then these come once for both;
- the text encoder resident, or streamed layer by layer, from host memory or from disk;
- the VAE always resident, decoding whole frames, or tiles of them.

The text encoder keeps its bf16: it leaves the card between prompts, so that its size costs nothing there. There is no
8-bit integer storage without its arithmetic: fp8 takes the same room and needs no scales.

Of all plans that fit the fastest is taken, then the most exact, then the simplest. Unless the owner has chosen a
precision, what is about as fast as all of it resident in bf16 is fast enough: weights are rounded, which makes another
video, only where the exact ones would have to be waited for. More memory is then never slower but for being more exact,
and with a precision chosen never slower at all.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product

from pipelines.core.geometry import Geometry
from pipelines.core.precision import Precision, PrecisionSetting
from pipelines.planning.cost_model import relative_seconds
from pipelines.planning.layout import Decoding, Layout, Machine, MemoryPlan, Residence
from pipelines.planning.memory_model import FRAGMENTATION, blocks_bytes, host_peak, stage_peaks
from pipelines.planning.shapes import ModelShape

CLEARLY = 0.9
"""Share of a plan's peak below which another needs clearly less: a step down costs loading the model again."""

FAST_ENOUGH = 1.02
"""A step of this many times all-resident bf16's is not worth rounding weights for: nobody notices the time."""


def plan(shape: ModelShape, largest: Geometry, machine: Machine) -> MemoryPlan:
    """The best plan that fits the largest video to be made; if none fits, the one that lacks the least of the card.

    Of those that do not fit, one that the host has room for comes first.
    """
    candidates = list(_candidates(shape, largest, machine))
    fitting = [candidate for candidate in candidates if candidate.fits(machine)]
    if fitting:
        return min(fitting, key=partial(_preference, machine.precision))
    return min(candidates, key=lambda c: (c.host_peak > machine.host_memory, c.device_peak, c.host_peak))


def next_plan(shape: ModelShape, largest: Geometry, machine: Machine, than: MemoryPlan) -> MemoryPlan | None:
    """The next plan down from one that ran out of memory: the best that needs clearly less of the card.

    Where none does, any that needs less; None where there is none. The host must have room for it.
    """
    # the plan may have been made for a video of another size: what counts is what its layout needs for this one
    peak = evaluate(shape, largest, machine, than.layout).device_peak
    # what is known not to fit the card is not worth loading
    for limit in (min(round(CLEARLY * peak), machine.device_memory), min(peak - 1, machine.device_memory)):
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
        layout.batched,
        candidate.relative_seconds_per_step,
        list(Decoding).index(layout.decoding),
        list(Residence).index(layout.text_encoder),
        list(Residence).index(layout.transformer),
        candidate.host_peak,
    )


def _candidates(shape: ModelShape, largest: Geometry, machine: Machine) -> Iterator[MemoryPlan]:
    precisions = (Precision.GGUF,) if shape.kept else machine.precision.allowed(machine.capability)
    for precision, transformer, text_encoder, decoding, batched in product(
        precisions, Residence, Residence, Decoding, (False, True)
    ):
        if batched and (transformer is Residence.RESIDENT or not shape.guidance):
            # a batch of two computes for as long as two passes: it is only for what has to come twice otherwise
            continue
        layout = Layout(precision, transformer, text_encoder, decoding, batched=batched)
        candidate = evaluate(shape, largest, machine, layout)
        yield candidate
        if transformer is not Residence.RESIDENT and candidate.device_peak < machine.device_memory:
            block = blocks_bytes(shape, precision, 1) * (1 + FRAGMENTATION)
            # rounding may cost a byte a stage
            free = machine.device_memory - candidate.device_peak - len(candidate.stage_peaks)
            blocks = min(shape.transformer.num_layers - 1, int(free / block))
            if blocks > 0:
                yield evaluate(shape, largest, machine, replace(layout, resident_blocks=blocks))


def evaluate(shape: ModelShape, largest: Geometry, machine: Machine, layout: Layout) -> MemoryPlan:
    """A layout with what it needs and how fast it is."""
    return MemoryPlan(
        layout=layout,
        stage_peaks=stage_peaks(shape, largest, layout),
        host_peak=host_peak(shape, largest, layout),
        relative_seconds_per_step=relative_seconds(shape, largest, machine, layout),
    )
