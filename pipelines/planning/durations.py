"""Estimates how long a video takes on a card, from one card that was measured and the published rates of both.

The measured one is an H200: Wan2.1 14B at 832x480, 81 frames, in bf16 with guidance (docs/speed.md). A step took
6.48 s, and 5.59 s with compiled blocks. Of a step in fp8 with compiled blocks, 4.70 s, 9 % went to neither products nor
attention: 0.42 s, taken to be the same in bf16. So products and attention took 5.17 s, and the rest 0.42 s compiled and
1.31 s not. The former is scaled by the published bf16 rates of the two cards, the latter by those of their memory.
"""

from dataclasses import dataclass

from pipelines.core.geometry import Geometry
from pipelines.core.precision import Accuracy, Precision
from pipelines.planning.cards import Card
from pipelines.planning.cost_model import DISK_TO_HOST, HOST_TO_DEVICE, Rates, pass_seconds
from pipelines.planning.layout import Layout, Residence
from pipelines.planning.shapes import BF16, ModelShape

MEASURED = Card("H200", 141, (9, 0), 989.0, 4800)

ATTAINED = 0.656
"""Share of the measured card's published rate that products and attention attained together."""

MOVED_BYTES, MOVED_BYTES_COMPILED = 468.0, 150.0
"""Bytes at the published bandwidth per channel, token and block: 1.31 s and 0.42 s for 40 blocks and two passes."""

REST_SECONDS = 1e-7
"""Seconds for each pixel of each frame, on the measured card: encoding the prompt, decoding, writing the file."""

SPREAD, SPREAD_MEASURED = 0.25, 0.15
"""How far a card may be from its estimate either way; assumed, for a card that was not measured."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of a video and of one step, each as the least and the most that is expected, and what they assume.

    Loading the model is not counted. `assumes` has sentences.
    """

    video: tuple[float, float]
    step: tuple[float, float]
    assumes: tuple[str, ...]


def estimate(
    shape: ModelShape, video: Geometry, layout: Layout, card: Card, steps: int, *, compiles: bool = True
) -> Estimate:
    """The time of a video by a layout on a card. `compiles`: blocks may be compiled, where the layout allows it."""
    is_measured = card.name == MEASURED.name
    spread = SPREAD_MEASURED if is_measured else SPREAD
    may_compile = compiles and _may_be_compiled(layout)
    passes = (2 if shape.guidance else 1) / (1 + layout.batched)
    moved = (MOVED_BYTES_COMPILED if may_compile else MOVED_BYTES, MOVED_BYTES)
    fastest, slowest = (passes * pass_seconds(shape, video, layout, _rates(card, each)) for each in moved)
    rest = _rest_seconds(shape, video, layout, card)
    step = fastest * (1 - spread), slowest * (1 + spread)
    whole = steps * step[0] + rest * (1 - spread), steps * step[1] + rest * (1 + spread)
    return Estimate(whole, step, tuple(_assumptions(shape, layout, card, is_measured, may_compile)))


def _rates(card: Card, moved_bytes: float) -> Rates:
    return Rates(card.tflops * 1e12 * ATTAINED, card.bandwidth * 1e9, moved_bytes)


def _may_be_compiled(layout: Layout) -> bool:
    formats = (Precision.BF16, Precision.FP8_MATMUL, Precision.INT8_MATMUL)
    return layout.transformer is Residence.RESIDENT and not layout.slice_tokens and layout.precision in formats


def _rest_seconds(shape: ModelShape, video: Geometry, layout: Layout, card: Card) -> float:
    pixels = video.full_width * video.full_height * video.full_num_frames
    encoder = shape.encoder_parameters * BF16
    copying = {
        Residence.RESIDENT: 0.0,
        Residence.STREAMED: encoder / HOST_TO_DEVICE,
        Residence.DISK: encoder / DISK_TO_HOST,
    }[layout.text_encoder]
    return pixels * REST_SECONDS * MEASURED.tflops / card.tflops + copying


def _assumptions(shape: ModelShape, layout: Layout, card: Card, is_measured: bool, may_compile: bool) -> list[str]:
    spread = round(100 * (SPREAD_MEASURED if is_measured else SPREAD))
    if is_measured:
        sentences = [
            f"From an H200 measured with Wan2.1 14B, random weights, 832x480 and 81 frames, {spread} % either way."
        ]
    else:
        sentences = [
            "Estimated: this card has not been measured. Scaled from a measured H200 by published rates, "
            f"{card.tflops:g} of {MEASURED.tflops:g} bf16 TFLOP/s and {card.bandwidth:g} of {MEASURED.bandwidth:g} "
            f"GB/s, {spread} % either way."
        ]
    guidance = "two passes a step, as guidance needs" if shape.guidance else "one pass a step, without guidance"
    sentences.append(
        f"It assumes {guidance}, exact attention, no step skipped by the step cache, a GPU that no other program uses, "
        "and a loaded model."
    )
    if Residence.STREAMED in (layout.transformer, layout.text_encoder):
        sentences.append(f"Weights are copied from host memory at {HOST_TO_DEVICE / 1e9:g} GB/s.")
    if Residence.DISK in (layout.transformer, layout.text_encoder):
        sentences.append(f"Weights are read from disk at {DISK_TO_HOST / 1e9:g} GB/s.")
    if may_compile:
        sentences.append("The lower figure is with compiled blocks.")
    if layout.accuracy is Accuracy.HIGH:
        sentences.append("The H200 was measured with a bf16 residual stream; the time of an fp32 one is not known.")
    return sentences
