"""The time of a denoising step by layout: in seconds on a card, and relative to all weights resident in bf16.

The rates by compute capability are assumed, not measured: they only serve to compare plans. Products in fp8 and int8
run at twice the rate of bf16, as the data sheets of all these GPUs state. Quantizing the activations for them costs
memory bandwidth. Attention stays in bf16, so the gain depends on the video's size.
"""

from dataclasses import dataclass

from pipelines.core.geometry import Geometry
from pipelines.core.precision import Precision
from pipelines.planning.layout import Layout, Machine, Residence
from pipelines.planning.memory_model import blocks_bytes
from pipelines.planning.shapes import ModelShape, TransformerShape

HOST_TO_DEVICE = 16e9
DISK_TO_HOST = 2e9
"""Bytes per second over the bus, and from disk."""

# by compute capability: FLOP/s of dense bf16 matmuls in practice, and memory bandwidth in bytes per second
_FLOPS = {(7, 5): 30e12, (8, 0): 150e12, (8, 6): 45e12, (8, 9): 90e12, (9, 0): 400e12, (10, 0): 800e12, (12, 0): 110e12}
_BANDWIDTH = {(7, 5): 4e11, (8, 0): 15e11, (8, 6): 6e11, (8, 9): 8e11, (9, 0): 26e11, (10, 0): 6e12, (12, 0): 14e11}

_SPEEDUP = 2.0
"""Of products in fp8 or int8 over bf16."""

ROUNDING_BYTES = {Precision.FP8_MATMUL: 13, Precision.INT8_MATMUL: 37}
"""Bytes read and written for each input and output value of a matrix, in addition to those of the product itself.

Counted in `pipelines.layers.quantized_linear`; a test counts them again.
"""

_DEQUANTIZING = {Precision.FP8: 0.04, Precision.Q4: 0.08, Precision.GGUF: 0.08}
"""Time to dequantize the weights to bf16, as a share of a step."""


@dataclass(frozen=True, slots=True)
class Rates:
    """FLOP/s of a card's dense bf16 products in practice, and the bytes per second of its memory.

    `moved_bytes` is what the operations between the products read and write for each channel of each token in a block;
    0 counts them with the products.
    """

    flops: float
    bandwidth: float
    moved_bytes: float = 0.0


def rates_of(capability: tuple[int, int]) -> Rates:
    """The rates assumed of all cards of a compute capability."""
    return Rates(_at(_FLOPS, capability), _at(_BANDWIDTH, capability))


def _at(rates: dict[tuple[int, int], float], capability: tuple[int, int]) -> float:
    known = [known for known in rates if known <= capability]
    return rates[max(known)] if known else rates[min(rates)]


def _seconds(transformer: TransformerShape, tokens: int, rates: Rates, precision: Precision) -> float:
    """Seconds of one forward pass with all weights resident in a precision."""
    exact = transformer.forward_flops(tokens) / rates.flops
    moved = transformer.num_layers * tokens * transformer.width * rates.moved_bytes / rates.bandwidth
    if not precision.multiplies:
        return moved + exact * (1 + _DEQUANTIZING.get(precision, 0.0))
    saved = transformer.linear_flops(tokens) / rates.flops * (1 - 1 / _SPEEDUP)
    rounding = transformer.linear_values(tokens) * ROUNDING_BYTES[precision] / rates.bandwidth
    return moved + exact - saved + rounding


def pass_seconds(shape: ModelShape, video: Geometry, layout: Layout, rates: Rates) -> float:
    """Seconds of one pass of the transformer by a layout, or of a batch of two."""
    transformer, batch = shape.transformer, 1 + layout.batched
    taken = batch * _seconds(transformer, shape.tokens(video), rates, layout.precision)
    if layout.transformer is not Residence.RESIDENT:
        copied = blocks_bytes(shape, layout.precision, 1) / shape.experts
        streamed = transformer.num_layers - layout.resident_blocks
        # a pass waits for its first block; the others are copied while their predecessors compute. That a batch waits
        # only once is ignored: it is not worth the memory of a batch
        taken = batch * copied / HOST_TO_DEVICE + max(taken, streamed * copied / HOST_TO_DEVICE)
        if layout.transformer is Residence.DISK:
            # reading overlaps with computing, too, but the speed of the disk is unknown: make it the last resort
            taken += streamed * copied / DISK_TO_HOST
    return taken


def relative_seconds(shape: ModelShape, largest: Geometry, machine: Machine, layout: Layout) -> float:
    """Time of a step by a layout, relative to the time with all weights resident in bf16."""
    rates, batch = rates_of(machine.capability), 1 + layout.batched
    in_bf16 = batch * shape.transformer.forward_flops(shape.tokens(largest)) / rates.flops
    return pass_seconds(shape, largest, layout, rates) / in_bf16
