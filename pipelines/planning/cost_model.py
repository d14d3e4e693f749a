"""How long a denoising step takes by a layout, relative to all of it resident in bf16. Arithmetic on assumed rates.

The rates only weigh plans against each other; none was measured here. Products in fp8 and int8 run at twice the rate of
bf16, as the makers' sheets of all these chips have it, and what is rounded for them is read and written a few times
more, which takes the card's memory its time. Attention stays in bf16: the gain depends on the video's size.
"""

from pipelines.core.geometry import Geometry
from pipelines.core.precision import Precision
from pipelines.planning.layout import Layout, Machine, Residence
from pipelines.planning.memory_model import blocks_bytes
from pipelines.planning.shapes import ModelShape, TransformerShape

HOST_TO_DEVICE = 16e9
DISK_TO_HOST = 2e9
"""Bytes a second over the bus, and from the disk."""

# by capability: what dense bf16 matmuls reach in practice, and what a card's memory does in bytes a second
_FLOPS = {(7, 5): 30e12, (8, 0): 150e12, (8, 6): 45e12, (8, 9): 90e12, (9, 0): 400e12, (10, 0): 800e12, (12, 0): 110e12}
_MEMORY = {(7, 5): 4e11, (8, 0): 15e11, (8, 6): 6e11, (8, 9): 8e11, (9, 0): 26e11, (10, 0): 6e12, (12, 0): 14e11}

_FASTER = 2.0
"""How many products in fp8 or int8 take the time of one in bf16."""

ROUNDING_BYTES = {Precision.FP8_MATMUL: 13, Precision.INT8_MATMUL: 37}
"""Bytes read and written for each number that goes into a matrix, and for the one that comes out, beside the product's.

Counted in `pipelines.layers.quantized_linear`; a test counts them again.
"""

_RESTORING = {Precision.FP8: 0.04, Precision.Q4: 0.08, Precision.GGUF: 0.08}
"""Share of a step that bringing the weights back to bf16 takes: every one is read once more and written."""


def _seconds_in_bf16(transformer: TransformerShape, tokens: int, capability: tuple[int, int]) -> float:
    """Of one forward pass with all weights on the card."""
    return transformer.forward_flops(tokens) / _at(_FLOPS, capability)


def _seconds(transformer: TransformerShape, tokens: int, capability: tuple[int, int], precision: Precision) -> float:
    """Of one forward pass with all weights on the card, in a precision."""
    exact = _seconds_in_bf16(transformer, tokens, capability)
    if not precision.multiplies:
        return exact * (1 + _RESTORING.get(precision, 0.0))
    saved = transformer.linear_flops(tokens) / _at(_FLOPS, capability) * (1 - 1 / _FASTER)
    rounding = transformer.linear_numbers(tokens) * ROUNDING_BYTES[precision] / _at(_MEMORY, capability)
    return exact - saved + rounding


def _at(rates: dict[tuple[int, int], float], capability: tuple[int, int]) -> float:
    known = [known for known in rates if known <= capability]
    return rates[max(known)] if known else rates[min(rates)]


def relative_seconds(shape: ModelShape, largest: Geometry, machine: Machine, layout: Layout) -> float:
    """Seconds of a step over those with everything resident in bf16, by the passes that come one after another."""
    transformer, tokens, together = shape.transformer, shape.tokens(largest), 1 + layout.batched
    compute = together * _seconds_in_bf16(transformer, tokens, machine.capability)
    taken = together * _seconds(transformer, tokens, machine.capability, layout.precision)
    if layout.transformer is not Residence.RESIDENT:
        copied = blocks_bytes(shape, layout.precision, 1) / shape.experts
        streamed = transformer.num_layers - layout.resident_blocks
        # the first block of a pass is waited for; the others arrive while their predecessors compute. That a batch
        # waits for its first only once is left out: it is not worth a batch's memory
        taken = together * copied / HOST_TO_DEVICE + max(taken, streamed * copied / HOST_TO_DEVICE)
        if layout.transformer is Residence.DISK:
            # it hides behind computing as well, but nobody knows how slow a disk is: the last resort
            taken += streamed * copied / DISK_TO_HOST
    return taken / compute
